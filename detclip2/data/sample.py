"""The one sample format that every mapper returns and the model reads, and its invariants.

========================  ======================================================================
key                       meaning
========================  ======================================================================
``image``                 uint8 or float tensor (3, H, W), RGB, 0..255, resized and augmented
``height``, ``width``     int, pixels of the original image
``image_id``              int or str, as the data set has it
``file_name``             str, what to name in a message ("" for images made in memory)
``source``                "detection", "grounding" or "caption": which losses apply
``phrases``               list of M str: positives first, then the sampled negatives
``num_positives``         int, how many of ``phrases`` are positive
``own_phrases_only``      bool: for this image only its own phrases count as negatives, because
                          phrases of other images may be present in it unseen
``not_exhaustive``        int64 tensor (Q,), indices of positives whose instances are not all
                          boxed: an anchor without a box is no negative for them
``instances``             Instances of size (H, W): ``gt_boxes`` (N, 4) XYXY absolute pixels,
                          ``gt_classes`` (N,) int64 indices into ``phrases``; absent for captions
========================  ======================================================================
"""

import re
import unicodedata
from typing import Any

import torch

SOURCES = ("detection", "grounding", "caption")
REQUIRED_KEYS = frozenset(
    {
        "image",
        "height",
        "width",
        "image_id",
        "file_name",
        "source",
        "phrases",
        "num_positives",
        "own_phrases_only",
        "not_exhaustive",
    }
)
MAX_PHRASE_LENGTH = 1000  # characters; the text tower reads 16 tokens (paper, sec. 4.1)

_KEPT = frozenset("\u200c\u200d")  # zero-width (non-)joiner
_DROPPED = frozenset({"Cc", "Cf", "Cs"})  # control, format, lone surrogate
_WHITESPACE = re.compile(r"\s+")


class SkipSample(Exception):
    """A record that cannot become a sample; the loader counts it and takes the next one.

    Args:
        kind: one of the kinds of :mod:`detclip2.data.skips`.
        message: what was wrong, with the name of the file.
    """

    def __init__(self, kind: str, message: str):
        super().__init__(kind, message)
        self.kind = kind
        self.message = message

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}"


def clean_phrase(text: str) -> str:
    """The text as a phrase: NFC, one line, no control characters, at most 1,000 characters.

    Zero-width joiners stay (emoji and some scripts are written with them); other format
    characters, lone surrogates and the replacement character go.
    """
    # Cut before the work, so that a 100 MB "caption" costs no more than a long one.
    text = _WHITESPACE.sub(" ", text[: 4 * MAX_PHRASE_LENGTH])
    text = "".join(c for c in text if c in _KEPT or unicodedata.category(c) not in _DROPPED)
    text = unicodedata.normalize("NFC", text.replace("\ufffd", ""))
    return _WHITESPACE.sub(" ", text).strip()[:MAX_PHRASE_LENGTH].rstrip()


def unique_phrases(phrases: list[str]) -> list[str]:
    """The cleaned phrases without empty ones and repetitions (also in other case), in order."""
    found: dict[str, str] = {}
    for phrase in map(clean_phrase, phrases):
        if phrase:
            found.setdefault(phrase.casefold(), phrase)
    return list(found.values())


def check_sample(sample: dict[str, Any], max_phrases: int | None = None) -> None:
    """Check every invariant of the sample format.

    Args:
        sample: what a mapper returned.
        max_phrases: the most phrases the source allows (150 detection, 100 grounding).

    Raises:
        ValueError: naming the first invariant that does not hold.
    """

    def require(condition: bool, message: str) -> None:
        if not condition:
            raise ValueError(f"sample of {sample.get('file_name') or 'an image'}: {message}")

    missing = REQUIRED_KEYS - sample.keys()
    require(not missing, f"keys {sorted(missing)} are missing")
    extra = sample.keys() - REQUIRED_KEYS - {"instances"}
    require(not extra, f"keys {sorted(extra)} are not of the sample format")
    image, phrases, positives = sample["image"], sample["phrases"], sample["num_positives"]
    require(sample["source"] in SOURCES, f"source is {sample['source']!r}, not one of {SOURCES}")
    require(
        isinstance(image, torch.Tensor) and image.ndim == 3 and image.shape[0] == 3,
        "image is not a (3, H, W) tensor",
    )
    require(min(image.shape) > 0, "the image has no pixels")
    require(sample["height"] > 0 and sample["width"] > 0, "the original size is not positive")
    require(all(isinstance(p, str) for p in phrases), "a phrase is not a string")
    require(all(p and p == clean_phrase(p) for p in phrases), "a phrase is empty or not clean")
    require(len({p.casefold() for p in phrases}) == len(phrases), "a phrase is there twice")
    require(0 <= positives <= len(phrases), "num_positives is not within the phrases")
    require(max_phrases is None or len(phrases) <= max_phrases, "more phrases than the limit")
    not_exhaustive = sample["not_exhaustive"]
    require(not_exhaustive.dtype == torch.int64, "not_exhaustive is not int64")
    require(
        bool(((not_exhaustive >= 0) & (not_exhaustive < positives)).all()),
        "not_exhaustive names a phrase that is not positive",
    )
    require(("instances" in sample) == (sample["source"] != "caption"), "captions have no boxes")
    if sample["source"] == "caption":
        require(positives == len(phrases) > 0, "a caption sample has positive phrases only")
        return
    instances = sample["instances"]
    height, width = image.shape[1:]
    require(tuple(instances.image_size) == (height, width), "the size of instances is another")
    boxes, classes = instances.gt_boxes.tensor, instances.gt_classes
    require(boxes.shape == (len(classes), 4), "gt_boxes is not (N, 4)")
    require(classes.dtype == torch.int64, "gt_classes is not int64")
    require(bool(((classes >= 0) & (classes < positives)).all()), "gt_classes is not positive")
    require(bool(torch.isfinite(boxes).all()), "a box is not finite")
    require(bool((boxes[:, 2:] > boxes[:, :2]).all()), "a box has no area")
    limit = boxes.new_tensor([width, height, width, height])
    require(bool(((boxes >= 0) & (boxes <= limit)).all()), "a box is outside the image")
