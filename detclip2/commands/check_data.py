"""``detclip2 check-data``: count and try the data of a training config before it starts."""

import argparse
import copy
from collections.abc import Mapping, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from detclip2.commands.model_arguments import add_trust_argument
from detclip2.commands.tables import console_for_tables
from detclip2.config import apply_overrides, build, load_config
from detclip2.data.datasets.packed import PackedRecords
from detclip2.data.hybrid_loader import source_nodes
from detclip2.data.io.shard_stream import ImageTextStream
from detclip2.data.io.shards import ImageTextShards
from detclip2.data.mappers import draw_sample
from detclip2.data.sources import Source
from detclip2.engine.test_sets import check_test_sets
from detclip2.engine.train_keys import add_train_defaults
from detclip2.engine.train_loop import evaluation_nodes
from detclip2.utils.errors import UserError
from detclip2.utils.quiet import errors_alone
from detclip2.utils.repository import config_of_user

EXAMPLE = "detclip2 check-data --config pretrain_o365_goldg_cc15m_swin_t"
TOLERANCE = 0.1  # of the number of records that a config's schedule is computed from


@dataclass
class Findings:
    """What is known of the records of a source."""

    records: int
    boxes: int
    usable: int
    tried: int
    is_estimate: bool = False
    """Whether ``records`` are those of some shards, times the number of shards."""
    problem: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "--config",
        required=True,
        metavar="NAME|FILE",
        help="a training config, by its name or as a .py or .yaml",
    )
    parser.add_argument(
        "--samples",
        type=int,
        default=100,
        metavar="N",
        help="records of each source that are read and made samples (default: 100)",
    )
    parser.add_argument(
        "--shards",
        type=int,
        default=1,
        metavar="N",
        help="tar shards of a stream whose pairs are counted, for an estimate of all (default: 1)",
    )
    add_trust_argument(parser)
    parser.add_argument("overrides", nargs="*", help="config changes, such as own.folder=DIR")


def run(args: argparse.Namespace) -> int:
    """Print a table of the sources; return 2 if one of them, or a test set, cannot be used."""
    with errors_alone("detclip2.data"):  # skips are counted, and not logged
        return _run(args)


def _run(args: argparse.Namespace) -> int:
    if min(args.samples, args.shards) < 1:
        raise UserError("--samples and --shards: expected 1 or more")
    cfg, name = load_config(Path(config_of_user(args.config)), args.trust_config)
    add_train_defaults(cfg, name)
    apply_overrides(cfg, args.overrides, name)
    table = Table(box=SIMPLE_HEAD)
    table.add_column("source")
    for column in ("records", "expected", "boxes", "usable of those tried"):
        table.add_column(column, justify="right")
    problems, skipped = [], []
    for source in source_nodes(cfg):
        try:
            built: Source = build(cfg, f"dataloader.train.{source}", name)
            found = findings(built, args.samples, args.shards)
        except UserError as error:
            problems.append(f"{source}: {error}")
            table.add_row(source, *"----")
            continue
        expected = (cfg.get("images") or {}).get(source)
        table.add_row(source, *_cells(found, expected))
        if built.mapper.counter.counts():
            skipped.append(f"{source}: {built.mapper.counter.report()}")
        problems += [f"{source}: {one}" for one in (found.problem, _few(found, expected)) if one]
    tests = evaluation_nodes(cfg)
    problems += filter(None, (_test(cfg, node, loader) for node, loader in tests.values()))
    console = console_for_tables()
    console.print(table)
    for line in skipped:
        console.print(Text(line), soft_wrap=True)
    for problem in problems:
        console.print(Text(f"to fix: {problem}"), soft_wrap=True)
    if not problems:
        console.print(f"the data can be used; test sets: {', '.join(tests) or 'none'}")
    return 2 if problems else 0


def findings(source: Source, samples: int, shards: int) -> Findings:
    """Count the records of a source, and make samples of some.

    Args:
        source: a source of a config.
        samples: how many records to try, in random order; of a stream the first ones.
        shards: how many tar shards of a stream to count the pairs of.

    Raises:
        UserError: the records cannot be read.
    """
    is_estimate, problem = False, ""
    count, boxes = 0, 0
    if isinstance(source.records, ImageTextStream):
        count = _count_stream(source.records, shards)
        is_estimate = shards < len(source.records.urls)
    elif isinstance(source.records, Sized):
        count = len(source.records)
        boxes = _count_boxes(source.records)
    if isinstance(source.records, ImageTextShards) and (without := source.records.unreadable):
        total = len(source.records.urls)
        problem = f"{len(without)} of {total} tar shards have no pair, such as {without[0]}"
    records, order = source.preview(samples, 0)
    made = [
        draw_sample(records, index, source.mapper, np.random.default_rng([0, index]))
        for index in order
    ]
    usable = sum(sample is not None for sample in made)
    if not usable:
        problem = problem or "none of the records that were tried makes a sample"
    return Findings(count, boxes, usable, len(made), is_estimate, problem)


def _count_stream(records: ImageTextStream, shards: int) -> int:
    """The number of pairs, by that of the first shards."""
    counted = copy.copy(records)
    counted.urls = records.urls[:shards]
    return round(sum(1 for _ in counted) * len(records.urls) / len(counted.urls))


def _count_boxes(records: Any) -> int:
    """Boxes of records that are in memory; records of a file are not all read for it."""
    if isinstance(records, PackedRecords):
        return records.num_boxes
    if not isinstance(records, list):
        return 0
    return sum(len(one.get("annotations", ())) for one in records if isinstance(one, Mapping))


def _cells(found: Findings, expected: int | None) -> tuple[str, str, str, str]:
    records = f"{'about ' if found.is_estimate else ''}{found.records:,}"
    boxes = f"{found.boxes:,}" if found.boxes else "-"
    return (
        records,
        "-" if expected is None else f"{expected:,}",
        boxes,
        f"{found.usable} of {found.tried}",
    )


def _few(found: Findings, expected: int | None) -> str:
    """Why the schedule of the config does not suit so many records; "" if it does."""
    if expected is None or found.problem or found.is_estimate:
        return ""
    if abs(found.records - expected) <= TOLERANCE * expected:
        return ""
    return (
        f"{found.records:,} records, where the config computes its iterations from {expected:,}: "
        "files are missing, or train.max_iter has to change"
    )


def _test(cfg: DictConfig, node: str, loader: str) -> str:
    """What is wrong with a test set; "" if nothing is."""
    try:
        check_test_sets(cfg, [(node, loader)])
    except UserError as error:
        return str(error)
    return ""
