"""``detclip2 corrected``: make training data of annotations that a person has corrected."""

import argparse
import sys
from pathlib import Path

from detclip2.data.text.names import split_names
from detclip2.utils.errors import UserError
from detclip2.utils.files import write_json

ALL = "all"

EXAMPLE = "detclip2 corrected export.json --labels labels --output train.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("export", type=Path, help="COCO's json, as of CVAT, or Label Studio's json")
    parser.add_argument(
        "--labels",
        type=Path,
        required=True,
        metavar="DIR",
        help="the --output of the `detclip2 label` whose labels were corrected",
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FILE", help="json for `detclip2 finetune`"
    )
    parser.add_argument(
        "--reviewed",
        metavar=f"FILE|{ALL}",
        help="file names of the images that a person has looked at, one a line, or all (default: "
        "those that Label Studio says were submitted; of other tools, those that were changed)",
    )
    parser.add_argument(
        "--complete",
        metavar="NAMES",
        help="names, separated by commas, or all, of which the reviewer boxed every instance: "
        "without a box they are background. Other names without a box are unknown",
    )


def run(args: argparse.Namespace) -> int:
    """Read the export, and write what is known of each name in each reviewed image."""
    from detclip2.labelling.corrections import read_export, read_reviewed, to_training
    from detclip2.labelling.journal import Journals
    from detclip2.labelling.plan import read_plan

    plan = read_plan(args.labels)
    corrections = read_export(args.export)
    reviewed = None
    if args.reviewed == ALL:
        reviewed = {one.file_name for one in corrections.images}
    elif args.reviewed:
        reviewed = read_reviewed(Path(args.reviewed))
    complete = plan.labels if args.complete == ALL else split_names(args.complete or "")
    entries = Journals(args.labels, plan.images).entries()
    content, summary = to_training(corrections, plan.labels, entries, reviewed, complete)
    try:
        write_json(args.output, content, indent=None)
    except OSError as error:
        raise UserError(f"{args.output}: cannot be written: {error.strerror}") from None
    for what, number in corrections.unread.items():
        print(f"not read: {number:,} {what}", file=sys.stderr)
    print(
        f"{args.output}: {summary.reviewed:,} reviewed images with {summary.boxes:,} boxes; in "
        f"them {summary.removed:,} names were found and removed again, which are background there"
    )
    if summary.not_reviewed:
        print(f"{summary.not_reviewed:,} images were not reviewed and are not in it")
    if summary.renamed:
        print(f"{summary.renamed:,} images have the names of the run instead of the tool's")
    return 0
