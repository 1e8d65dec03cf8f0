"""Access to dataset records: their image, caption and boxes, and their name in messages."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from detectron2.structures import BoxMode

from detclip2.data.io.image import read_image
from detclip2.data.sample import SkipSample
from detclip2.utils.errors import UserError

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


def box_of(annotation: Any) -> tuple[float, float, float, float]:
    """The box of an annotation, XYXY in absolute pixels, as floats.

    Args:
        annotation: has ``bbox`` (4 numbers) and ``bbox_mode`` (BoxMode).

    Raises:
        ValueError: ``bbox`` is not 4 numbers.
    """
    try:
        x, y, third, fourth = map(float, annotation["bbox"])
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError(f"box {annotation.get('bbox')!r} has not 4 numbers") from error
    if annotation["bbox_mode"] == BoxMode.XYWH_ABS:  # convert() makes tensors, which is slow
        return x, y, x + third, y + fourth
    box = (x, y, third, fourth)
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


def name_of(record: Record) -> str:
    """The name of a record in messages: its file, or its id."""
    return str(record.get("file_name") or f"image {record.get('image_id', 'without id')}")
