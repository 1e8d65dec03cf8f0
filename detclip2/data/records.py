"""What mappers need of a dataset record: its name, image and caption, and whether a box is one."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from detectron2.structures import BoxMode

from detclip2.data.image_io import read_image
from detclip2.data.phrases import SkipSample
from detclip2.errors import UserError

Record = Mapping[str, Any]


def decode_caption(caption: Any, record: Record) -> str:
    """The caption as text; bytes must be UTF-8.

    Raises:
        SkipSample: for bytes that are not, and for what is neither text nor bytes.
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


def box_problem(annotation: Any, image_size: tuple[int, int]) -> str | None:
    """Why the box of an annotation cannot be used, or None.

    Args:
        annotation: with ``bbox`` (4 numbers) and ``bbox_mode`` (BoxMode), absolute pixels.
        image_size: (H, W) of the original image.
    """
    box = annotation.get("bbox")
    try:
        values = np.asarray(box, dtype=np.float64)
        if values.shape != (4,):
            return f"box {box!r} has not 4 numbers"
        box = BoxMode.convert(values.tolist(), annotation["bbox_mode"], BoxMode.XYXY_ABS)
    except (TypeError, ValueError):
        return f"box {box!r} has not 4 numbers"
    x1, y1, x2, y2 = box
    height, width = image_size
    if not np.isfinite(box).all():
        return f"box {values.tolist()} is not finite"
    if x2 <= x1 or y2 <= y1:
        return f"box {values.tolist()} has no area"
    if x1 >= width or y1 >= height or x2 <= 0 or y2 <= 0:
        return f"box {values.tolist()} is outside the image of {width} x {height}"
    return None


def read_record_image(record: Record) -> np.ndarray:
    """The image of a record, (H, W, 3) uint8 RGB, from ``image``, ``image_bytes`` or ``file_name``.

    Raises:
        SkipSample: if there is none, or it cannot be read.
    """
    for key in ("image", "image_bytes", "file_name"):
        if record.get(key) is not None:
            try:
                return read_image(record[key])
            except (UserError, OSError) as error:
                raise SkipSample("image-unreadable", f"{name_of(record)}: {error}") from error
    raise SkipSample("image-unreadable", f"{name_of(record)}: the record has no image")


def name_of(record: Record) -> str:
    """What to call a record in a message: its file, else its id."""
    return str(record.get("file_name") or f"image {record.get('image_id', 'without id')}")
