"""Access to dataset records: their image, caption and boxes, and their name in messages."""

import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np
from detectron2.structures import BoxMode

from detclip2.data.io.coco_values import are_coordinates, four_numbers
from detclip2.data.io.image import Header, check_image, read_image
from detclip2.data.io.image_files import size_problem, stated_size
from detclip2.data.sample import SkipSample
from detclip2.data.text.clean import read_phrases
from detclip2.utils.errors import UserError, shown

Record = Mapping[str, Any]


def decode_caption(caption: Any, record: Record) -> str:
    """The caption as text.

    Raises:
        SkipSample: it is neither text nor bytes, or the bytes are not UTF-8.
    """
    if isinstance(caption, bytes):
        try:
            return caption.decode("utf-8")
        except UnicodeDecodeError as error:
            raise SkipSample("caption-encoding", f"{name_of(record)}: {error}") from error
    if not isinstance(caption, str):
        kind = "caption-empty" if caption is None else "record-malformed"
        raise SkipSample(kind, f"{name_of(record)}: the caption is {type(caption).__name__}")
    return caption


def given_phrases(entry: Any, record: Record) -> list[str] | None:
    """The ``phrases`` of a record or of one of its annotations; None if it gives none.

    Raises:
        SkipSample: they are neither a list of texts nor one text.
    """
    if entry.get("phrases") is None:
        return None
    try:
        return read_phrases(entry["phrases"])
    except TypeError as error:
        raise SkipSample("record-malformed", f"{name_of(record)}: {error}") from error


def box_of(annotation: Any) -> tuple[float, float, float, float]:
    """The box of an annotation, XYXY in absolute pixels, as floats.

    Args:
        annotation: has ``bbox`` (4 numbers) and ``bbox_mode`` (BoxMode).

    Raises:
        ValueError: ``bbox`` is not 4 numbers.
    """
    box = four_numbers(annotation.get("bbox"))
    if box is None:
        raise ValueError(f"box {shown(annotation.get('bbox'))} has not 4 numbers")
    x, y, third, fourth = box
    if annotation["bbox_mode"] == BoxMode.XYWH_ABS:  # convert() makes tensors, which is slow
        return x, y, x + third, y + fourth
    return BoxMode.convert(box, annotation["bbox_mode"], BoxMode.XYXY_ABS)


def box_problem(box: tuple[float, float, float, float], image_size: tuple[int, int]) -> str:
    """Why a box is invalid; "" if it is valid.

    Args:
        box: XYXY, absolute pixels.
        image_size: (H, W) of the original image.
    """
    x1, y1, x2, y2 = box
    height, width = image_size
    if not all(map(math.isfinite, box)):
        return f"box {list(box)} is not finite"
    if not are_coordinates(box):
        return f"box {list(box)} is larger than any image"
    if x2 <= x1 or y2 <= y1:
        return f"box {list(box)} has no area"
    if x1 >= width or y1 >= height or x2 <= 0 or y2 <= 0:
        return f"box {list(box)} is outside the image of {width} x {height}"
    return ""


def read_record_image(record: Record) -> np.ndarray:
    """The image of a record, (H, W, 3) uint8 RGB, from ``image``, ``image_bytes`` or ``file_name``.

    Raises:
        SkipSample: the record has no image, or it cannot be read.
    """
    for key in ("image", "image_bytes", "file_name"):
        if record.get(key) is not None:
            try:
                return read_image(record[key])
            except (UserError, OSError) as error:
                raise SkipSample("image-unreadable", f"{name_of(record)}: {error}") from error
    raise SkipSample("image-unreadable", f"{name_of(record)}: the record has no image")


def record_size_problem(record: Record, image: np.ndarray) -> str:
    """Why the size that a record states is not that of its image, (H, W, 3); "" if it is."""
    size = image.shape[1], image.shape[0]
    stated = stated_size(record, size)
    header = Header(size, size)
    if stated == size[::-1] != size and record.get("file_name") and not record.get("image"):
        with suppress(UserError, OSError):  # the sizes alone do not show whether EXIF turns it
            header = check_image(record["file_name"])
    return size_problem(stated, header)


def name_of(record: Record) -> str:
    """The name of a record in messages: its file, or its id."""
    return str(record.get("file_name") or f"image {record.get('image_id', 'without id')}")
