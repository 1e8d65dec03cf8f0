"""Experiments on real images: overfitting 51 of COCO, and blood cells from few images."""

import argparse
import json
import random
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detectron2.engine import default_argument_parser

from detclip2.cli import main as detclip2
from detclip2.config import apply_overrides, build_model, load_config
from detclip2.engine.train_loop import evaluate, set_up, train
from detclip2.utils.errors import UserError
from detclip2.utils.model_folder import CONFIG_NAME, SHIPPED, WEIGHTS_NAME, save_weights
from detclip2.utils.weights import load_weights
from scripts.derive_grounding import derive

from . import PROJECT
from .record import Cost, forget, provenance, say_there, write_json

ROOT = PROJECT.parents[1]
OVERFIT = PROJECT / "configs" / "photographs.py"
SCRATCH = ROOT / "projects" / "DetCLIPv2" / "configs" / "emoji_nano_detection.py"


def run_photos(args: argparse.Namespace) -> None:
    """Run an experiment, and write a json for each of its runs.

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
    """Overfit the images of coco_open, from boxes, derived grounding and captions."""
    file = args.results / "photos" / f"overfit-seed{args.seed}.json"
    folder = args.output / "photos" / f"overfit-seed{args.seed}"
    if args.force:
        forget(file, folder)
    if file.is_file():
        say_there()
        return file
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
    label = "COCO, overfit: AP on the training images"
    record = {"label": label, "training_images": number, "cost": Cost.of(folder)}
    write_json(
        file,
        provenance(cfg, "overfit", args.seed, "photos overfit", args.set)
        | record
        | {"results": results},
    )
    return file


def prepare_coco_open(data: Path, folder: Path) -> int:
    """Write instances, captions and derived grounding of both splits; returns how many images."""
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
    """Join COCO jsons of several folders; file names then begin with the folder."""
    whole: dict[str, Any] = {**next(iter(parts.values())), "images": [], "annotations": []}
    for folder, content in parts.items():
        for image in content["images"]:
            whole["images"].append({**image, "file_name": f"{folder}/{image['file_name']}"})
        whole["annotations"] += content["annotations"]
    return whole


def blood_cells(args: argparse.Namespace, number: int) -> Path:
    """Fine-tune on `number` images of BCCD, chosen by the seed; measure AP on its test split."""
    start = "scratch" if args.model is None else "given"
    name = f"bccd-{start}-{number}-seed{args.seed}"
    file = args.results / "photos" / f"{name}.json"
    data, folder = args.data / "bccd", args.output / "photos" / name
    if args.force:
        forget(file, folder)
    if file.is_file():
        say_there()
        return file
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
    cfg, _ = load_config(folder / CONFIG_NAME, trust_config=True)
    cfg.dataloader.test.dataset.update(json_file=str(data / "test.json"), name="bccd_test")
    cfg.dataloader.evaluator.output_dir = str(folder / "test")
    tuned: Any = build_model(cfg).to(cfg.train.device).eval()
    load_weights(tuned, folder / WEIGHTS_NAME)
    results = evaluate(cfg, tuned)
    used, label = f"photos bccd --images {number} --iterations {args.iterations}", "scratch"
    if args.model is not None:
        given = args.model if args.model in SHIPPED else portable_path(args.model)
        used += f" --model {given} --label {shlex.quote(args.label)}"
        label = args.label
    record = {
        "label": f"blood cells, from {label}",
        "training_images": len(subset["images"]),
        "cost": Cost.of(args.output / "photos" / f"{name}.cost"),
        "results": results,
    }
    write_json(file, provenance(cfg, name, args.seed, used) | record)
    return file


def portable_path(path: Path) -> Path:
    """A path relative to this repository; of a path outside, its last name alone."""
    path = path.resolve()
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else Path(path.name)


def chosen_images(content: dict[str, Any], number: int, seed: int) -> dict[str, Any]:
    """`number` images with their boxes; fewer images are a subset of more, for the same seed."""
    images = list(content["images"])
    random.Random(seed).shuffle(images)
    taken = {image["id"] for image in images[:number]}
    return {
        **content,
        "images": [image for image in content["images"] if image["id"] in taken],
        "annotations": [one for one in content["annotations"] if one["image_id"] in taken],
    }


def fresh_model(folder: Path, seed: int) -> Path:
    """A model folder with the untrained nano model."""
    if not (folder / WEIGHTS_NAME).is_file():
        arguments = [f"train.output_dir='{folder}'", f"train.seed={seed}"]
        parser = default_argument_parser()
        cfg = set_up(parser.parse_args(["--config-file", str(SCRATCH), *arguments]))
        save_weights(build_model(cfg, str(SCRATCH)), folder)
    return folder
