"""The sample format, which mappers return and models read, and the check of its invariants.

`KEYS` declares every key. A mapper always gives the keys that its supervision requires, and the
optional ones that a config asks for (``keep`` of the mappers). `check_sample` refuses other keys.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.structures import Instances

from detclip2.data.text.clean import clean_phrase

Sample = dict[str, Any]

SUPERVISIONS = ("detection", "grounding", "caption", "vqa", "captioning")
"""The kinds of supervision of this package, each with its losses."""
_declared = set(SUPERVISIONS)
_BOXES = ("detection", "grounding")
_CAPTIONS = ("detection", "grounding", "caption", "captioning")


class Key(NamedTuple):
    """A key of the sample format."""

    type: type | tuple[type, ...]
    meaning: str
    required: tuple[str, ...] = ()
    """Those of `SUPERVISIONS` whose samples must have the key."""
    allowed: tuple[str, ...] = SUPERVISIONS
    """Those of `SUPERVISIONS` whose samples may have the key."""


KEYS: Mapping[str, Key] = {
    "image": Key(
        torch.Tensor, "uint8 or float (3, H, W), RGB, 0..255, resized and augmented", SUPERVISIONS
    ),
    "height": Key(int, "rows of the original image, px", SUPERVISIONS),
    "width": Key(int, "columns of the original image, px", SUPERVISIONS),
    "image_id": Key(object, "as the data set has it", SUPERVISIONS),
    "file_name": Key(str, 'for messages; "" for an image made in memory', SUPERVISIONS),
    "supervision": Key(str, "which losses apply", SUPERVISIONS),
    "phrases": Key(list, "M str: positives first, then sampled negatives", SUPERVISIONS),
    "num_positives": Key(int, "how many of `phrases` are positive", SUPERVISIONS),
    "own_phrases_only": Key(
        bool,
        "only its own phrases are negatives for this image, because phrases of other images may be "
        "in it without a box",
        SUPERVISIONS,
    ),
    "not_exhaustive": Key(
        torch.Tensor,
        "int64 (Q,), indices of positives whose instances are not all boxed: an anchor without a "
        "box is no negative for them",
        SUPERVISIONS,
    ),
    "instances": Key(
        Instances,
        "of size (H, W): `gt_boxes` (N, 4) XYXY px, `gt_classes` (N,) int64 indices into the "
        "positives; optional `gt_masks`, BitMasks (N, H, W), all False where no mask is known",
        _BOXES,
        _BOXES,
    ),
    "caption": Key(str, "a sentence about the image", allowed=_CAPTIONS),
    "phrase_spans": Key(
        list,
        "for each positive phrase its [begin, end) pairs of characters of `caption`, ascending; "
        "none where the caption does not have it literally",
        allowed=("grounding", "caption"),
    ),
    "phrase_order": Key(
        torch.Tensor,
        "int64 (M,), indices of `phrases` in the order of the data set, for a model that joins "
        "them into a caption",
        allowed=("detection",),
    ),
    "other_captions": Key(
        list,
        "str, captions of other images: negatives for a model that reads captions whole",
        allowed=("grounding",),
    ),
    "phrase_tokens": Key(
        np.ndarray,
        "int32 (3, M, T): the tokens of `phrases`, 1 for each and 0 for padding, and 1 for start, "
        "end and padding; the data loader adds them for a model that reads them",
    ),
    "question": Key(str, "a question about the image", ("vqa",)),
    "answers": Key(dict, "answer -> its score, a number", ("vqa",)),
    "target_text": Key(str, "the text to generate", ("captioning",)),
}
"""Key -> its type, meaning, and the supervisions that require and allow it."""

REQUIRED_KEYS = frozenset(name for name, key in KEYS.items() if key.required == SUPERVISIONS)
"""The keys of every sample."""
TEXT_KEYS = ("question", "answers", "target_text")
"""The keys that are copied from a record to its sample."""


def declare_supervision(name: str) -> None:
    """Make a kind of supervision known; each subclass of ``Mapper`` does so for its own.

    A sample of a kind that is not in `SUPERVISIONS` has the `REQUIRED_KEYS`, and may have every
    other key.
    """
    _declared.add(name)


class SkipSample(Exception):
    """A record that cannot become a sample; the loader counts it and takes the next one.

    Args:
        kind: one of the kinds of `detclip2.data.skips`.
        message: what is wrong, with the name of the file.
    """

    def __init__(self, kind: str, message: str):
        super().__init__(kind, message)
        self.kind = kind
        self.message = message

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}"


def check_sample(sample: Sample, max_phrases: int | None = None) -> None:
    """Check every invariant of the sample format.

    Args:
        sample: a dict with the keys of `KEYS`.
        max_phrases: the mapper's limit (150 detection, 100 grounding); None for no limit.

    Raises:
        ValueError: an invariant does not hold; the message names the first one.
    """
    try:
        _check_keys(sample)
        _check_image(sample)
        _check_phrases(sample, max_phrases)
        if "instances" in sample:
            _check_instances(sample)
        _check_text(sample)
    except ValueError as error:
        where = sample.get("file_name") or "an image"
        raise ValueError(f"sample of {where}: {error}") from None


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _check_keys(sample: Sample) -> None:
    missing = REQUIRED_KEYS - sample.keys()
    _require(not missing, f"keys {sorted(missing)} are missing")
    extra = sample.keys() - KEYS.keys()
    _require(not extra, f"keys {sorted(extra)} are not of the sample format")
    supervision = sample["supervision"]
    _require(
        supervision in _declared, f"supervision is {supervision!r}, not one of {sorted(_declared)}"
    )
    for name, key in KEYS.items():
        if name not in sample:
            _require(
                supervision not in key.required,
                f"key {name!r} is missing, which the supervision {supervision!r} requires",
            )
            continue
        _require(
            supervision in key.allowed or supervision not in SUPERVISIONS,
            f"key {name!r} is not of the supervision {supervision!r}",
        )
        _require(
            isinstance(sample[name], key.type),
            f"{name} is a {type(sample[name]).__name__}, not {key.meaning}",
        )


def _check_image(sample: Sample) -> None:
    image = sample["image"]
    _require(image.ndim == 3 and image.shape[0] == 3, "image is not a (3, H, W) tensor")
    _require(min(image.shape) > 0, "the image has no pixels")
    _require(sample["height"] > 0 and sample["width"] > 0, "the original size is not positive")


def _check_phrases(sample: Sample, max_phrases: int | None) -> None:
    phrases, positives = sample["phrases"], sample["num_positives"]
    _require(all(isinstance(p, str) for p in phrases), "a phrase is not a string")
    _require(all(p and p == clean_phrase(p) for p in phrases), "a phrase is empty or not clean")
    # Positives are thus unique, and no negative is a positive.
    _require(len({p.casefold() for p in phrases}) == len(phrases), "a phrase is there twice")
    _require(0 <= positives <= len(phrases), "num_positives is not within the phrases")
    _require(max_phrases is None or len(phrases) <= max_phrases, "more phrases than the limit")
    not_exhaustive = sample["not_exhaustive"]
    if (tokens := sample.get("phrase_tokens")) is not None:
        _require(tokens.ndim == 3, "phrase_tokens is not (3, M, T)")
        _require(tokens.shape[:2] == (3, len(phrases)), "phrase_tokens is not of the phrases")
    _require(not_exhaustive.dtype == torch.int64, "not_exhaustive is not int64")
    _require(
        bool(((not_exhaustive >= 0) & (not_exhaustive < positives)).all()),
        "not_exhaustive names a phrase that is not positive",
    )
    if sample["supervision"] == "caption":
        _require(positives == len(phrases) > 0, "a caption sample has positive phrases only")


def _check_instances(sample: Sample) -> None:
    instances, positives = sample["instances"], sample["num_positives"]
    height, width = sample["image"].shape[1:]
    _require(tuple(instances.image_size) == (height, width), "the size of instances is another")
    boxes, classes = instances.gt_boxes.tensor, instances.gt_classes
    _require(boxes.shape == (len(classes), 4), "gt_boxes is not (N, 4)")
    _require(classes.dtype == torch.int64, "gt_classes is not int64")
    _require(bool(((classes >= 0) & (classes < positives)).all()), "gt_classes is not positive")
    _require(bool(torch.isfinite(boxes).all()), "a box is not finite")
    _require(bool((boxes[:, 2:] > boxes[:, :2]).all()), "a box has no area")
    limit = boxes.new_tensor([width, height, width, height])
    _require(bool(((boxes >= 0) & (boxes <= limit)).all()), "a box is outside the image")
    if instances.has("gt_masks"):
        masks = instances.gt_masks.tensor
        _require(masks.dtype == torch.bool, "gt_masks is not bool")
        _require(masks.shape == (len(classes), height, width), "gt_masks is not (N, H, W)")


def _check_text(sample: Sample) -> None:
    if "phrase_spans" in sample:
        _require("caption" in sample, "there are phrase_spans without a caption")
        spans, length = sample["phrase_spans"], len(sample["caption"])
        _require(
            len(spans) == sample["num_positives"],
            "phrase_spans has not one entry for each positive phrase",
        )
        _require(
            all(0 <= begin < end <= length for of_phrase in spans for begin, end in of_phrase),
            "a span of phrase_spans is not inside the caption",
        )
    if "phrase_order" in sample:
        places = sorted(sample["phrase_order"].tolist())
        _require(places == [*range(len(sample["phrases"]))], "phrase_order is no permutation")
    if "other_captions" in sample:
        _require("phrase_spans" in sample, "there are other_captions without phrase_spans")
        _require(
            all(isinstance(text, str) and text.strip() for text in sample["other_captions"]),
            "one of other_captions is empty or no text",
        )
    for key in TEXT_KEYS:
        if key in sample:
            _require(not (problem := text_problem(key, sample[key])), problem)


def text_problem(key: str, value: Any) -> str:
    """Why `value` is not valid for a key of `TEXT_KEYS`; "" if it is."""
    if not isinstance(value, KEYS[key].type) or not value:
        return f"{key} is {str(value)[:80]!r}, not {KEYS[key].meaning}"
    for answer, score in value.items() if isinstance(value, dict) else ():
        if not isinstance(answer, str) or not isinstance(score, int | float):
            return f"{key} has {answer!r}: {score!r}, not an answer and its score"
    return ""
