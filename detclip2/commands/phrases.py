"""``detclip2 phrases``: extract noun phrases of millions of captions, in parallel, restartable."""

import argparse
import multiprocessing
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from detclip2.data.text.noun_phrases import MAX_PHRASES, spacy_is_available
from detclip2.data.text.noun_phrases.extract import Backend
from detclip2.data.text.noun_phrases.offline import (
    do_part,
    plan_parts,
    prepare_folder,
    total_counts,
)
from detclip2.data.text.noun_phrases.records import FORMATS, Options, Part
from detclip2.utils.errors import UserError
from detclip2.utils.files import write_json
from detclip2.utils.processes import end_with_parent

EXAMPLE = "detclip2 phrases captions.tsv --output phrases"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("inputs", nargs="+", help="txt, tsv or jsonl files, or tar shards")
    parser.add_argument(
        "--output", type=Path, required=True, help="folder; a rerun continues in it"
    )
    parser.add_argument(
        "--format",
        choices=("auto", *FORMATS),
        default="auto",
        help="format of the inputs (default: auto, by file name)",
    )
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="processes (default: all cores)"
    )
    parser.add_argument(
        "--lines", type=int, default=50_000, help="lines of a part (default: 50000)"
    )
    parser.add_argument(
        "--backend",
        choices=("auto", "spacy", "rules"),
        default="auto",
        help="auto is spacy if its model is installed, else rules (default: auto)",
    )
    parser.add_argument(
        "--max-phrases",
        type=int,
        default=MAX_PHRASES,
        help="most phrases of a caption (default: %(default)s)",
    )
    parser.add_argument(
        "--caption-column",
        type=int,
        default=0,
        help="column of the captions in a tsv, from 0 (default: 0)",
    )
    parser.add_argument(
        "--url-column", type=int, default=1, help="column of the URLs in a tsv, from 0 (default: 1)"
    )
    parser.add_argument(
        "--caption-key", default="caption", help="key of the captions in a jsonl (default: caption)"
    )
    parser.add_argument(
        "--image-name",
        default="",
        help='for a tsv: write this as "image"; {index}, {md5}, {sha1} (of the URL) are filled in',
    )
    parser.add_argument(
        "--copy-shards",
        action="store_true",
        help="write shards with a .phrases.json for each caption, instead of jsonl",
    )


def run(args: argparse.Namespace) -> int:
    """Process the remaining parts and print a summary."""
    options = _options(args)
    parts = plan_parts(args.inputs, args.lines, args.format)
    if args.copy_shards and any(part.format != "tar" for part in parts):
        raise UserError("--copy-shards: the inputs are not all tar shards")
    left = prepare_folder(args.output, parts, options)
    if len(left) < len(parts):
        print(f"{len(parts) - len(left)} of {len(parts)} parts are done already")
    columns = (
        TextColumn("phrases"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("parts, {task.fields[captions]:,} captions"),
        TimeRemainingColumn(),
    )
    captions = 0
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=len(left), captions=0)
        for counts in _do_all(left, args.output, options, args.workers):
            captions += counts["captions"]
            progress.update(task, advance=1, captions=captions)
    total = total_counts(args.output, parts)
    summary = {"backend": options.backend, "parts": len(parts), **total}
    write_json(args.output / "summary.json", summary)
    _print_summary(total, args.output)
    return 0


def _options(args: argparse.Namespace) -> Options:
    for name in ("workers", "lines", "max_phrases"):
        if getattr(args, name) < 1:
            raise UserError(
                f"--{name.replace('_', '-')} {getattr(args, name)}: at least 1 expected"
            )
    for name in ("caption_column", "url_column"):
        if getattr(args, name) < 0:
            raise UserError(f"--{name.replace('_', '-')} {getattr(args, name)}: columns are from 0")
    if args.backend == "spacy" and not spacy_is_available():
        raise UserError("--backend spacy: spaCy with its model en_core_web_sm is not installed")
    try:
        args.image_name.format(index=0, md5="", sha1="")
    except (KeyError, IndexError, ValueError) as error:
        raise UserError(
            f"--image-name {args.image_name!r}: no format of index, md5 and sha1 ({error!r})"
        ) from error
    # The plan records it, so that an output never mixes two backends.
    backend: Backend = args.backend
    if backend == "auto":
        backend = "spacy" if spacy_is_available() else "rules"
    return Options(
        backend=backend,
        max_phrases=args.max_phrases,
        caption_column=args.caption_column,
        url_column=args.url_column,
        caption_key=args.caption_key,
        image_name=args.image_name,
        copy_shards=args.copy_shards,
    )


def _do_all(
    parts: Sequence[Part], folder: Path, options: Options, workers: int
) -> Iterator[dict[str, int]]:
    """The counts of each part, in order of completion."""
    try:
        if workers == 1 or len(parts) < 2:
            for part in parts:
                yield do_part(part, folder, options)
            return
        # Not fork: this process may have threads (the progress bar).
        context = multiprocessing.get_context("spawn")
        number = min(workers, len(parts))
        pool = ProcessPoolExecutor(number, mp_context=context, initializer=end_with_parent)
        try:
            futures = [pool.submit(do_part, part, folder, options) for part in parts]
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)
    except BrokenProcessPool as error:
        raise UserError(
            "a worker process was killed (out of memory?): repeat the command to continue, "
            "with fewer --workers or --lines"
        ) from error
    except OSError as error:
        raise UserError(f"--output {folder}: {error}; repeat the command to continue") from error


def _print_summary(total: dict[str, int], folder: Path) -> None:
    captions, phrases = total.get("captions", 0), total.get("phrases", 0)
    print(f"{captions:,} captions, {phrases:,} phrases in {folder}")
    for kind, number in sorted(total.items()):
        if kind not in ("captions", "phrases") and number:
            print(f"  {kind}: {number:,}", file=sys.stderr)
