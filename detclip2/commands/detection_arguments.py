"""Arguments of the commands that detect: what to look for, and which detections are returned."""

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from detclip2.data.text.caption_phrases import CaptionPhrases
from detclip2.data.text.names import BUILTIN_NAMES
from detclip2.modeling.thresholds import MEANINGS
from detclip2.utils.errors import UserError

if TYPE_CHECKING:
    from detclip2.inference.predictor import OpenVocabularyPredictor
    from detclip2.inference.vocabulary import Vocabulary

EVERYTHING = "v3det"
"""The built-in list that ``--everything`` looks for."""

logger = logging.getLogger(__name__)


def add_vocabulary_arguments(parser: argparse.ArgumentParser, caption: bool = True) -> None:
    """Declare the ways to say what to look for, one of which is required."""
    names = parser.add_mutually_exclusive_group(required=True)
    names.add_argument(
        "--names", help='names to detect, separated by commas: "red apple, fire engine"'
    )
    names.add_argument(
        "--names-file",
        type=Path,
        metavar="FILE",
        help="a file of names: one per line, a .csv, or the categories of a COCO .json",
    )
    names.add_argument(
        "--vocabulary",
        metavar="FILE|NAME",
        help=f"a saved vocabulary (.safetensors), or a built-in list: {', '.join(BUILTIN_NAMES)}",
    )
    names.add_argument(
        "--everything",
        action="store_true",
        help=f"look for the 13,204 names of the built-in list {EVERYTHING}, one for an object",
    )
    if caption:
        names.add_argument(
            "--caption",
            help='a sentence, such as "a man next to two small dogs": its noun phrases are '
            "detected; GLIP reads it whole",
        )


def vocabulary_of(args: argparse.Namespace) -> "Vocabulary | CaptionPhrases":
    """What `add_vocabulary_arguments` asked for.

    Raises:
        UserError: it cannot be read, or has a name that is none.
    """
    from detclip2.inference.vocabulary import Vocabulary

    if getattr(args, "caption", None) is not None:
        return CaptionPhrases.find(args.caption)
    if getattr(args, "everything", False):
        return Vocabulary.builtin(EVERYTHING)
    if args.vocabulary in BUILTIN_NAMES:
        return Vocabulary.builtin(args.vocabulary)
    if args.vocabulary is not None:
        return Vocabulary.load(args.vocabulary)
    if args.names_file is not None:
        return Vocabulary.from_file(args.names_file)
    if args.names in BUILTIN_NAMES:
        logger.warning(
            "--names %s looks for a thing of this name; its built-in list is --vocabulary %s",
            *(args.names, args.names),
        )
    return Vocabulary.from_text(args.names)


def add_setting_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the settings of `DetectionThresholds`, the thresholds of names, and tiles."""
    chosen = parser.add_argument_group(
        "settings of the detections",
        "the defaults are in the model's config; the output names the score threshold",
    )
    for name, kind in (("score_threshold", fraction), ("nms_threshold", fraction)):
        chosen.add_argument(_option(name), type=kind, metavar="X", help=MEANINGS[name])
    chosen.add_argument(
        "--threshold",
        action="append",
        default=[],
        type=_threshold,
        metavar="X|NAME=X",
        help="the score threshold of a name, such as 'traffic light=0.3', instead of the common "
        "one and of that in a vocabulary file; a bare number is the same as --score-threshold. May "
        "be given again for another name",
    )
    chosen.add_argument(
        "--class-agnostic-nms",
        action=argparse.BooleanOptionalAction,
        help=MEANINGS["class_agnostic_nms"],
    )
    chosen.add_argument(
        "--max-detections", type=_count, metavar="N", help=MEANINGS["max_detections"]
    )
    chosen.add_argument(
        "--tile",
        type=_count,
        metavar="PX",
        help="detect in overlapping tiles of this side too, such as 640: for small things in "
        "images larger than that",
    )


def settings_of(args: argparse.Namespace) -> dict[str, object]:
    """The four settings by name; None where the model's default counts.

    Raises:
        UserError: two common score thresholds are given.
    """
    settings = {name: getattr(args, name) for name in MEANINGS}
    common = [value for name, value in args.threshold if not name]
    if len(common) + (args.score_threshold is not None) > 1:
        raise UserError("the common score threshold is given twice: give one number")
    if common:
        settings["score_threshold"] = common[0]
    if args.everything and settings["class_agnostic_nms"] is None:
        settings["class_agnostic_nms"] = True
    return settings


def with_thresholds(
    predictor: "OpenVocabularyPredictor",
    vocabulary: "Vocabulary | CaptionPhrases",
    given: list[tuple[str, float]],
) -> "tuple[Vocabulary | CaptionPhrases, dict[str, float]]":
    """A vocabulary with the thresholds of ``--threshold``, and the settings of calls with it.

    The named thresholds count instead of others, also if they are lower than the common one.

    Raises:
        UserError: a name is not in the vocabulary.
    """
    named = {name: value for name, value in given if name}
    if not named:
        return vocabulary, {}
    if isinstance(vocabulary, CaptionPhrases):
        raise UserError("--threshold of a name does not go with --caption: give --names")
    if unknown := [name for name in named if name not in vocabulary.labels]:
        raise UserError(
            f"--threshold {unknown[0]}={named[unknown[0]]:g}: this name is not in the vocabulary"
        )
    common = common_threshold(predictor, vocabulary)
    own = vocabulary.thresholds or (0.0,) * len(vocabulary)
    every = {
        label: named.get(label, max(common, threshold))
        for label, threshold in zip(vocabulary.labels, own, strict=True)
    }
    return vocabulary.with_thresholds(every), {"score_threshold": min(every.values())}


def common_threshold(
    predictor: "OpenVocabularyPredictor", vocabulary: "Vocabulary | None"
) -> float:
    """The least score of all labels in a call that sets none; 0 without one.

    Of calibrated scores it is what was asked for: that of the model is not one of them.
    """
    calibrated = vocabulary is not None and vocabulary.calibration is not None
    settings = predictor.asked if calibrated else predictor.effective_thresholds
    return settings.score_threshold or 0.0


def fraction(text: str) -> float:
    """A number from 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0 to 1")
    return value


def _threshold(text: str) -> tuple[str, float]:
    """A name, "" for all, and its threshold; the last "=" separates them."""
    name, _, number = text.rpartition("=")
    try:
        return name.strip(), fraction(number)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text}: expected a number from 0 to 1, or a name and one: 'traffic light=0.3'"
        ) from None


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
