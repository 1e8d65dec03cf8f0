"""The tables of RESULTS.md, made from the json of the runs alone."""

import json
import math
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from detclip2.utils.errors import UserError
from detclip2.utils.files import write_whole

from .rows import ROWS, TABLES

Record = Mapping[str, Any]
Metric = Callable[[Record], float | None]
Cell = Callable[[Sequence[Record]], str]
MARK = re.compile(
    r"(<!-- table (\w+)/(\w+), written by evidence/tables\.py -->\n)"
    r"(.*?)(<!-- end of the table -->)",
    re.DOTALL,
)
MISSING = "-"


def fill_page(page: Path, results: Path, check: bool = False) -> int:
    """Write every table that the page has a mark for; with `check`, 1 if it would change.

    Raises:
        UserError: the page names a table that does not exist.
    """
    text = page.read_text(encoding="utf-8")
    new = MARK.sub(lambda match: match[1] + table_of(results, match[2], match[3]) + match[5], text)
    if check:
        print("the tables are up to date" if new == text else f"{page} differs from the results")
        return int(new != text)
    write_whole(page, lambda file: file.write(new.encode()))
    return 0


def table_of(results: Path, size: str, name: str) -> str:
    """One table as Markdown, with the paper's numbers below."""
    if size == "photos":
        return photo_table(results / size)
    if name not in TABLES:
        raise UserError(f"there is no table {name!r}; there are {', '.join(TABLES)}")
    table = TABLES[name]
    rows = {row: records_of(results / size, row) for row in table.rows}
    if not any(rows.values()):
        return f"\nNot run yet. The paper: {table.paper}.\n"
    every = [record for records in rows.values() for record in records]
    if table.styles:
        columns = {style: style_cell(test) for style, test in styles_of(every).items()}
    else:
        columns = {title: metric_cell(COLUMNS[title]) for title in table.columns}
    # A column without any value is skipped.
    columns = {title: cell for title, cell in columns.items() if cell(every) != MISSING}
    lines = [["", "seeds", *columns], ["---"] + ["---:"] * (1 + len(columns))]
    labels = {row: label or ROWS[row].label for row, label in table.rows.items()}
    for row, records in rows.items():
        if records:
            seeds = " ".join(str(record["seed"]) for record in records)
            lines.append([labels[row], seeds, *(cell(records) for cell in columns.values())])
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    not_run = "; ".join(label for row, label in labels.items() if not rows[row])
    return f"\n{body}\n\n{notes(every, table.paper, not_run)}\n"


def records_of(folder: Path, row: str) -> list[Record]:
    """The json of a row, one a seed."""
    files = sorted(folder.glob(f"{row}-seed*.json"))
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]


def styles_of(records: Sequence[Record]) -> dict[str, str]:
    """Art style -> its test set; the style of the training data comes first."""
    tests = {test for record in records for test in record["results"]}
    others = sorted(tests - {"seen", "unseen", "synonyms"})
    return {"the font": "seen", **{name: name for name in others}}


def value(test: str, part: str, key: str) -> Metric:
    """A metric of a record, None where it was not measured."""
    return lambda record: record["results"].get(test, {}).get(part, {}).get(key)


def novel_ratio(record: Record) -> float | None:
    """APr / APf in percent: novel relative to frequent categories."""
    found = record["results"].get("seen", {}).get("bbox_fixed", {})
    novel, frequent = found.get("APr"), found.get("APf")
    return 100 * novel / frequent if novel is not None and frequent else None


def processor_minutes(record: Record) -> float | None:
    """Of a run and its shared start."""
    parts = [record[part].get("processor_seconds") for part in ("cost", "shared_start")]
    return sum(parts) / 60 if None not in parts else None


COLUMNS: Mapping[str, Metric] = {
    "AP": value("seen", "bbox_fixed", "AP"),
    "APr (novel)": value("seen", "bbox_fixed", "APr"),
    "APc": value("seen", "bbox_fixed", "APc"),
    "APf": value("seen", "bbox_fixed", "APf"),
    "APr / APf (%)": novel_ratio,
    "names, novel": value("seen", "names", "accuracy-novel"),
    "AP, synonyms": value("synonyms", "bbox_fixed", "AP"),
    "names, synonyms": value("synonyms", "names", "accuracy"),
    "AP, unseen": value("unseen", "bbox_fixed", "AP"),
    "names, unseen": value("unseen", "names", "accuracy"),
}


def metric_cell(metric: Metric) -> Cell:
    """A column of one metric."""
    return lambda records: mean_of(records, metric)


def style_cell(test: str) -> Cell:
    """A column with AP and APr on a test set."""

    def cell(records: Sequence[Record]) -> str:
        parts = [mean_of(records, value(test, "bbox_fixed", key)) for key in ("AP", "APr")]
        return MISSING if set(parts) == {MISSING} else " / ".join(parts)

    return cell


def mean_of(records: Sequence[Record], value: Metric) -> str:
    """The mean over seeds, and the standard deviation where there are several."""
    values = [v for record in records if (v := value(record)) is not None and math.isfinite(v)]
    if not values:
        return MISSING
    mean = statistics.mean(values)
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{mean:.1f}{spread}"


def notes(records: Sequence[Record], paper: str, not_run: str) -> str:
    """The conditions of a table: cost, machines, dates, commits, and the paper's comparison."""
    minutes = [m for record in records if (m := processor_minutes(record)) is not None]
    cost = f"{min(minutes):.0f} to {max(minutes):.0f} processor minutes a run; " if minutes else ""
    machines = sorted({machine_of(record) for record in records})
    commits = sorted({record["commit"][:8] for record in records})
    dates = sorted({record["date"] for record in records})
    return (
        f"Mean ± standard deviation over seeds; {cost}{'; '.join(machines)}; {dates[0]} to "
        f"{dates[-1]}; commits {', '.join(commits)}. "
        + (f"Not run: {not_run}. " if not_run else "")
        + f"The paper, on other data: {paper}."
    )


def machine_of(record: Record) -> str:
    """The machine of a run, in words."""
    machine = record["machine"]
    gpu = "" if machine["device"] == "cpu" else f"{machine['device']} beside "
    return f"{gpu}{machine['cores']} x {machine['processor']}"


def photo_table(folder: Path) -> str:
    """The table of the experiments on real images."""
    lines = [["", "training images", "AP", "AP50", "CPU min"], ["---"] + ["---:"] * 4]
    groups: dict[tuple[str, int], list[Record]] = {}
    for file in sorted(folder.glob("*.json")):
        record = json.loads(file.read_text(encoding="utf-8"))
        groups.setdefault((record["label"], record["training_images"]), []).append(record)
    for (label, number), records in sorted(groups.items()):
        cells = [
            mean_of(records, lambda r, key=key: r["results"]["bbox"].get(key))
            for key in ("AP", "AP50")
        ]
        minutes = mean_of(records, lambda r: r["cost"]["processor_seconds"] / 60)
        lines.append([label, str(number), *cells, minutes])
    if not groups:
        return "\nNot run yet.\n"
    return "\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
