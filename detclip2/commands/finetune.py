"""``detclip2 finetune``: check annotations in COCO's format and train a model on them."""

import argparse
import contextlib
import io
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from detectron2.config import LazyConfig
from detectron2.engine import default_argument_parser
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from detclip2.commands.model_arguments import add_model_arguments, config_and_weights
from detclip2.commands.resumed_arguments import check_resumed, given, noted
from detclip2.commands.tables import console_for_tables
from detclip2.config import build_model, is_program, load_model_config
from detclip2.engine import train_loop
from detclip2.engine.step_cost import seconds_per_iteration
from detclip2.evaluation.worst_errors import write_worst_errors
from detclip2.finetuning.coco_check import FINDINGS, OwnData, read_own_data
from detclip2.finetuning.config import ZERO_SHOT, Data, Settings, finetune_config, set_iterations
from detclip2.finetuning.join import common_folder, join, rebase
from detclip2.finetuning.names import FileNames, Merge, reconcile
from detclip2.finetuning.partial_labels import Counts, count_labels
from detclip2.utils.errors import UserError
from detclip2.utils.files import write_json
from detclip2.utils.model_folder import CONFIG_NAME, WEIGHTS_NAME
from detclip2.utils.weights import load_weights

ROWS_SHOWN = 30
RESULTS_NAME = "finetune.json"
SCORES = ("AP", "AP50", "AP75")

EXAMPLE = "detclip2 finetune --train train.json --val val.json --images images --output model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--train", type=Path, nargs="+", required=True, metavar="JSON",
                        help="annotations to train on. The names that a file does not list are "
                        "unknown in its images")  # fmt: skip
    parser.add_argument("--val", type=Path, nargs="+", required=True, metavar="JSON",
                        help="annotations to measure AP on")  # fmt: skip
    parser.add_argument("--images", type=Path, nargs="+", required=True, metavar="DIR",
                        help="folder that file_name is relative to: one, or one for each file of "
                        "--train and then of --val")  # fmt: skip
    parser.add_argument("--exhaustive", action="store_true", help="every name of any file is "
                        "background where it has no box")  # fmt: skip
    parser.add_argument("--distinct", nargs="+", default=[], metavar="NAME", help="names that are "
                        "not merged with a plural or a synonym in another file")  # fmt: skip
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="a new folder")
    add_model_arguments(parser)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--iterations", type=_positive(int), metavar="N", help="length (default: "
                        "by the number of images)")  # fmt: skip
    length.add_argument("--max-minutes", type=_positive(float), metavar="X", help="shorten the "
                        "training to this time, estimated from a few steps")  # fmt: skip
    parser.add_argument("--batch-size", type=_positive(int), metavar="B", help="images per "
                        "iteration (default: the model's)")  # fmt: skip
    parser.add_argument("--size", type=_positive(int), metavar="PX", help="shorter edge of the "
                        "images (default: the model's)")  # fmt: skip
    parser.add_argument("--lr", type=_positive(float), metavar="X", help="learning rate (default: "
                        "the model's, by the square root of the batch size)")  # fmt: skip
    parser.add_argument("--mix", metavar="CONFIG/SOURCE", help="also train on a source of another "
                        "config, so that the model keeps its names")  # fmt: skip
    parser.add_argument("--mix-share", type=_share, metavar="X", help="share of "
                        "--mix in the iterations (default: 0.25)")  # fmt: skip
    parser.add_argument("--num-workers", type=int, metavar="N", help="processes that "
                        "read images (default: 2)")  # fmt: skip
    parser.add_argument("--seed", type=int, help="random seed (default: 0)")
    parser.add_argument("--resume", action="store_true", help="continue the run in --output, with "
                        "its arguments")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Check the data, train, and compare with the model before."""
    console = console_for_tables()
    output = args.output.resolve()
    if args.resume:
        if not (output / RESULTS_NAME).is_file():
            raise UserError(f"--resume: there is no fine-tuning to continue in {args.output}")
        results = json.loads((output / RESULTS_NAME).read_text("utf-8"))
        check_resumed(args, results.get("arguments", {}))
        cfg = _set_up(output, args.trust_config)
    else:
        with _new_folder(output):
            cfg = _new_run(args, output, console)
        results = json.loads((output / RESULTS_NAME).read_text("utf-8"))
    model: Any = build_model(cfg, str(output / CONFIG_NAME)).to(cfg.train.device)
    results["after"] = train_loop.train(cfg, model, args.resume, progress_bar=True)["bbox"]
    if ZERO_SHOT in cfg:
        load_weights(model, output / WEIGHTS_NAME)
        results[ZERO_SHOT]["after"] = _measure(cfg, model, ZERO_SHOT, console)
    _write_json(output / RESULTS_NAME, results)
    _report(console, "AP in percent", results)
    if ZERO_SHOT in cfg:
        _report(console, "AP of names from --mix", results[ZERO_SHOT], by_name=False)
    page = write_worst_errors(
        Path(cfg.dataloader.test.dataset.json_file),
        output / "inference" / "coco_instances_results.json",
        Path(cfg.dataloader.test.dataset.image_root),
        output / "errors",
    )
    for what, where in (
        ("the model, for detclip2 predict --model", output),
        ("the run, for train_net.py --config-file", output / CONFIG_NAME),
        ("the worst errors", page),
    ):
        console.print(Text(f"{what}: {where}"), soft_wrap=True)
    return 0


def _new_run(args: argparse.Namespace, output: Path, console: Console) -> Any:
    """Check the inputs, write the folder of the run, and evaluate the model; return the config."""
    base, weights = config_and_weights(args)
    base_cfg, base_name = load_model_config(base, args.trust_config)
    own, merges = _read(args)
    names = _names(own)
    report_data(console, own, names, merges, args.exhaustive)
    # Names of --val alone are unknown in --train: not listed there, they are no negatives.
    listed = {"train": names if args.exhaustive else own["train"].names, "val": names}
    for part, checked in own.items():
        _write_json(output / "data" / f"{part}.json", checked.to_coco(listed[part]))
    data = Data(
        output / "data" / "train.json",
        output / "data" / "val.json",
        own["train"].image_root.resolve(),
        len(own["train"].images),
    )
    names_of_settings = {field.name for field in fields(Settings)}
    chosen = {key: value for key, value in given(args).items() if key in names_of_settings}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    settings = Settings(**{"device": device, "trust_config": args.trust_config, **chosen})
    cfg = finetune_config(base_cfg, base_name, weights.resolve(), data, output, settings)
    LazyConfig.save(cfg, str(output / CONFIG_NAME))
    # What is trusted or a program has been built already: its targets may be any.
    programs = [base, *([Path(args.mix).parent] if args.mix else [])]
    cfg = _set_up(output, args.trust_config or any(map(is_program, programs)))
    model: Any = build_model(cfg, str(output / CONFIG_NAME)).to(cfg.train.device)
    load_weights(model, weights)
    results: dict[str, Any] = {"arguments": noted(args)}
    results["before"] = _measure(cfg, model, "dataloader", console)
    if ZERO_SHOT in cfg:
        results[ZERO_SHOT] = {"before": _measure(cfg, model, ZERO_SHOT, console)}
    elif args.mix:
        console.print("the config of --mix has no test set: AP of its names is not measured")
    _write_json(output / RESULTS_NAME, results)
    if args.max_minutes is not None:
        step = seconds_per_iteration(cfg, model)
        affordable = math.floor(60 * args.max_minutes / step)
        if affordable < 1:
            raise UserError(f"--max-minutes {args.max_minutes}: one iteration takes {step:.0f} s")
        set_iterations(cfg, min(affordable, cfg.train.max_iter))
        LazyConfig.save(cfg, str(output / CONFIG_NAME))
    own_share = (cfg.train.source_ratios or {"own": 1.0})["own"]
    batch = cfg.dataloader.train.own.total_batch_size
    epochs = cfg.train.max_iter * own_share * batch / data.num_train
    console.print(
        f"training: {cfg.train.max_iter} iterations of {batch} images, {epochs:.1f} epochs, at "
        f"{cfg.inference.min_size} px, learning rate {cfg.optimizer.lr:.2g}, on {cfg.train.device}"
    )
    return cfg


def _read(args: argparse.Namespace) -> tuple[dict[str, OwnData], list[Merge]]:
    """The checked and joined files of each part, with equal names for equal things."""
    files = [*args.train, *args.val]
    roots = args.images * len(files) if len(args.images) == 1 else args.images
    if len(roots) != len(files):
        raise UserError(
            f"--images has {len(roots)} folders; expected one for all, or {len(files)}: one for "
            "each file of --train and then of --val"
        )
    sets = [
        read_own_data(file, root, args.exhaustive) for file, root in zip(files, roots, strict=True)
    ]
    known = [FileNames(own.file, own.names, own.synonyms) for own in sets]
    used, merges = reconcile(known, args.distinct)
    parts = {"train": slice(None, len(args.train)), "val": slice(len(args.train), None)}
    own = {part: join(sets[at], used[at], args.exhaustive) for part, at in parts.items()}
    root = common_folder([one.image_root for one in own.values()])
    return {part: rebase(one, root) for part, one in own.items()}, merges


def _measure(cfg: Any, model: Any, part: str, console: Console) -> dict[str, Any]:
    """AP on the test set of a part of the config."""
    console.print(f"measuring on {cfg[part].evaluator.dataset_name} ...")
    with contextlib.redirect_stdout(io.StringIO()):  # drops the prints of pycocotools
        return dict(train_loop.evaluate(cfg, model.eval(), part)["bbox"])


def _set_up(output: Path, trust_config: bool) -> Any:
    """The config of the run, with log and seeds set up as by train_net.py."""
    arguments = default_argument_parser().parse_args(["--config-file", str(output / CONFIG_NAME)])
    arguments.trust_config = trust_config
    # The log goes to log.txt only.
    with contextlib.redirect_stdout(io.StringIO()):
        return train_loop.set_up(arguments)


@contextlib.contextmanager
def _new_folder(output: Path) -> Iterator[None]:
    """Make the folder of the run; an error in the block removes what is in it.

    Raises:
        UserError: the folder has files or cannot be written to.
    """
    new = [folder for folder in (output, *output.parents) if not folder.exists()]
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output):
            pass
    except OSError as error:
        raise UserError(f"--output {output}: cannot be written to ({error.strerror})") from None
    if any(output.iterdir()):
        raise UserError(
            f"--output {output}: this folder has files; name a new one, or add --resume to "
            "continue the run in it"
        )
    try:
        yield
    except BaseException:  # also an interrupt: what is there cannot be continued
        for path in output.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        for folder in new:
            folder.rmdir()
        raise


def _names(own: dict[str, OwnData]) -> list[str]:
    """The names of both files; those of train first."""
    names = {name.casefold(): name for part in own.values() for name in reversed(part.names)}
    order = dict.fromkeys(name.casefold() for part in own.values() for name in part.names)
    return [names[name] for name in order]


def report_data(
    console: Console,
    own: dict[str, OwnData],
    names: list[str],
    merges: Sequence[Merge] = (),
    exhaustive: bool = False,
) -> None:
    """Print the categories with their images and boxes, what is unknown, and the problems."""
    table = Table(box=SIMPLE_HEAD)
    table.add_column("category")
    counts: dict[str, dict[str, tuple[int, int]]] = {}
    for part, data in own.items():
        keys = [name.casefold() for name in data.names]
        counts[part] = dict(zip(keys, data.counts(), strict=True))
        table.add_column(f"{part} images", justify="right")
        table.add_column("boxes", justify="right")
    rows = [(name, [counts[part].get(name.casefold(), (0, 0)) for part in own]) for name in names]
    rows.sort(key=lambda row: -row[1][0][1])
    for name, numbers in rows[:ROWS_SHOWN]:
        table.add_row(Text(name, overflow="fold"), *[str(n) for pair in numbers for n in pair])
    totals = [n for data in own.values() for n in (len(data.images), len(data.annotations))]
    table.add_section()
    table.add_row(f"all {len(names)}", *map(str, totals))
    console.print(table)
    if len(rows) > ROWS_SHOWN:
        console.print(f"({len(rows) - ROWS_SHOWN} categories with fewer boxes are not shown)")
    report_names(console, own, [name for name, _ in rows[:ROWS_SHOWN]], merges, exhaustive)
    problems = Table("problem", "in", "count", "what is done", "such as", box=SIMPLE_HEAD)
    for kind, (what, done) in FINDINGS.items():
        for part, data in own.items():
            if examples := data.findings.get(kind):
                example = Text(examples[0], overflow="fold")
                problems.add_row(what, part, str(len(examples)), done, example)
    known = {name.casefold() for name in own["train"].names}
    new = [name for name in own["val"].names if name.casefold() not in known]
    if new:
        what = "categories that are not in train"
        problems.add_row(what, "val", str(len(new)), "measured, not trained", Text(new[0]))
    shared = _shared_images(own)
    if shared:
        what = "images that are also in train: AP is too high"
        problems.add_row(what, "val", str(len(shared)), "kept", Text(shared[0], overflow="fold"))
    console.print(problems if problems.row_count else "no problems found")


def report_names(
    console: Console,
    own: dict[str, OwnData],
    names: list[str],
    merges: Sequence[Merge],
    exhaustive: bool,
) -> None:
    """Print names of several files that are one, and in how many images each name is unknown.

    Args:
        console: where to print.
        own: the parts.
        names: the names to count.
        merges: the names that are one.
        exhaustive: whether a name that a part does not list is absent from its images.
    """
    if merges:
        merged = Table("name", "also written", "in", "why", box=SIMPLE_HEAD)
        for merge in merges[:ROWS_SHOWN]:
            merged.add_row(*(Text(text, overflow="fold") for text in merge))
        console.print(merged)
        if len(merges) > ROWS_SHOWN:
            console.print(f"({len(merges) - ROWS_SHOWN} further merges are not shown)")
    counts = {part: count_labels(data, names, exhaustive) for part, data in own.items()}
    if not any(count.unknown for of_part in counts.values() for count in of_part):
        return
    table = Table(title="images in which a name is ...", box=SIMPLE_HEAD)
    table.add_column("category")
    for part in own:
        for state in Counts._fields:
            table.add_column(f"{part}: {state}", justify="right")
    for name, *of_parts in zip(names, *counts.values(), strict=True):
        numbers = [str(number) for count in of_parts for number in count]
        table.add_row(Text(name, overflow="fold"), *numbers)
    console.print(table)


def _shared_images(own: dict[str, OwnData]) -> list[str]:
    files = [{os.path.normpath(image["file_name"]) for image in data.images}
             for data in own.values()]  # fmt: skip
    return sorted(set.intersection(*files))


def _report(console: Console, title: str, results: dict[str, Any], by_name: bool = True) -> None:
    table = Table(title, box=SIMPLE_HEAD)
    for column in ("before", "after"):
        table.add_column(column, justify="right")
    of_names = sorted(key for key in results["after"] if key.startswith("AP-"))
    for key in [*SCORES, *(of_names[:ROWS_SHOWN] if by_name else [])]:
        values = (_number(results[when].get(key)) for when in ("before", "after"))
        table.add_row(Text(key.removeprefix("AP-"), overflow="fold"), *values)
    console.print(table)


def _number(value: Any) -> str:
    return f"{value:.1f}" if isinstance(value, float) and math.isfinite(value) else "-"


def _write_json(path: Path, content: Any) -> None:
    try:
        write_json(path, content)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None


def _positive(kind: Any) -> Any:
    def parse(text: str) -> Any:
        value = kind(text)
        if not 0 < value < math.inf:
            raise argparse.ArgumentTypeError(f"{text} is not above 0")
        return value

    return parse


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value
