r"""Make a model folder of a row of the benchmark: weights, config, vocabulary and card.

    python -m projects.EmojiScenes.tools.ship_model output/evidence/standard/all-seed0 \
        projects/EmojiScenes/results/standard/all-seed0.json

Without ``--output``, it becomes the model that ships with the package; run the command for
``examples.safetensors`` in its card after it. Weights are kept in half
precision, which changes no more of a score than its fourth digit. All numbers of the card are of
the json that the run wrote; ``results.json`` has them too, beside those of the folder's own files
on the first 50 validation scenes, which ``tests/inference/test_shipped_model.py`` reproduces.
"""

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import detclip2  # noqa: F401  (first, as it offers the stand-in for Detectron2)

# isort: split
from omegaconf import DictConfig
from safetensors.torch import save

from detclip2 import OpenVocabularyPredictor
from detclip2.config import load_config
from detclip2.data.emojiscenes.categories import World, make_world, names_of
from detclip2.engine.train_loop import evaluate
from detclip2.utils.files import write_whole
from detclip2.utils.model_folder import SHIPPED, WEIGHTS_NAME, read_model_folder
from projects.EmojiScenes.evidence.record import write_json
from projects.shipping import forget_machine, halved, write_config

CHECKED_SCENES = 50
KNOWS = (
    "emoji_nano knows drawn emoji only, and has never seen a photograph: on other images "
    "its answers mean nothing. Train it on yours (detclip2 finetune --help), or name another one "
    "with --model"
)

CARD = """# emoji_nano: a small model of drawn emoji

It finds emoji in drawn scenes by their names. **It has never seen a photograph**: on photographs,
what it says means nothing. It is for the demo, for trying the commands, and as a start for
fine-tuning on small machines.

- Model: DetCLIPv2 at the nano size: resnet10t backbone, 3-layer text tower, {parameters:.1f} M
  parameters.
- Data: EmojiScenes, a world of {categories:,} categories at {size} px: {base} base ones, which have
  boxes, and {novel} novel ones, which only captions name.
- Seen in training: {images}{growth}.
- Command: `{command}`
- Code: commit {commit}, {date}; {minutes:.0f} minutes of processor time on one of {cores} cores
  ({processor}, {device}).
- Licence: Apache-2.0, as the code. Scenes are drawn from the font Noto Color Emoji (SIL OFL 1.1),
  of which the files here hold no glyph.

| test set | AP | AP50 | base, frequent (APf) | base, common (APc) | novel (APr) | right names (%) |
|---|---|---|---|---|---|---|
{rows}

Fixed AP of {scenes:,} scenes each, by the protocol of `projects/EmojiScenes`; *right names* are of
the boxes of base and of novel categories whose best detection has the right name before all others.

Files: `model.safetensors` (half precision), `config.yaml` (runs again with `train_net.py`),
`vocabulary.safetensors` (the {categories:,} names, encoded) and `results.json` (these numbers, and
those of these files on the first {checked} validation scenes). The tokenizer is in
`detclip2/resources/text_tower_nano`. `examples.safetensors`, for example boxes in place of names,
was fitted by `python scripts/fit_examples.py --model emoji_nano --scenes 2500`.

What it is bad at: names that no training showed (its text tower knows the words of this world, not
English), novel names where base names are asked for too, small and hidden things, and other art
styles than the font's.
"""


def main() -> None:
    """Read the command line and write the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="the folder of a run of the benchmark")
    parser.add_argument("record", type=Path, help="the json that the run wrote")
    parser.add_argument(
        "--output", type=Path, default=SHIPPED["emoji_nano"], help="default: in the package"
    )
    args = parser.parse_args()
    ship(args.run, json.loads(args.record.read_text("utf-8")), args.output)


def ship(run: Path, record: Mapping[str, Any], output: Path) -> None:
    """Write the model folder of a run, and measure it.

    Raises:
        UserError: the run has no model.
    """
    config, weights = read_model_folder(run)
    state = halved(weights)
    write_whole(output / WEIGHTS_NAME, lambda file: file.write(save(state)))
    cfg, _ = load_config(config)
    forget_machine(cfg)
    cfg.dataloader.test.dataset.folder = "${train.output_dir}/data"
    # The growth of the world belongs to the benchmark; a user's own training has none.
    cfg.lr_multiplier.decay_start = int(cfg.lr_multiplier.decay_start)
    growth = cfg.pop("benchmark").growth
    cfg.knows = KNOWS
    write_config(cfg, output)
    world = make_world(cfg.world.categories)
    predictor = OpenVocabularyPredictor(*read_model_folder(output), device="cpu")
    predictor.encode(names_of(world.seen)).save(output / "vocabulary.safetensors")
    shipped = {"scenes": CHECKED_SCENES, **measure(predictor.model, cfg, CHECKED_SCENES)}
    write_json(output / "results.json", {**without_curves(record), "shipped": shipped})
    parameters = sum(p.numel() for p in predictor.model.parameters()) / 1e6
    text = card(record, cfg, world, growth, parameters)
    write_whole(output / "README.md", lambda file: file.write(text.encode()))


def measure(model: Any, cfg: DictConfig, scenes: int) -> dict[str, float]:
    """AP on the first validation scenes of the config's world, in percent."""
    cfg = cfg.copy()
    with tempfile.TemporaryDirectory() as folder:
        cfg.train.output_dir = folder
        cfg.dataloader.test.dataset.update(name=f"emoji_val_{scenes}", count=scenes)
        results = evaluate(cfg, model)
    return {key: results["bbox"][key] for key in ("AP", "AP50", "APr", "APc", "APf")}


def without_curves(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record without its training curves."""
    return {key: value for key, value in record.items() if key != "curves"}


def card(
    record: Mapping[str, Any],
    cfg: DictConfig,
    world: World,
    growth: Sequence[tuple[int, int]],
    parameters: float,
) -> str:
    """The text of the model card.

    Args:
        record: the json of the run.
        cfg: of the run.
        world: its categories.
        growth: (categories, last iteration) of the smaller worlds before it.
        parameters: of the model, in millions.
    """
    seconds = sum(record[key]["processor_seconds"] for key in ("cost", "shared_start"))
    return CARD.format(
        parameters=parameters,
        categories=len(world),
        base=len(world.base),
        novel=len(world.novel),
        size=cfg.world.size,
        scenes=cfg.dataloader.test.dataset.count,
        images=", ".join(f"{count:,} images of {s}" for s, count in record["images"].items()),
        growth="".join(f"; {n} categories until iteration {i:,}" for n, i in growth),
        minutes=seconds / 60,
        rows="\n".join(row(name, found) for name, found in record["results"].items()),
        checked=CHECKED_SCENES,
        **{key: record[key] for key in ("command", "commit", "date")},
        **{key: record["machine"][key] for key in ("processor", "cores", "device")},
    )


def row(name: str, found: Mapping[str, Any]) -> str:
    """The row of a test set in the table of the card."""
    ap, names = found["bbox_fixed"], found["names"]
    cells = [number(ap[key]) for key in ("AP", "AP50", "APf", "APc", "APr")]
    right = {key: value for key, value in names.items() if key.startswith("accuracy-")}
    splits = [f"{key.removeprefix('accuracy-')} {number(right[key])}" for key in right]
    return "| " + " | ".join([name, *cells, ", ".join(splits)]) + " |"


def number(value: float | None) -> str:
    """With one digit; a dash where there is none."""
    return "-" if value is None else f"{value:.1f}"


if __name__ == "__main__":
    main()
