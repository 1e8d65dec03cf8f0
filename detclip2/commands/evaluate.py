"""``detclip2 evaluate``: AP of a model on own annotations, or on the test sets of its config."""

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from detclip2.commands.model_arguments import add_model_arguments, config_and_weights
from detclip2.commands.numbers import edge
from detclip2.commands.output_folder import new_folder
from detclip2.commands.tables import console_for_tables
from detclip2.config import (
    apply_overrides,
    build_model,
    get_config,
    inference_settings,
    load_model_config,
)
from detclip2.engine import train_loop
from detclip2.engine.hooks.progress import Watched, bars
from detclip2.engine.runtime import keep_freed_memory
from detclip2.engine.test_sets import check_test_sets
from detclip2.evaluation.protocol import Protocol
from detclip2.evaluation.worst_errors import write_worst_errors
from detclip2.finetuning.config import evaluation_nodes
from detclip2.finetuning.parts import names_of, read_parts
from detclip2.finetuning.report import ROWS_SHOWN, report_data, report_scores, score
from detclip2.utils.devices import checked_device
from detclip2.utils.errors import UserError
from detclip2.utils.files import write_json
from detclip2.utils.repository import config_of_user
from detclip2.utils.weights import load_weights

RESULTS_NAME = "evaluation.json"

EXAMPLE = "detclip2 evaluate --model model --val val.json --images images --output results"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--val", type=Path, nargs="+", metavar="JSON", help="annotations in COCO's "
                        "format (default: the test sets of the model's config)")  # fmt: skip
    parser.add_argument("--images", type=Path, nargs="+", metavar="DIR", help="folder that "
                        "file_name is relative to: one, or one for each file")  # fmt: skip
    parser.add_argument("--exhaustive", action="store_true", help="every name of any file is "
                        "absent where it has no box")  # fmt: skip
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="a new folder")
    parser.add_argument("--size", type=edge, metavar="PX", help="shorter edge of the images "
                        "(default: the model's)")  # fmt: skip
    parser.add_argument("--errors", action="store_true", help="with --val: draw the images with "
                        "the most errors, as errors/index.html, and write all errors for FiftyOne, "
                        "as errors/detections.json")  # fmt: skip
    add_model_arguments(parser)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="config changes, such as "
                        "lvis.split=lvis_v1_val")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Evaluate, print tables and protocols, and write them as json."""
    if (args.val is None) != (args.images is None):
        raise UserError("--val and --images go together: annotations, and the folder of the images")
    if args.errors and args.val is None:
        raise UserError("--errors needs --val: errors are drawn on annotations in COCO's format")
    console = console_for_tables()
    device = str(checked_device(args.device))
    config, weights = config_and_weights(args)
    config = Path(config_of_user(config))
    output = args.output.resolve()
    with new_folder(output):
        cfg, name = load_model_config(config, args.trust_config)
        cfg.train = OmegaConf.merge(get_config("train.py").train, cfg.get("train", {}))
        cfg.train.update(output_dir=str(output), device=device, fast_dev_run=False)
        apply_overrides(cfg, args.overrides, name)
        inference_settings(cfg, name)
        if args.size:
            cfg.inference.update(min_size=args.size, max_size=round(args.size * 1333 / 800))
        if args.val:
            cfg.dataloader = _own_data(args, output, console)
        elif not train_loop.evaluation_nodes(cfg):
            raise UserError(f"{name} has no test set: give --val and --images")
        check_test_sets(cfg, train_loop.evaluation_nodes(cfg).values())
        if device == "cpu":
            keep_freed_memory()
        model: Any = build_model(cfg, name).to(device)
        load_weights(model, weights)
        protocols: list[Protocol] = []
        results = measure(cfg, model, "dataloader", console, protocols)
    report = {"weights": str(weights), "protocols": [*map(asdict, protocols)], **results}
    write_json(output / RESULTS_NAME, report, indent=2)
    if args.val:
        report_scores(console, "AP in percent", {"all": results["bbox"]})
    else:
        for title, metrics in _groups(results):
            console.print(_table(title, metrics))
    for protocol in protocols:
        console.print(Text(str(protocol)), soft_wrap=True)
    console.print(Text(f"results: {output / RESULTS_NAME}"), soft_wrap=True)
    if args.errors:
        dataset = cfg.dataloader.test.dataset
        page = write_worst_errors(
            Path(dataset.json_file),
            output / "inference" / "coco_instances_results.json",
            Path(dataset.image_root),
            output / "errors",
            results=results["bbox"],
        )
        console.print(Text(f"the worst errors: {page}"), soft_wrap=True)
    return 0


def measure(
    cfg: DictConfig,
    model: Any,
    part: str,
    console: Console,
    protocols: list[Protocol] | None = None,
) -> dict[str, Any]:
    """Evaluate on the test sets of a part of a config, with a bar at a terminal.

    Args:
        cfg: the config.
        model: its model.
        part: see `detclip2.engine.train_loop.evaluate`.
        console: where to show the progress.
        protocols: gets the protocols.
    """
    for node, loader in train_loop.evaluation_nodes(cfg, part).values():
        name = OmegaConf.select(cfg, f"{node}.{loader}.dataset.name")
        console.print(Text(f"measuring on {name or node} ..."), soft_wrap=True)
    with bars(console) as progress:
        return train_loop.evaluate(
            cfg,
            model.eval(),
            part,
            watch=lambda loader: Watched(loader, progress),
            protocols=protocols,
        )


def _own_data(args: argparse.Namespace, output: Path, console: Console) -> dict[str, Any]:
    """The node ``dataloader`` for the checked annotations, which are written into the folder."""
    own, merges = read_parts({"val": args.val}, args.images, args.exhaustive)
    names = names_of(own)
    report_data(console, own, names, merges, args.exhaustive)
    path = output / "data" / "val.json"
    write_json(path, own["val"].to_coco(names))
    root = own["val"].image_root.resolve()
    return evaluation_nodes(path, root, args.val[0].stem)


def _groups(results: Mapping[str, Any], title: str = "") -> Iterator[tuple[str, dict[str, float]]]:
    """The groups of numbers in nested results, such as "lvis/bbox_fixed"."""
    if numbers := {key: one for key, one in results.items() if not isinstance(one, Mapping)}:
        yield title, numbers
    for key, one in results.items():
        if isinstance(one, Mapping):
            yield from _groups(one, f"{title}/{key}".lstrip("/"))


def _table(title: str, numbers: Mapping[str, float]) -> Table:
    table = Table(title, box=SIMPLE_HEAD)
    table.add_column("percent", justify="right")
    for name, value in [*numbers.items()][:ROWS_SHOWN]:
        table.add_row(Text(name, overflow="fold"), score(value))
    return table
