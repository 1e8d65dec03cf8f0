r"""Make the model folder of a GLIPv2 of EmojiScenes: weights, config, results and card.

    python -m projects.GLIPv2.tools.ship_model output/glipv2_all --history history.txt

The run is one of ``emoji_glipv2_nano_all``. Without ``--output``, it becomes the model that ships
with the package. Weights are kept in half precision, and all numbers are measured on the files of
the folder: those of the card on the whole test sets, and those of the first scenes of each, which
``tests/inference/test_glipv2_nano.py`` reproduces. The text of the history says what was trained,
by which commands, in what time, and after a line of three dashes what the model is bad at.
"""

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import detclip2  # noqa: F401  (first, as it offers the stand-in for Detectron2)

# isort: split
from omegaconf import DictConfig
from safetensors.torch import save

from detclip2 import OpenVocabularyPredictor
from detclip2.config import load_config
from detclip2.data.emojiscenes.categories import make_world
from detclip2.engine.train_loop import evaluate, metrics_of
from detclip2.utils.files import write_whole
from detclip2.utils.model_folder import SHIPPED, WEIGHTS_NAME, read_model_folder
from projects.EmojiScenes.evidence.record import write_json
from projects.shipping import forget_machine, halved, write_config

CHECKED_SCENES = 40
KNOWS = (
    "glipv2_nano knows drawn emoji of {names} names and the sentences of EmojiScenes only: of "
    "other images and words its answers mean nothing. Train it on yours, or name another model "
    "with --model"
)
# Figure of the card -> (key of the result, what it is).
FIGURES = {
    "detection: AP, names with boxes": ("bbox/AP-base", "standard AP"),
    "detection: AP, names without a box": ("bbox/AP-novel", "standard AP"),
    "masks: AP, names with boxes": ("segm/AP-base", "the same, by the IoU of masks"),
    "grounding: R@1": ("phrases/any_box/R@1", "of the phrases of captions that mean one of two"),
    "referring masks: mIoU": ("references/masks/mIoU", "of the same phrases"),
    "masked words": ("words/masked_words/accuracy", "right, of the words masked in captions"),
    "masked words, image hidden": ("words/masked_words/without_image", "the same words"),
    "questions: accuracy": ("questions/vqa/accuracy", "VQA's official protocol"),
    "questions: best guess without an image": ("questions/vqa/prior accuracy", "the same"),
    "captions: precision of names": ("captions/captions/name precision", "names in the caption"),
    "captions: recall of names": ("captions/captions/name recall", "names in the scene"),
    "captions: CIDEr": ("captions/captions/CIDEr", "in percent"),
}

CARD = """# glipv2_nano: a small model that detects, segments, grounds, answers and describes

One set of weights for all tasks of GLIPv2, on drawn scenes of emoji ({categories} names at {size}
px: {base} with boxes, {novel} without, which it does not know). **It has never seen a photograph**,
and reads no English beyond the sentences of EmojiScenes. It is for trying the commands:
`detclip2 predict --names`, `--caption` and `--masks`, `detclip2 ask` and `detclip2 caption`, each
with `--model glipv2_nano`.
`detclip2 scenes --world {categories} --size {size} --count 4 --output scenes` draws scenes for it.

- Names with boxes: {names}.
- Names without boxes: {unknown}.
- Model: GLIPv2 at the nano size, {parameters:.1f} M parameters: resnet10t backbone, 3-layer BERT,
  2 blocks of fusion, heads for masks and answers; captions need no further weights.
- Licence: Apache-2.0, as the code. Scenes are drawn from the font Noto Color Emoji (SIL OFL 1.1),
  of which the files here hold no glyph.

## Training

{history}

## Results

| figure | here | of what |
|---|---|---|
{rows}

On {scenes} scenes, or {questions:,} questions, of each test set of `emoji_glipv2_nano_all`, with
these files.

## What it is bad at

{bad}

Files: `model.safetensors` (half precision), `config.yaml` (evaluates and trains on), and
`results.json` (all numbers, and those of the first {checked} scenes of each test set).
"""


def shipped_config(cfg: DictConfig) -> DictConfig:
    """The config of a run without what belongs to the machine that trained."""
    forget_machine(cfg)
    cfg.dataloader.test.dataset.folder = "${train.output_dir}/data"
    cfg.knows = KNOWS.format(names=len(make_world(cfg.world.categories).base))
    return cfg


def measure(cfg: DictConfig, model: Any, scenes: int | None = None) -> dict[str, Any]:
    """All results of a model by name, on the first ``scenes`` of each test set; None: on all."""
    cfg = cfg.copy()
    if scenes is not None:
        cfg.dataloader.test.dataset.update(name=f"emoji_val_{scenes}", count=scenes)
        for name, test in cfg.dataloader.tests.items():
            test.loader.dataset.update(name=f"emoji_{name}_{scenes}")
            test.loader.dataset.records.count = scenes
            test.evaluator.dataset_name = f"emoji_{name}_{scenes}"
    with tempfile.TemporaryDirectory() as folder:
        cfg.train.output_dir = folder
        return metrics_of(evaluate(cfg, model))


def card(results: Mapping[str, float], cfg: DictConfig, parameters: int, text: str) -> str:
    """The text of the model card.

    Args:
        results: all results by name.
        cfg: of the model.
        parameters: of the model.
        text: what was trained, and after a line of three dashes what the model is bad at.
    """
    history, _, bad = text.partition("\n---\n")
    world = make_world(cfg.world.categories)
    return CARD.format(
        categories=len(world),
        base=len(world.base),
        novel=len(world.novel),
        names=", ".join(category.name for category in world.base),
        unknown=", ".join(category.name for category in world.novel),
        size=cfg.world.size,
        parameters=parameters / 1e6,
        history=history.strip(),
        rows="\n".join(
            f"| {name} | {results[key]:.1f} | {what} |" for name, (key, what) in FIGURES.items()
        ),
        bad=bad.strip(),
        scenes=cfg.dataloader.test.dataset.count,
        questions=cfg.dataloader.tests.questions.loader.dataset.records.count,
        checked=CHECKED_SCENES,
    )


def ship(run: Path, text: str, output: Path) -> None:
    """Write the model folder of a run, and measure it.

    Raises:
        UserError: the run has no model.
    """
    config, weights = read_model_folder(run)
    state = halved(weights)
    write_whole(output / WEIGHTS_NAME, lambda file: file.write(save(state)))
    cfg = shipped_config(load_config(config)[0])
    write_config(cfg, output)
    model = OpenVocabularyPredictor(*read_model_folder(output), device="cpu").model
    results = {
        "all": measure(cfg, model),
        "shipped": {"scenes": CHECKED_SCENES, **measure(cfg, model, CHECKED_SCENES)},
    }
    write_json(output / "results.json", results)
    parameters = sum(p.numel() for p in model.parameters())
    readme = card(results["all"], cfg, parameters, text)
    write_whole(output / "README.md", lambda file: file.write(readme.encode()))


def main() -> None:
    """Read the command line and write the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="the output folder of the training")
    parser.add_argument("--history", type=Path, required=True, help="text of the card")
    parser.add_argument(
        "--output", type=Path, default=SHIPPED["glipv2_nano"], help="default: in the package"
    )
    args = parser.parse_args()
    ship(args.run, args.history.read_text("utf-8"), args.output)


if __name__ == "__main__":
    main()
