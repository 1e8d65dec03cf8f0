"""``detclip2 predict``: detect named things in images and videos; print and draw them."""

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

from rich.console import Console
from rich.progress import track

from detclip2.commands.detection_arguments import (
    add_setting_arguments,
    add_vocabulary_arguments,
    common_threshold,
    settings_of,
    vocabulary_of,
    with_thresholds,
)
from detclip2.commands.input_files import HELP, Input, input_files
from detclip2.commands.model_arguments import (
    add_model_arguments,
    check_model_arguments,
    load_predictor,
)
from detclip2.commands.numbers import positive
from detclip2.data.io.image_item import ImageItem
from detclip2.data.io.live_video import LiveVideo
from detclip2.data.io.read_ahead import read_ahead
from detclip2.data.io.url import is_url
from detclip2.data.text.caption_phrases import CaptionPhrases
from detclip2.utils.errors import UserError
from detclip2.utils.packages_on_demand import import_on_demand

if TYPE_CHECKING:  # all below needs torch, and is imported once the arguments are known to be right
    import numpy as np

    from detclip2.commands.reports import Report
    from detclip2.inference.predictor import OpenVocabularyPredictor
    from detclip2.inference.results_file import ResultsFile
    from detclip2.inference.tracking import Tracker

RESULTS = (".json", ".csv")
_THREADS, _AHEAD = 2, 3  # images that are read, and in memory, while another one is detected in

EXAMPLE = 'detclip2 predict street.jpg --names "bus, traffic light" --output annotated'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help=f"{HELP}; of a camera (camera:0) or a stream (rtsp://...), until it ends or Ctrl-C is "
        "pressed",
    )
    add_vocabulary_arguments(parser)
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="folder for annotated files"
    )
    parser.add_argument(
        "--json", action="store_true", help="write the detections beside each of them"
    )
    parser.add_argument(
        "--results",
        type=_results,
        metavar="FILE",
        help="write the detections of all files to this one: .json (COCO) or .csv",
    )
    parser.add_argument(
        "--masks",
        nargs="?",
        const="rle",
        choices=("rle", "polygons"),
        help="draw masks, and write them in COCO's format with --json and --results x.json: as "
        "compressed run lengths (the default), or as polygons, which have no holes; for models "
        "with a mask head",
    )
    parser.add_argument(
        "--track",
        action="store_true",
        help="give the objects of a video ids that stay with them (needs the package trackers)",
    )
    parser.add_argument(
        "--max-frames", type=positive(int), metavar="N", help="end cameras and streams after so "
        "many frames"
    )  # fmt: skip
    add_model_arguments(parser)
    parser.add_argument(
        "--tuned",
        type=Path,
        metavar="FILE",
        help="the file of a tuning that started from this model (detclip2 finetune --tune)",
    )
    add_setting_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Detect in every file; return 2 if one of them failed.

    Of up to `reports.MOST_TABLES` files each has a table, more have a summary. What was passed over
    in folders is listed at the end, and is no failure.
    """
    named, errors, passed_over = input_files(args.files, args.output)
    files = [file for file in named if _is_there(file)]
    missing = (_path(file) for file in named if not _is_there(file))
    errors += [f"{path}: this file does not exist" for path in missing]
    if not files:
        raise UserError("\n".join([*errors, *passed_over]))
    settings = settings_of(args)
    check_model_arguments(args)
    _make_folder(args.output)

    import_on_demand()
    from detclip2.commands.reports import Report
    from detclip2.inference.results_file import ResultsFile

    vocabulary = vocabulary_of(args)  # before the model is loaded: errors are reported at once
    predictor = load_predictor(args, tuned=args.tuned, masks=args.masks is not None, **settings)
    vocabulary, changed = with_thresholds(predictor, vocabulary, args.threshold)
    predictor.set_vocabulary(vocabulary)
    report = Report(len(files), predictor)
    labels = vocabulary.phrases if isinstance(vocabulary, CaptionPhrases) else vocabulary.labels
    polygons = args.masks == "polygons"
    results = ResultsFile(args.results, labels, polygons) if args.results else None
    annotate = _Annotator(predictor, args, changed, report, results)
    for error in errors:
        _report_failure(error)
    failed = len(errors)
    pairs = _shown(zip(files, _outputs(files, args.output), strict=True), report)
    for (file, target), pixels in read_ahead(pairs, _read, _THREADS, _AHEAD):
        try:
            if isinstance(pixels, UserError):
                raise pixels
            annotate(file, target, pixels)
        except UserError as error:
            failed += 1
            _report_failure(error)
    report.end(args.output)
    if results is not None:
        results.write()
        print(f"results: {args.results}")
    for line in passed_over:
        print(line, file=sys.stderr)
    return 2 if failed else 0


class _Annotator:
    """Detects in a file, and writes and reports what is found."""

    def __init__(
        self,
        predictor: "OpenVocabularyPredictor",
        args: argparse.Namespace,
        changed: dict[str, Any],
        report: "Report",
        results: "ResultsFile | None",
    ) -> None:
        self.args, self.report, self.results = args, report, results
        self.polygons = args.masks == "polygons"
        self.detect: Callable[..., Any] = partial(predictor, **changed)
        if args.tile:
            from detclip2.inference.tiles import TiledPredictor

            self.detect = partial(TiledPredictor(predictor, args.tile), **changed)
        self.detect_frames, self.track = self.detect, None
        if args.track:
            self.track = self._tracker(predictor, changed)

    def _tracker(
        self, predictor: "OpenVocabularyPredictor", changed: dict[str, Any]
    ) -> "Callable[[float], Tracker]":
        from detclip2.inference.tracking import Tracker

        least = changed.get("score_threshold") or _least_score(predictor)
        if not least:
            raise UserError("--track needs a score threshold above 0: give --score-threshold")
        # A missing package is reported before anything is detected.
        low = Tracker(least, 25).low_threshold
        self.detect_frames = partial(self.detect, score_threshold=low)
        return partial(Tracker, least)

    def __call__(self, file: Input, target: Path, pixels: "np.ndarray | None") -> None:
        from detclip2.visualization.annotate import annotate_image, annotate_video

        record = target.with_name(f"{target.name}.json") if self.args.json else None
        if isinstance(file, ImageItem):
            instances = annotate_image(
                self.detect, file.shown, target, record, self.polygons, pixels
            )
            self.report.image(file.shown, instances, target)
            if self.results is not None:
                self.results.add(file.shown, instances)
            return
        if isinstance(file, LiveVideo):
            file.count = self.args.max_frames
        tally = annotate_video(
            *(self.detect_frames, file, target, record, self.results),
            polygons=self.polygons,
            track=self.track,
        )
        self.report.video(_path(file), tally, target)


def _least_score(predictor: "OpenVocabularyPredictor") -> float | None:
    """The score from which a detection begins a track."""
    vocabulary = predictor.vocabulary
    common = common_threshold(predictor, vocabulary)
    if common or vocabulary is None or vocabulary.calibration is None:
        return common
    return min((limit for limit in vocabulary.thresholds or () if limit > 0), default=None)


def _read(pair: tuple[Input, Path]) -> "np.ndarray | None":
    """The pixels of an image; videos are read frame by frame later."""
    return pair[0].read() if isinstance(pair[0], ImageItem) else None


def _shown(files: Iterable[tuple[Input, Path]], report: "Report") -> Iterable[tuple[Input, Path]]:
    """The files, with a progress bar on a terminal if they have no tables."""
    console = Console(stderr=True)
    if report.has_tables or not console.is_terminal:
        return files
    return track(files, "detecting", report.files, console=console, transient=True)


def _path(file: Input) -> str:
    """Where an input is."""
    return str(file) if isinstance(file, Path) else file.path


def _is_there(file: Input) -> bool:
    """Whether a file exists; for an address, this is known when it is read."""
    return isinstance(file, LiveVideo) or is_url(_path(file)) or os.path.lexists(_path(file))


def _report_failure(error: UserError | str) -> None:
    """Print why a file or folder failed."""
    print(f"detclip2: {error}", file=sys.stderr)


def _outputs(files: list[Input], folder: Path) -> Iterator[Path]:
    """Paths of annotated files, different from each other and from the input files.

    JPEG stays JPEG; other images become PNG, videos MP4.
    """
    taken = {Path(_path(file)).absolute() for file in files}
    for file in files:
        name = _name(file)
        suffix = ".jpg" if name.suffix.lower() in (".jpg", ".jpeg") else ".png"
        suffix = suffix if isinstance(file, ImageItem) else ".mp4"
        number = 1
        while True:
            ending = f"-{number}" if number > 1 else ""
            path = folder / f"{name.stem}.detections{ending}{suffix}"
            if path.absolute() not in taken:
                break
            number += 1
        taken.add(path.absolute())
        yield path


def _name(file: Input) -> Path:
    """The name of a file of the input, without its folder."""
    if isinstance(file, LiveVideo):
        return Path(f"{file.name}.mp4")
    if isinstance(file, ImageItem) and is_url(file.path):
        return Path(Path(urlparse(file.path).path).name or "image")
    return Path(Path(file if isinstance(file, Path) else file.name).name)


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path}: this folder cannot be made: {error.strerror}") from None


def _results(text: str) -> Path:
    if Path(text).suffix not in RESULTS:
        raise argparse.ArgumentTypeError(f"{text} does not end in {' or '.join(RESULTS)}")
    return Path(text)
