"""How much of a model a fine-tuning changes: GLIP's levels (arXiv 2112.03857, sec. 5.3), and LoRA.

| level | what learns |
|---|---|
| full | everything that learns in the model's own training |
| head | the last layers: regions, boxes, centerness and the similarity (linear probing) |
| prompt | an offset of the text of each name; images see the same model |
| lora | low-rank matrices beside the weights of backbone, text model and towers |
"""

from collections.abc import Sequence
from typing import cast

from omegaconf import DictConfig, OmegaConf

from detclip2.data.text.clean import clean_phrase
from detclip2.utils.errors import UserError

LEVELS = ("full", "head", "prompt", "lora")
RANK = 8
HEAD = (
    *("head.region.", "head.box.", "head.centerness.", "head.objectness."),
    *("align.", "token_head.", "text_tower.projection."),
)
OFFSETS = ("text_tower.token_offsets.", "text_tower.phrase_offsets.")
NAMES = "model.text_tower.prompt_names"
# Learning rate and weight decay of offsets: those of GLIP for states of tokens, and a lower rate
# for embeddings of unit length.
OF_TOKENS, OF_PHRASES = (0.05, 0.25), (0.01, 0.01)


def set_level(cfg: DictConfig, level: str, names: Sequence[str], lr: float | None) -> None:
    """Make the config of a full fine-tuning one of another level.

    Args:
        cfg: the config.
        level: one of `LEVELS`.
        names: category names, which get the offsets.
        lr: the user's learning rate; None: that of the level.

    Raises:
        UserError: the model has no text tower, or has offsets already.
    """
    if level == "head":
        cfg.train.learn = list(HEAD)
    elif level == "lora":
        cfg.train.lora = {"rank": RANK}
    elif level == "prompt":
        tower = OmegaConf.select(cfg, "model.text_tower")
        if tower is None:
            raise UserError("--tune prompt: the model has no text tower")
        if tower.get("prompt_names"):
            raise UserError(
                "--tune prompt: the model has tuned prompts already; start from the model that "
                "they were tuned with"
            )
        OmegaConf.update(cfg, NAMES, [clean_phrase(name) for name in names], force_add=True)
        cfg.train.learn = list(OFFSETS)
        is_of_tokens = "TokenTower" in str(tower.get("_target_"))
        rate, decay = OF_TOKENS if is_of_tokens else OF_PHRASES
        cfg.optimizer.update(lr=lr or rate, weight_decay=decay)


def untuned(cfg: DictConfig) -> DictConfig:
    """The config of the model that a tuning starts from, which has no offsets."""
    if not OmegaConf.select(cfg, NAMES):
        return cfg
    without = OmegaConf.create({"model": {"text_tower": {"prompt_names": []}}})
    return cast(DictConfig, OmegaConf.merge(cfg, without))
