"""``detclip2 finetune``: check annotations in COCO's format and train a model on them."""

import argparse
import contextlib
import io
import json
import math
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from detectron2.config import LazyConfig
from detectron2.engine import default_argument_parser
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.text import Text

from detclip2.commands.evaluate import measure
from detclip2.commands.model_arguments import add_model_arguments, config_and_weights
from detclip2.commands.numbers import edge, positive, share
from detclip2.commands.output_folder import new_folder
from detclip2.commands.resumed_arguments import check_resumed, given, noted
from detclip2.commands.tables import console_for_tables
from detclip2.config import build_model, is_program, load_model_config
from detclip2.data.hybrid_loader import source_nodes
from detclip2.engine import train_loop
from detclip2.engine.hooks.curves import FILE_NAME as CURVES_NAME
from detclip2.engine.hooks.curves import draw_curves, read_metrics
from detclip2.engine.run_folder import save_config
from detclip2.engine.step_cost import seconds_per_iteration
from detclip2.evaluation.worst_errors import write_worst_errors
from detclip2.finetuning.best import LAST_NAME, keep_best
from detclip2.finetuning.config import ZERO_SHOT, Data, Settings, finetune_config, set_iterations
from detclip2.finetuning.parts import names_of, read_parts
from detclip2.finetuning.report import report_data, report_scores
from detclip2.finetuning.tuning import LEVELS, NAMES, OFFSETS, untuned
from detclip2.inference.tuned_file import NAME as TUNED_NAME
from detclip2.inference.tuned_file import Tuned
from detclip2.inference.vocabulary import Vocabulary
from detclip2.utils.devices import checked_device
from detclip2.utils.errors import UserError
from detclip2.utils.files import write_json
from detclip2.utils.model_folder import CONFIG_NAME, VOCABULARY_NAME
from detclip2.utils.repository import config_of_user
from detclip2.utils.weights import load_weights

RESULTS_NAME = "finetune.json"
_DATA_SUFFIXES = (".json", ".jsonl", ".csv", ".tsv", ".txt", ".tar")

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
    length.add_argument("--iterations", type=positive(int), metavar="N", help="length (default: "
                        "by the number of images)")  # fmt: skip
    length.add_argument("--max-minutes", type=positive(float), metavar="X", help="shorten the "
                        "training to this time, estimated from a few steps")  # fmt: skip
    parser.add_argument("--batch-size", type=positive(int), metavar="B", help="images per "
                        "iteration (default: the model's)")  # fmt: skip
    parser.add_argument("--size", type=edge, metavar="PX", help="shorter edge of the "
                        "images (default: the model's)")  # fmt: skip
    parser.add_argument("--lr", type=positive(float), metavar="X", help="learning rate (default: "
                        "the model's, by the square root of the batch size)")  # fmt: skip
    parser.add_argument("--tune", choices=LEVELS, help="what learns: all; the last layers; "
                        "offsets of names' text; low-rank matrices (default: full)")  # fmt: skip
    parser.add_argument("--mix", metavar="CONFIG/SOURCE", help="also train on a source of another "
                        "config, so that the model keeps its names")  # fmt: skip
    parser.add_argument("--mix-share", type=share, metavar="X", help="share of "
                        "--mix in the iterations; 0: its names are measured alone (default: "
                        "0.25)")  # fmt: skip
    parser.add_argument("--num-workers", type=int, metavar="N", help="processes that "
                        "read images (default: 2)")  # fmt: skip
    parser.add_argument("--seed", type=int, help="random seed (default: 0)")
    parser.add_argument("--resume", action="store_true", help="continue the run in --output, with "
                        "its arguments")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Check the data, train, and compare with the model before."""
    console = console_for_tables()
    device = str(checked_device(args.device))
    output = args.output.resolve()
    if args.resume:
        if not (output / RESULTS_NAME).is_file():
            raise UserError(f"--resume: there is no fine-tuning to continue in {args.output}")
        results = json.loads((output / RESULTS_NAME).read_text("utf-8"))
        check_resumed(args, results.get("arguments", {}))
        cfg = _set_up(output, args.trust_config)
        console.print(f"continuing to {cfg.train.max_iter} iterations, on {cfg.train.device}")
    else:
        with new_folder(output, resumable=True):
            cfg = _new_run(args, output, device, console)
        results = json.loads((output / RESULTS_NAME).read_text("utf-8"))
    model: Any = build_model(cfg, str(output / CONFIG_NAME)).to(cfg.train.device)
    results["after"] = train_loop.train(cfg, model, args.resume, progress_bar=True)["bbox"]
    last = cfg.train.max_iter
    results["iterations"] = done = keep_best(model, output, last)
    if done < last:
        results["after"] = measure(cfg, model, "dataloader", console)["bbox"]
    if ZERO_SHOT in cfg:
        results[ZERO_SHOT]["after"] = measure(cfg, model, ZERO_SHOT, console)["bbox"]
    if small := _write_tuned(cfg, model, output):
        results["tuned_bytes"] = small.stat().st_size
    _write_json(output / RESULTS_NAME, results)
    with contextlib.suppress(OSError, ValueError):  # as in training, it ends no run
        before = {f"bbox/{name}": value for name, value in results["before"].items()}
        draw_curves(read_metrics(output / "metrics.json"), output / CURVES_NAME, before)
    times = ("before", "after")
    report_scores(console, "AP in percent", {time: results[time] for time in times})
    if ZERO_SHOT in cfg:
        zero_shot = {time: results[ZERO_SHOT][time] for time in times}
        report_scores(console, "AP of names from --mix", zero_shot, by_name=False)
    chosen = f"the weights after {done} of {last} iterations are kept: the best AP on val"
    console.print(f"{chosen}; {LAST_NAME} has the last ones" if done < last else chosen)
    page = write_worst_errors(
        Path(cfg.dataloader.test.dataset.json_file),
        output / "inference" / "coco_instances_results.json",
        Path(cfg.dataloader.test.dataset.image_root),
        output / "errors",
        results=results["after"],
    )
    files = [("what was tuned, for detclip2 predict --tuned", small)] if small else []
    for what, where in (
        ("the model, for detclip2 predict --model", output),
        *files,
        ("the run, for train_net.py --config-file", output / CONFIG_NAME),
        ("the worst errors", page),
    ):
        console.print(Text(f"{what}: {where}"), soft_wrap=True)
    return 0


def _new_run(args: argparse.Namespace, output: Path, device: str, console: Console) -> Any:
    """Check the inputs, write the folder of the run, and evaluate the model; return the config."""
    base, weights = config_and_weights(args)
    base_cfg, base_name = load_model_config(base, args.trust_config)
    parts = {"train": args.train, "val": args.val}
    own, merges = read_parts(parts, args.images, args.exhaustive, args.distinct)
    names = names_of(own)
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
        tuple(names),
    )
    names_of_settings = {field.name for field in fields(Settings)}
    chosen = {key: value for key, value in given(args).items() if key in names_of_settings}
    settings = Settings(**{**chosen, "device": device, "trust_config": args.trust_config})
    cfg = finetune_config(base_cfg, base_name, weights.resolve(), data, output, settings)
    LazyConfig.save(cfg, str(output / CONFIG_NAME))
    # What is trusted or a program has been built already: its targets may be any.
    programs = [str(base), *([config_of_user(Path(args.mix).parent)] if args.mix else [])]
    cfg = _set_up(output, args.trust_config or any(map(is_program, programs)))
    model: Any = build_model(untuned(cfg), str(output / CONFIG_NAME)).to(cfg.train.device)
    load_weights(model, weights)
    results: dict[str, Any] = {"arguments": noted(args)}
    results["before"] = measure(cfg, model, "dataloader", console)["bbox"]
    if ZERO_SHOT in cfg:
        results[ZERO_SHOT] = {"before": measure(cfg, model, ZERO_SHOT, console)["bbox"]}
    elif args.mix:
        console.print("the config of --mix has no test set: AP of its names is not measured")
    _write_json(output / RESULTS_NAME, results)
    if args.max_minutes is not None:
        console.print("timing a few steps ...")
        step = seconds_per_iteration(cfg, model)
        affordable = math.floor(60 * args.max_minutes / step)
        if affordable < 1:
            raise UserError(f"--max-minutes {args.max_minutes}: one iteration takes {step:.0f} s")
        set_iterations(cfg, min(affordable, cfg.train.max_iter))
        save_config(cfg)
    own_share = (cfg.train.source_ratios or {"own": 1.0})["own"]
    batch = cfg.dataloader.train.own.total_batch_size
    epochs = cfg.train.max_iter * own_share * batch / data.num_train
    console.print(
        f"training: {cfg.train.max_iter} iterations of {batch} images, {epochs:.1f} epochs, at "
        f"{cfg.inference.min_size} px, learning rate {cfg.optimizer.lr:.2g}, on {cfg.train.device}"
    )
    if not args.mix and args.tune != "prompt":
        console.print(Text(_forgotten(base_cfg, base, weights, names)), soft_wrap=True)
    return cfg


def _write_tuned(cfg: Any, model: Any, output: Path) -> Path | None:
    """Write what learned into a file of its own, unless that is everything."""
    if cfg.train.learn is None and cfg.train.lora is None:
        return None
    names = tuple(OmegaConf.select(cfg, NAMES) or ()) if cfg.train.learn == [*OFFSETS] else ()
    Tuned.of(model, names).write(output / TUNED_NAME)
    return output / TUNED_NAME


def _forgotten(cfg: Any, base: Path, weights: Path, names: Sequence[str]) -> str:
    """A hint at what a model may forget that is trained on these names alone."""
    what = "the names that the model knew before"
    vocabulary = weights.with_name(VOCABULARY_NAME)
    if vocabulary.is_file():
        own = {name.casefold() for name in names}
        others = [one for one in Vocabulary.load(vocabulary).labels if one.casefold() not in own]
        shown = ", ".join(others[:3])
        what = f"the {len(others):,} other names that the model knows, such as {shown},"
    sources = OmegaConf.select(cfg, "dataloader.train") and source_nodes(cfg)
    there = [name for name, node in (sources or {}).items() if _is_there(node)]
    source = f"{base}/{there[0]}" if there else "CONFIG/SOURCE"
    return f"{what} may be forgotten; --mix {source} trains on them too"


def _is_there(node: Any) -> bool:
    """Whether the files that a node of a config names are on this disk."""
    try:
        values = [OmegaConf.to_container(node, resolve=True)]
    except OmegaConfBaseException:
        return False
    while values:
        value = values.pop()
        if isinstance(value, dict | list):
            values += value.values() if isinstance(value, dict) else value
        elif isinstance(value, str) and value.endswith(_DATA_SUFFIXES) and not Path(value).exists():
            return False
    return True


def _set_up(output: Path, trust_config: bool) -> Any:
    """The config of the run, with log and seeds set up as by train_net.py."""
    arguments = default_argument_parser().parse_args(["--config-file", str(output / CONFIG_NAME)])
    arguments.trust_config = trust_config
    # The log goes to log.txt only.
    with contextlib.redirect_stdout(io.StringIO()):
        return train_loop.set_up(arguments)


def _write_json(path: Path, content: Any) -> None:
    try:
        write_json(path, content)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None
