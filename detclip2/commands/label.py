"""``detclip2 label``: annotate millions of images, restartably, for other tools and training."""

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from detclip2 import __version__
from detclip2.commands.detection_arguments import (
    add_setting_arguments,
    add_vocabulary_arguments,
    settings_of,
    vocabulary_of,
    with_thresholds,
)
from detclip2.commands.input_files import HELP, InputLister
from detclip2.commands.model_arguments import (
    add_model_arguments,
    check_model_arguments,
    config_and_weights,
    load_predictor,
)
from detclip2.commands.numbers import positive
from detclip2.commands.tables import console_for_tables
from detclip2.data.io.image_item import ImageItem
from detclip2.data.skips import KINDS
from detclip2.utils.errors import UserError
from detclip2.utils.files import write_json
from detclip2.utils.packages_on_demand import import_on_demand

if TYPE_CHECKING:
    from collections.abc import Iterator

    from detclip2.inference.predictor import OpenVocabularyPredictor
    from detclip2.labelling.detector import DetectorSettings
    from detclip2.labelling.formats import Format
    from detclip2.labelling.part import Part
    from detclip2.labelling.plan import Plan
    from detclip2.labelling.progress import Progress
    from detclip2.labelling.report import Report

FORMATS = ("coco", "yolo", "voc", "labelme", "labelstudio")
REPORT = "report.json"
ROWS_SHOWN = 20

EXAMPLE = "detclip2 label images --vocabulary coco --output labels --format coco,yolo"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("images", nargs="+", metavar="DIR|TAR|LIST", help=HELP)
    add_vocabulary_arguments(parser, caption=False)
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder; the same command, repeated, continues in it",
    )
    parser.add_argument(
        "--format",
        type=_formats,
        default=("coco",),
        metavar="NAME,...",
        help=f"what to write at the end: {', '.join(FORMATS)} (default: coco). A repeated command "
        "writes other formats of the same detections",
    )
    parser.add_argument("--draw", action="store_true", help="write images with the detections too")
    parser.add_argument(
        "--retry-skipped", action="store_true", help="try the images again that were skipped before"
    )
    many = parser.add_argument_group("many machines and devices")
    many.add_argument(
        "--part",
        default="1/1",
        metavar="I/N",
        help="do part I of N, such as 3/16, beside the others, with the same --output; the last "
        "one writes the formats",
    )
    many.add_argument(
        "--devices",
        metavar="NAME,...",
        help='a process for each, such as "cuda:0,cuda:1", instead of --device',
    )
    many.add_argument(
        "--ray",
        metavar="ADDRESS",
        help='over a Ray cluster: its address, "auto", or "local" for one on this machine',
    )
    many.add_argument(
        "--workers", type=positive(int), metavar="N", help="number of workers of --ray (default: "
        "one for each GPU, or each core)"
    )  # fmt: skip
    many.add_argument(
        "--batch-size", type=positive(int), metavar="B", help="images of a forward pass (default: "
        "the model's)"
    )  # fmt: skip
    many.add_argument(
        "--readers", type=positive(int), metavar="N", help="threads that read images ahead "
        "(default: 4, or fewer cores)"
    )  # fmt: skip
    add_model_arguments(parser)
    add_setting_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Detect in what is left, and write the formats once all parts are done."""
    given = settings_of(args)
    check_model_arguments(args)
    import_on_demand()
    from detclip2.labelling.part import Part
    from detclip2.labelling.plan import prepare
    from detclip2.labelling.progress import Progress
    from detclip2.labelling.run import remaining

    part = Part.parse(args.part)
    _check_ways(args, part)
    vocabulary = vocabulary_of(args)
    predictor = load_predictor(args, **given, batch_size=args.batch_size)
    vocabulary, changed = with_thresholds(predictor, vocabulary, args.threshold)
    asked = {name: value for name, value in given.items() if value is not None} | changed
    settings = _settings(args, vocabulary, asked)
    stated = vars(predictor.effective_thresholds) | asked
    formats = _make_formats(args, settings, stated["score_threshold"])
    lister = InputLister(args.output)
    plan = prepare(args.output, _images(lister, args.images), _plan(args, settings, stated))
    for line in lister.passed_over():
        print(line, file=sys.stderr)
    left = len(remaining(args.output, part, args.retry_skipped))
    total = len(range(part.index, plan.images, part.count))
    if left < total:
        print(f"{total - left:,} of {total:,} images are done already")
    progress = Progress(total, total - left)
    try:
        with progress.shown():
            _label(args, part, predictor, settings, progress)
    except KeyboardInterrupt:
        raise UserError(
            f"stopped; {progress.done:,} of {total:,} images are done: repeat the command to "
            "continue"
        ) from None
    if left:
        print(f"{left:,} images in {progress.seconds:.1f} s: {progress.rate:.1f} images/s")
    if missing := len(remaining(args.output, Part(0, 1))):
        print(f"{missing:,} images of other parts are left; the last part writes the formats")
        return 0
    report = _write(args.output, plan, formats)
    _print(report, plan)
    return 0


def _label(
    args: argparse.Namespace,
    part: "Part",
    predictor: "OpenVocabularyPredictor",
    settings: "DetectorSettings",
    progress: "Progress",
) -> None:
    """Do what is left of a part, in the way that the arguments choose."""
    from detclip2.labelling.detector import Detector
    from detclip2.labelling.run import label_on_devices, label_part

    if args.ray:
        from detclip2.labelling.ray_cluster import label_with_ray

        retry, advance = args.retry_skipped, progress.advance
        label_with_ray(args.ray, args.output, settings, args.workers, retry, advance)
    elif args.devices:
        names = [name.strip() for name in args.devices.split(",")]
        label_on_devices(args.output, part, settings, names, args.retry_skipped, progress.advance)
    else:
        make = partial(Detector, predictor, settings)
        label_part(args.output, part, make, args.retry_skipped, progress.advance)


def _make_formats(
    args: argparse.Namespace, settings: "DetectorSettings", score: float
) -> "list[Format]":
    """The formats, once their labels are checked."""
    from detclip2.labelling.formats import FORMATS as CLASSES

    model = Path(settings.config).absolute().parent.name
    origin = f"detclip2 {__version__}, {model}, scores from {score:g}"
    made = [CLASSES[name](args.output, settings.vocabulary.labels, origin) for name in args.format]
    for one in made:
        one.check()
    return made


def _write(output: Path, plan: "Plan", formats: "list[Format]") -> "Report":
    """Write all formats and the report."""
    from detclip2.labelling.formats import write_formats
    from detclip2.labelling.image_list import ImageList
    from detclip2.labelling.journal import Journals
    from detclip2.labelling.plan import IMAGES
    from detclip2.labelling.report import Report

    journals = Journals(output, plan.images)
    report = Report(plan.labels).add(journals.entries())
    renamed = write_formats(formats, journals.entries, ImageList(output / IMAGES))
    content = {**report.to_json(), "listed twice": plan.repeated, "renamed": renamed}
    write_json(output / REPORT, content)
    for one in formats:
        print(f"written: {output}/{one.summary}")
    if renamed:
        print(
            f"{len(renamed):,} files have the number of their image in their name, because another "
            f"image differs in its suffix alone, such as {renamed[0]}"
        )
    return report


def _print(report: "Report", plan: "Plan") -> None:
    """Print the report: labels, the most frequent first, and what was skipped."""
    console = console_for_tables()
    found = report.frequent()
    if found:
        table = Table("label", box=SIMPLE_HEAD)
        table.add_column("images", justify="right")
        table.add_column("boxes", justify="right")
        for label, images, boxes in found[:ROWS_SHOWN]:
            table.add_row(Text(label, overflow="fold"), f"{images:,}", f"{boxes:,}")
        console.print(table)
    if len(found) > ROWS_SHOWN:
        console.print(f"and {len(found) - ROWS_SHOWN:,} more labels in {REPORT}")
    unseen = len(report.labels) - len(found)
    console.print(
        f"{report.labelled:,} images, {int(report.boxes.sum()):,} boxes; nothing in "
        f"{report.empty:,} images; {unseen:,} labels were not found"
    )
    if plan.repeated:
        console.print(f"{plan.repeated:,} images were listed more than once, and are done once")
    for kind, number in report.skipped.items():
        console.print(Text(f"skipped {number:,}: {KINDS[kind]}, such as"), soft_wrap=True)
        for reason in report.examples[kind]:
            console.print(Text(f"  {reason}"), soft_wrap=True)


def _check_ways(args: argparse.Namespace, part: "Part") -> None:
    """Check that the arguments choose one way to divide the images."""
    if args.ray and part.count > 1:
        raise UserError("--ray divides the images itself: give no --part")
    if sum(map(bool, (args.ray, args.devices, args.device))) > 1:
        raise UserError("give one of --device, --devices and --ray")
    if args.ray or args.devices:
        args.device = "cpu"  # of the model in this process, which detects nothing


def _formats(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in FORMATS:
            raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(FORMATS)}")
    return names


def _images(lister: InputLister, arguments: list[str]) -> "Iterator[ImageItem]":
    """The images that the arguments name.

    Raises:
        UserError: at the end, if an argument cannot be listed: the run has not begun yet.
    """
    for item in lister.items(arguments):
        if isinstance(item, ImageItem):
            yield item
        else:
            where = str(item) if isinstance(item, Path) else item.path
            lister.pass_over("the arguments", "video(s): `detclip2 predict` reads them", where)
    if lister.errors:
        raise UserError("\n".join(lister.errors))


def _settings(
    args: argparse.Namespace, vocabulary: object, asked: dict[str, Any]
) -> "DetectorSettings":
    """All that makes a detector."""
    from detclip2.inference.vocabulary import Vocabulary
    from detclip2.labelling.detector import DetectorSettings

    assert isinstance(vocabulary, Vocabulary)
    config, weights = config_and_weights(args)
    return DetectorSettings(
        config=str(config),
        weights=str(weights),
        trust_config=args.trust_config,
        vocabulary=vocabulary,
        settings=asked,
        batch_size=args.batch_size,
        tile=args.tile,
        drawn=args.output / "drawn" if args.draw else None,
        **({"readers": args.readers} if args.readers else {}),
    )


def _plan(
    args: argparse.Namespace, settings: "DetectorSettings", stated: dict[str, Any]
) -> dict[str, object]:
    """The fields of a `Plan` but those of the images; the model's own settings are stated too."""
    from detclip2.labelling.plan import model_identity, vocabulary_identity

    return {
        "labels": settings.vocabulary.labels,
        "vocabulary": vocabulary_identity(settings.vocabulary),
        "model": model_identity(settings.config, settings.weights),
        "settings": {**stated, "tile": args.tile},
    }
