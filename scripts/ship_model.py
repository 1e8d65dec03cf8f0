r"""Put the model of a training run into the package: weights, config, vocabulary and card.

    python scripts/ship_model.py output/pairs --commit COMMIT --machine "2 CPU cores, 42 minutes" \
        --command "python projects/DetCLIPv2/train_net.py --config-file CONFIG"

Weights are kept in half precision, which changes no more of a score than its fourth digit. The card
has the numbers that the run's own evaluation wrote; beside them are those of the shipped files on
the first 50 validation scenes, which ``tests/test_shipped_model.py`` reproduces.
"""

import argparse
import datetime
import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from detectron2.config import LazyConfig
from omegaconf import DictConfig
from safetensors.torch import save

from detclip2 import OpenVocabularyPredictor
from detclip2.config import load_config
from detclip2.data.sources.emoji.categories import make_world, names_of
from detclip2.engine.alternate_sources import Schedule
from detclip2.engine.train_keys import TRAIN
from detclip2.engine.training import evaluate
from detclip2.evaluation.protocol import Protocol
from detclip2.files import write_whole
from detclip2.model_folder import CONFIG_NAME, SHIPPED, WEIGHTS_NAME, read_model_folder
from detclip2.modeling.weights import read_weights

CHECKED_SCENES = 50

CARD = """# emoji_nano: the model that ships with the package

It finds emoji in drawn scenes by their names. **It has never seen a photograph**: on photographs,
what it says means nothing. It is for the demo, for trying the commands, and as a start for
fine-tuning on small machines.

- Model: DetCLIPv2 at the nano size: resnet10t backbone, 3-layer text tower, 3.8 M parameters.
- Data: EmojiScenes, a world of {categories} categories at {size} px: {base} base ones, which have
  boxes, and {novel} novel ones, which only captions name.
- Seen in training: {seen}.
- Command: `{command}`
- Code: commit {commit}. Trained until {date} on {machine}.
- Licence: Apache-2.0, as the code. Scenes are drawn from the font Noto Color Emoji (SIL OFL 1.1),
  of which the files here hold no picture.

| AP | AP50 | base, frequent (APf) | base, common (APc) | novel (APr) |
|---|---|---|---|---|
| {AP:.1f} | {AP50:.1f} | {APf:.1f} | {APc:.1f} | {APr:.1f} |

{protocol}

Files: `model.safetensors` (half precision), `config.yaml` (runs again with `train_net.py`),
`vocabulary.safetensors` (the {categories} names, encoded) and `results.json` (these numbers, and
those of these files on the first {checked} validation scenes). The tokenizer is in
`detclip2/resources/text_tower_nano`.

What it is bad at: names that no training showed (its text tower knows the words of this world, not
English), small and hidden things, other art styles than the font's.
"""


def main() -> None:
    """Read the command line and write the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="the output folder of a training")
    parser.add_argument("--commit", required=True, help="of the code that trained it")
    parser.add_argument("--command", required=True, help="that trained it")
    parser.add_argument("--machine", required=True, help="what it ran on, and how long")
    parser.add_argument("--before", default="", help="what its first weights had seen")
    args = parser.parse_args()
    config, weights = read_model_folder(args.run)
    write_whole(SHIPPED / WEIGHTS_NAME, lambda file: file.write(save(halved(weights))))
    cfg, _ = load_config(config)
    # Paths of the machine that trained it.
    cfg.train.update({key: TRAIN[key] for key in ("init_checkpoint", "output_dir")})
    LazyConfig.save(cfg, str(SHIPPED / CONFIG_NAME))
    world = make_world(cfg.world.categories)
    predictor = OpenVocabularyPredictor(*read_model_folder(SHIPPED), device="cpu")
    predictor.encode(names_of(world.seen)).save(SHIPPED / "vocabulary.safetensors")
    results = json.loads((args.run / "inference" / "results.json").read_text())
    results["shipped"] = {"scenes": CHECKED_SCENES, **measure(predictor.model, cfg)}
    text = json.dumps(results, indent=1) + "\n"
    write_whole(SHIPPED / "results.json", lambda file: file.write(text.encode()))
    card = CARD.format(
        categories=len(world),
        base=len(world.base),
        novel=len(world.novel),
        size=cfg.world.size,
        seen=images_seen(cfg) + (f"; before that, {args.before}" if args.before else ""),
        checked=CHECKED_SCENES,
        date=datetime.date.today(),
        protocol=Protocol(**results["protocol"]),
        **results["bbox"],
        **{key: getattr(args, key) for key in ("commit", "command", "machine")},
    )
    write_whole(SHIPPED / "README.md", lambda file: file.write(card.encode()))


def halved(weights: Path) -> dict[str, torch.Tensor]:
    """The weights with half the bytes; counters stay as they are."""
    state = read_weights(weights)
    return {name: t.half() if t.is_floating_point() else t for name, t in state.items()}


def measure(model: Any, cfg: DictConfig, scenes: int = CHECKED_SCENES) -> dict[str, float]:
    """AP on the first validation scenes of the config's world, in percent."""
    cfg = cfg.copy()
    with tempfile.TemporaryDirectory() as folder:
        cfg.train.output_dir = folder
        cfg.dataloader.test.dataset.update(name=f"emoji_val_{scenes}", count=scenes)
        results = evaluate(cfg, model)
    return {key: results["bbox"][key] for key in ("AP", "AP50", "APr", "APc", "APf")}


def images_seen(cfg: DictConfig) -> str:
    """How many images of each source the training saw."""
    keys, sources = cfg.train, cfg.dataloader.train
    ratios = keys.source_ratios or {"detection": 1}
    schedule = Schedule(ratios, keys.seed, starts=keys.source_starts)
    turns = Counter(map(schedule.source_of, range(keys.max_iter)))
    counts = [(name, turns[name] * sources[name].total_batch_size) for name in ratios]
    return ", ".join(f"{images:,} images of {name}" for name, images in counts)


if __name__ == "__main__":
    main()
