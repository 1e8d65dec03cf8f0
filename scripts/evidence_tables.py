"""Tables of docs/evidence.md, from the json of the runs and from nothing else."""

import json
import math
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from evidence_rows import ROWS, TABLES

from detclip2.utils.errors import UserError
from detclip2.utils.files import write_whole

Record = Mapping[str, Any]
MARK = re.compile(
    r"(<!-- table (\w+)/(\w+), written by scripts/evidence\.py -->\n)"
    r"(.*?)(<!-- end of the table -->)",
    re.DOTALL,
)
MISSING = "-"
SEEN = {
    "AP": "AP", "APr (novel)": "APr", "APc": "APc", "APf": "APf", "AP50 base": "AP50-base",
    "AP50 novel": "AP50-novel",
}  # fmt: skip
RECALL = {"ARs": "ARs@100", "ARm": "ARm@100", "ARl": "ARl@100"}


def fill_page(page: Path, results: Path, check: bool = False) -> int:
    """Write every table that the page has a mark for; with `check`, 1 if it would change.

    Raises:
        UserError: the page names a table that does not exist.
    """
    text = page.read_text(encoding="utf-8")
    new = MARK.sub(lambda match: match[1] + table_of(results, match[2], match[3]) + match[5], text)
    if check:
        print("as it should be" if new == text else f"{page} is not what the results say")
        return int(new != text)
    write_whole(page, lambda file: file.write(new.encode()))
    return 0


def table_of(results: Path, size: str, name: str) -> str:
    """One table as markdown, with what the paper has for it."""
    if size == "photos":
        return photo_table(results / size)
    if name not in TABLES:
        raise UserError(f"there is no table {name!r}; there are {', '.join(TABLES)}")
    table = TABLES[name]
    rows = {row: records_of(results / size, row) for row in table.rows}
    if not any(rows.values()):
        return f"\nNot run yet. The paper: {table.paper}.\n"
    every = [record for records in rows.values() for record in records]
    columns = style_columns(shifted_sets(every)) if table.styles else COLUMNS
    # A column that no run has a value for, as AR of large boxes in small scenes, is left out.
    columns = {title: value for title, value in columns.items() if cell(every, value) != MISSING}
    lines = [["", "seeds", *columns], ["---"] + ["---:"] * (1 + len(columns))]
    for row, label in table.rows.items():
        records = rows[row]
        label = label or ROWS[row].label
        seeds = " ".join(str(record["seed"]) for record in records)
        cells = [seeds or MISSING, *(cell(records, value) for value in columns.values())]
        lines.append([label if records else f"{label} (not run)", *cells])
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"\n{body}\n\n{notes(rows, table.paper)}\n"


def records_of(folder: Path, row: str) -> list[Record]:
    """The json of a row, one a seed."""
    files = sorted(folder.glob(f"{row}-seed*.json"))
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]


def shifted_sets(records: Sequence[Record]) -> list[str]:
    """Test sets in another art style."""
    tests = {test for record in records for test in record["results"]}
    return sorted(tests - {"seen", "unseen", "synonyms"})


def value(test: str, part: str, key: str) -> Callable[[Record], float | None]:
    """What of a record a column shows."""
    return lambda record: record["results"].get(test, {}).get(part, {}).get(key)


def novel_ratio(record: Record) -> float | None:
    """How near the novel categories come to the frequent ones, in percent."""
    found = record["results"].get("seen", {}).get("bbox_fixed", {})
    novel, frequent = found.get("APr"), found.get("APf")
    return 100 * novel / frequent if novel is not None and frequent else None


def processor_minutes(record: Record) -> float | None:
    """Of the row with its shared start."""
    parts = [record[part].get("processor_seconds") for part in ("cost", "shared_start")]
    return sum(parts) / 60 if None not in parts else None


COLUMNS: Mapping[str, Callable[[Record], float | None]] = {
    **{title: value("seen", "bbox_fixed", key) for title, key in SEEN.items()},
    "APr / APf (%)": novel_ratio,
    **{title: value("seen", "box_recall", key) for title, key in RECALL.items()},
    "names, novel": value("seen", "names", "accuracy-novel"),
    "names, unseen": value("unseen", "names", "accuracy"),
    "(chance)": value("unseen", "names", "chance"),
    "AP, unseen": value("unseen", "bbox_fixed", "AP"),
    "names, synonyms": value("synonyms", "names", "accuracy"),
    "AP, synonyms": value("synonyms", "bbox_fixed", "AP"),
    "steps": lambda record: record["iterations"],
    "CPU min": processor_minutes,
}


def style_columns(styles: Sequence[str]) -> dict[str, Callable[[Record], float | None]]:
    """AP of all and of novel categories, in the font's style and in others."""
    return {
        f"{title}, {style}": value(test, "bbox_fixed", key)
        for style, test in [("the font", "seen"), *zip(styles, styles, strict=True)]
        for title, key in (("AP", "AP"), ("APr", "APr"))
    }


def cell(records: Sequence[Record], value: Callable[[Record], float | None]) -> str:
    """The mean over seeds, and the standard deviation where there are several."""
    values = [v for record in records if (v := value(record)) is not None and math.isfinite(v)]
    if not values:
        return MISSING
    mean = statistics.mean(values)
    digits = 0 if mean >= 500 else 1
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 and digits else ""
    return f"{mean:.{digits}f}{spread}"


def notes(rows: Mapping[str, Sequence[Record]], paper: str) -> str:
    """What the numbers are of: seeds, images, machine, commits, and the paper's comparison."""
    records = [record for of_row in rows.values() for record in of_row]
    images = "; ".join(
        f"{row}: "
        + ", ".join(f"{number:,} {source}" for source, number in of_row[0]["images"].items())
        for row, of_row in rows.items()
        if of_row
    )
    machines = sorted({machine_of(record) for record in records})
    commits = sorted({record["commit"][:8] for record in records})
    dates = sorted({record["date"] for record in records})
    return (
        f"Mean ± standard deviation over seeds. Images seen: {images}. "
        f"{'; '.join(machines)}; {dates[0]} to {dates[-1]}; commits {', '.join(commits)}. "
        f"The paper, on other data: {paper}."
    )


def machine_of(record: Record) -> str:
    """What a run was made on."""
    machine = record["machine"]
    gpu = "" if machine["device"] == "cpu" else f"{machine['device']} beside "
    return f"{gpu}{machine['cores']} x {machine['processor']}"


def photo_table(folder: Path) -> str:
    """Real photographs: AP50 by run."""
    lines = [["", "training images", "AP", "AP50", "CPU min"], ["---"] + ["---:"] * 4]
    groups: dict[tuple[str, int], list[Record]] = {}
    for file in sorted(folder.glob("*.json")):
        record = json.loads(file.read_text(encoding="utf-8"))
        groups.setdefault((record["label"], record["training_images"]), []).append(record)
    for (label, number), records in sorted(groups.items()):
        cells = [
            cell(records, lambda r, key=key: r["results"]["bbox"].get(key))
            for key in ("AP", "AP50")
        ]
        minutes = cell(records, lambda r: r["cost"]["processor_seconds"] / 60)
        lines.append([label, str(number), *cells, minutes])
    if not groups:
        return "\nNot run yet.\n"
    return "\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
