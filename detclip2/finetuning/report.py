"""Tables of a fine-tuning or an evaluation on own data: the data, its problems, and the scores."""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from detclip2.finetuning.coco_check import FINDINGS, OwnData
from detclip2.finetuning.names import Merge
from detclip2.finetuning.partial_labels import Counts, count_labels

ROWS_SHOWN = 30
SCORES = ("AP", "AP50", "AP75")


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
            if kind == "category-alone" and part != "train":
                continue  # a matter of learning
            if examples := data.findings.get(kind):
                example = Text(examples[0], overflow="fold")
                problems.add_row(what, part, str(len(examples)), done, example)
    if own.keys() >= {"train", "val"}:
        known = {name.casefold() for name in own["train"].names}
        new = [name for name in own["val"].names if name.casefold() not in known]
        if new:
            what = "categories that are not in train"
            problems.add_row(what, "val", str(len(new)), "measured, not trained", Text(new[0]))
        if shared := _shared_images(own):
            what, example = "images that are also in train: AP is too high", Text(shared[0])
            problems.add_row(what, "val", str(len(shared)), "kept", example)
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


def report_scores(
    console: Console, title: str, columns: Mapping[str, Mapping[str, Any]], by_name: bool = True
) -> None:
    """Print AP over all and by category.

    Args:
        console: where to print.
        title: above the names.
        columns: title of a column -> results of an evaluation of boxes, in percent.
        by_name: whether to print AP by category.
    """
    table = Table(title, box=SIMPLE_HEAD)
    for column in columns:
        table.add_column(column, justify="right")
    last = [*columns.values()][-1]
    of_names = sorted(key for key in last if key.startswith("AP-")) if by_name else []
    for number, key in enumerate([*(key for key in SCORES if key in last), *of_names[:ROWS_SHOWN]]):
        if number == len(last.keys() & set(SCORES)):
            table.add_section()
        values = (score(results.get(key)) for results in columns.values())
        table.add_row(Text(key.removeprefix("AP-"), overflow="fold"), *values)
    console.print(table)
    if len(of_names) > ROWS_SHOWN:
        console.print(f"({len(of_names) - ROWS_SHOWN} further categories are in the json)")


def score(value: Any) -> str:
    """A number of a table; "-" where it is undefined."""
    return f"{value:.1f}" if isinstance(value, float) and math.isfinite(value) else "-"
