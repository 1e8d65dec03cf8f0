"""Evidence on real photographs: 51 of COCO learnt by heart, and blood cells from few images."""

import argparse
import json
import os
import random
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from derive_grounding import derive
from detectron2.engine import default_argument_parser
from evidence_record import Cost, facts, write_json

from detclip2.cli import main as detclip2
from detclip2.config import apply_overrides, build_model, load_config
from detclip2.engine.train_loop import evaluate, set_up, train
from detclip2.utils.errors import UserError
from detclip2.utils.model_folder import CONFIG_NAME, WEIGHTS_NAME, save_weights
from detclip2.utils.weights import load_weights

ROOT = Path(__file__).resolve().parents[1]
OVERFIT = ROOT / "projects" / "DetCLIPv2" / "configs" / "benchmark" / "photographs.py"
SCRATCH = ROOT / "projects" / "DetCLIPv2" / "configs" / "emoji_nano_detection.py"
BCCD_IMAGES = (10, 50, 205)


def add_photo_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("what", choices=("overfit", "bccd"))
    parser.add_argument("--data", type=Path, default=os.environ.get("DETCLIP2_TEST_DATA"),
                        help="folder with coco_open/ and bccd/ ($DETCLIP2_TEST_DATA)")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE",
                        help="overfit: of its config")  # fmt: skip
    parser.add_argument("--model", type=Path, help="bccd: folder of the weights to start from; "
                        "without it, from scratch")  # fmt: skip
    parser.add_argument("--label", default="given weights", help="bccd: what tables call them")
    parser.add_argument("--images", type=int, nargs="+", default=list(BCCD_IMAGES),
                        help="bccd: numbers of training images")  # fmt: skip
    parser.add_argument("--iterations", type=int, default=400, help="bccd: for every number")


def run_photos(args: argparse.Namespace) -> None:
    """Run what is asked for, and write a json for each run.

    Raises:
        UserError: the data is missing, or a run cannot be made.
    """
    if args.data is None:
        raise UserError("--data: say where coco_open/ and bccd/ are, or set DETCLIP2_TEST_DATA")
    if args.what == "overfit":
        print(overfit(args), file=sys.stderr)
        return
    for number in args.images:
        print(blood_cells(args, number), file=sys.stderr)


def overfit(args: argparse.Namespace) -> Path:
    """Learn the photographs of coco_open by heart, from boxes, derived grounding and captions."""
    file = args.results / "photos" / f"overfit-seed{args.seed}.json"
    if file.is_file():
        return file
    folder = args.output / "photos" / f"overfit-seed{args.seed}"
    number = prepare_coco_open(args.data / "coco_open", folder / "json")
    cfg, name = load_config(OVERFIT)
    apply_overrides(cfg, args.set, name)
    chosen = [
        f"train.output_dir='{folder}'",
        f"train.seed={args.seed}",
        f"coco.folder='{args.data / 'coco_open'}'",
        f"coco.json='{folder / 'json'}'",
        *args.set,
    ]
    ready = set_up(default_argument_parser().parse_args(["--config-file", str(OVERFIT), *chosen]))
    model: Any = build_model(ready, str(OVERFIT)).to(ready.train.device)
    with Cost(folder):
        results = train(ready, model, resume=True)
    label = "COCO, learnt by heart: AP on the training images"
    record = {"label": label, "training_images": number, "cost": Cost.of(folder)}
    write_json(
        file,
        facts(cfg, "overfit", args.seed, "photos overfit", args.set)
        | record
        | {"results": results},
    )
    return file


def prepare_coco_open(data: Path, folder: Path) -> int:
    """Write instances, captions and derived grounding of both splits together; their images."""
    together: dict[str, dict[str, Any]] = {}
    for kind in ("instances", "captions"):
        parts = {
            split: json.loads((data / "annotations" / f"{kind}_{split}.json").read_text("utf-8"))
            for split in ("train2017", "val2017")
        }
        together[kind] = joined(parts)
        write_json(folder / f"{kind}.json", together[kind])
    write_json(folder / "grounding.json", derive(together["instances"], together["captions"]))
    return len(together["instances"]["images"])


def joined(parts: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """COCO jsons of several folders as one, whose file names begin with the folder."""
    whole: dict[str, Any] = {**next(iter(parts.values())), "images": [], "annotations": []}
    for folder, content in parts.items():
        for image in content["images"]:
            whole["images"].append({**image, "file_name": f"{folder}/{image['file_name']}"})
        whole["annotations"] += content["annotations"]
    return whole


def blood_cells(args: argparse.Namespace, number: int) -> Path:
    """Fine-tune on so many images of BCCD, chosen by the seed; AP on its test split."""
    start = "scratch" if args.model is None else "given"
    name = f"bccd-{start}-{number}-seed{args.seed}"
    file = args.results / "photos" / f"{name}.json"
    if file.is_file():
        return file
    data, folder = args.data / "bccd", args.output / "photos" / name
    content = json.loads((data / "train.json").read_text("utf-8"))
    subset = chosen_images(content, number, args.seed)
    json_file = args.output / "photos" / f"{name}.train.json"
    write_json(json_file, subset)
    model = args.model or fresh_model(
        args.output / "photos" / f"scratch-seed{args.seed}", args.seed
    )
    command = [
        "finetune", "--train", str(json_file), "--val", str(data / "val.json"),
        "--images", str(data / "images"), "--output", str(folder), "--model", str(model),
        "--size", "320", "--batch-size", "8", "--iterations", str(args.iterations),
        "--seed", str(args.seed),
    ]  # fmt: skip
    with Cost(args.output / "photos" / f"{name}.cost"):
        if not (folder / WEIGHTS_NAME).is_file() and detclip2(command) != 0:
            raise UserError(f"detclip2 {' '.join(command)} has failed; see above")
    cfg, _ = load_config(folder / CONFIG_NAME)
    cfg.dataloader.test.dataset.update(json_file=str(data / "test.json"), name="bccd_test")
    cfg.dataloader.evaluator.output_dir = str(folder / "test")
    tuned: Any = build_model(cfg).to(cfg.train.device).eval()
    load_weights(tuned, folder / WEIGHTS_NAME)
    results = evaluate(cfg, tuned)
    used, label = f"photos bccd --images {number} --iterations {args.iterations}", "scratch"
    if args.model is not None:
        used += f" --model {portable_path(args.model)} --label {shlex.quote(args.label)}"
        label = args.label
    record = {
        "label": f"blood cells, from {label}",
        "training_images": len(subset["images"]),
        "cost": Cost.of(args.output / "photos" / f"{name}.cost"),
        "results": results,
    }
    write_json(file, facts(cfg, name, args.seed, used) | record)
    return file


def portable_path(path: Path) -> Path:
    """As in this repository; of others the last name alone: a result has no machine's paths."""
    path = path.resolve()
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else Path(path.name)


def chosen_images(content: dict[str, Any], number: int, seed: int) -> dict[str, Any]:
    """So many images, those of a smaller number among those of a larger one, with their boxes."""
    images = list(content["images"])
    random.Random(seed).shuffle(images)
    taken = {image["id"] for image in images[:number]}
    return {
        **content,
        "images": [image for image in content["images"] if image["id"] in taken],
        "annotations": [one for one in content["annotations"] if one["image_id"] in taken],
    }


def fresh_model(folder: Path, seed: int) -> Path:
    """A model folder with the nano model as it is before any training."""
    if not (folder / WEIGHTS_NAME).is_file():
        arguments = [f"train.output_dir='{folder}'", f"train.seed={seed}"]
        parser = default_argument_parser()
        cfg = set_up(parser.parse_args(["--config-file", str(SCRATCH), *arguments]))
        save_weights(build_model(cfg, str(SCRATCH)), folder)
    return folder
