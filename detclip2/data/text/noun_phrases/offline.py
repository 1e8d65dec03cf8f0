"""Noun phrases of a whole data set, part by part, so that an interrupted run can continue.

A part is a tar shard, or a number of lines of a text file. Its output gets its final name when it
is complete, and so do its counts; a part that has both is not done again.
"""

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from detclip2.data.text.noun_phrases.records import FORMATS, Options, Part, copy_shard, read_records
from detclip2.utils.errors import UserError
from detclip2.utils.files import json_bytes, write_json, write_whole


def format_of(path: str, wanted: str = "auto") -> str:
    """The format of an input file: `wanted`, or by the suffix of its name for "auto".

    Raises:
        UserError: the format is not one of `FORMATS`.
    """
    suffix = Path(path).suffix[1:].lower()
    found = {"json": "jsonl", "ndjson": "jsonl"}.get(suffix, suffix) if wanted == "auto" else wanted
    if found not in FORMATS:
        raise UserError(f"{path}: give --format, one of {', '.join(FORMATS)}")
    return found


def plan_parts(paths: Sequence[str], lines_per_part: int, wanted: str = "auto") -> list[Part]:
    """Divide input files into parts.

    Raises:
        UserError: a file cannot be read, or its format is not known.
    """
    parts: list[Part] = []
    for path in paths:
        kind = format_of(path, wanted)
        try:
            if kind == "tar":
                with open(path, "rb"):
                    parts.append(Part(len(parts), path, kind))
            else:
                for start, end, index in _line_parts(path, lines_per_part):
                    parts.append(Part(len(parts), path, kind, start, end, index))
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    return parts


def _line_parts(path: str, size: int) -> Iterator[tuple[int, int, int]]:
    start = position = index = first_index = 0
    with open(path, "rb") as file:
        for line in file:
            position += len(line)
            index += bool(line.strip())
            if index - first_index == size:
                yield start, position, first_index
                start, first_index = position, index
    if index > first_index:
        yield start, position, first_index


def prepare_folder(folder: Path, parts: Sequence[Part], options: Options) -> list[Part]:
    """Make the output folder, or continue in it, and return the parts that are not done.

    Raises:
        UserError: the folder holds the output of other inputs or options, or cannot be written.
    """
    outputs = {part.output(folder, options).resolve() for part in parts}
    if len(outputs) < len(parts) or outputs & {Path(part.path).resolve() for part in parts}:
        raise UserError(
            f"--output {folder}: a copy of a shard would be written over another shard of the same "
            "name; choose another folder, and one run for each set of names"
        )
    plan = {"options": asdict(options), "parts": [_identity(part) for part in parts]}
    plan_file = folder / "plan.json"
    try:
        (folder / "counts").mkdir(parents=True, exist_ok=True)
        if not plan_file.exists():
            write_json(plan_file, plan)
        elif json.loads(plan_file.read_text()) != plan:
            raise UserError(
                f"--output {folder}: holds phrases of other inputs or options (plan.json); "
                "choose an empty folder, or repeat the command that began it"
            )
        # Unfinished files of killed processes (with names of detclip2.utils.files).
        for half_written in (*folder.glob(".*.[0-9]*"), *folder.glob("counts/.*.[0-9]*")):
            half_written.unlink()
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"--output {folder}: cannot be used ({error})") from error
    return [
        part
        for part in parts
        if not (part.counts(folder).exists() and part.output(folder, options).exists())
    ]


def _identity(part: Part) -> dict[str, Any]:
    """A part and the size of its file, which distinguishes files of the same name."""
    return {**asdict(part), "file_size": os.path.getsize(part.path)}


def do_part(part: Part, folder: Path, options: Options) -> dict[str, int]:
    """Extract the phrases of one part, and write them with the counts.

    Returns:
        Counts of ``captions``, ``phrases``, and skips by kind (names of
        `detclip2.data.skips.KINDS`).
    """
    counts: Counter[str] = Counter(captions=0, phrases=0)

    def write(file: IO[bytes]) -> None:
        if part.format == "tar" and options.copy_shards:
            copy_shard(part, file, options, counts)
        else:
            for record in read_records(part, options, counts):
                file.write(json_bytes(record) + b"\n")

    write_whole(part.output(folder, options), write)
    write_json(part.counts(folder), counts)
    return dict(counts)


def total_counts(folder: Path, parts: Sequence[Part]) -> dict[str, int]:
    """The sums of the counts of all parts, including those of earlier runs."""
    total: Counter[str] = Counter()
    for part in parts:
        total.update(json.loads(part.counts(folder).read_text()))
    return dict(total)
