"""Masks of annotations, as in COCO's json: polygons or run-length encodings (RLE)."""

from typing import Any

import numpy as np
from detectron2.data import transforms as T
from pycocotools import mask as coco_masks

from detclip2.utils.errors import shown

_MAX_BITS = 30  # of a run
_FAR = 10  # image sizes: polygons are clipped there, as the time to rasterise grows with length


def polygons_of(segmentation: list[Any]) -> list[np.ndarray]:
    """The polygons of a segmentation, each (P, 2) x and y in px, with P of 3 or more.

    Polygons with fewer points are skipped.

    Raises:
        ValueError: no polygon is left, or one is not pairs of finite numbers.
    """
    try:
        flat = [np.array(polygon, dtype=np.float64).reshape(-1) for polygon in segmentation]
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError("a polygon is not a list of numbers") from error
    if any(len(polygon) % 2 or not np.isfinite(polygon).all() for polygon in flat):
        raise ValueError("a polygon is not of pairs of finite numbers")
    polygons = [polygon.reshape(-1, 2) for polygon in flat if len(polygon) >= 6]
    if not polygons:
        raise ValueError("it has no polygon of 3 points")
    return polygons


def rle_of(segmentation: Any, size: tuple[int, int]) -> Any:
    """The mask of a segmentation as pycocotools' RLE.

    Args:
        segmentation: polygons, or an RLE (compressed or not).
        size: (H, W) of the image.

    Raises:
        ValueError: `segmentation` is neither, or an RLE of another size or damaged.
    """
    if isinstance(segmentation, list):
        return _rle_of_polygons(polygons_of(segmentation), size)
    height, width = size
    try:
        stated, counts = segmentation["size"], segmentation["counts"]
    except (KeyError, TypeError) as error:
        raise ValueError("it is neither polygons nor an RLE") from error
    if stated != [height, width] and stated != (height, width):
        raise ValueError(f"it is an RLE of size {shown(stated)}, not {[height, width]}")
    runs = counts if isinstance(counts, list) else _runs_of(counts)
    # pycocotools fills what runs do not cover with whatever is in memory.
    if {*map(type, runs)} != {int} or min(runs) < 0 or sum(runs) != height * width:
        raise ValueError(f"the runs of its RLE do not fill {height} x {width} pixels")
    return coco_masks.frPyObjects({"size": [height, width], "counts": runs}, height, width)


def box_of_mask(segmentation: Any, size: tuple[int, int]) -> tuple[float, ...] | None:
    """The box XYWH around polygons or an RLE of an image; None if it is neither.

    Args:
        segmentation: of an annotation.
        size: height and width of the image, px.
    """
    try:
        return tuple(float(v) for v in coco_masks.toBbox(rle_of(segmentation, size)))
    except ValueError:
        return None


def _runs_of(counts: Any) -> list[int]:
    """The runs of a compressed RLE.

    A run is written in groups of 5 bits, the lowest first, as characters from "0" to "o"; from the
    fourth run on, it is the difference to the last but one (pycocotools' ``rleToString``).
    """
    text = counts.encode(errors="replace") if isinstance(counts, str) else counts
    if not isinstance(text, bytes):
        raise ValueError("the counts of its RLE are neither a list nor a text")
    runs: list[int] = []
    number = bits = 0
    for character in text:
        group = character - ord("0")
        if not 0 <= group < 64 or bits > _MAX_BITS:
            raise ValueError("its counts are not those of an RLE")
        number |= (group & 31) << bits
        bits += 5
        if group & 32:  # the number goes on
            continue
        number -= (group & 16) >> 4 << bits  # its sign
        runs.append(number + runs[-2] if len(runs) > 2 else number)
        number = bits = 0
    if bits:
        raise ValueError("the counts of its RLE are cut off")
    return runs


def _rle_of_polygons(polygons: list[np.ndarray], size: tuple[int, int]) -> Any:
    height, width = size
    far = _FAR * np.array([width, height])
    flat = [np.clip(polygon, -far, far).reshape(-1).tolist() for polygon in polygons]
    return coco_masks.merge(coco_masks.frPyObjects(flat, height, width))


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """A mask (H, W) bool as COCO's compressed RLE, with text that json can hold."""
    rle = coco_masks.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(rle["size"]), "counts": rle["counts"].decode()}


def outlines_of(mask: np.ndarray) -> list[list[float]]:
    """Polygons around a mask (H, W) bool, each a list x, y, x, y, ... in px; holes are filled.

    The corners of pixels are cut off, by a quarter of a pixel.
    """
    if not mask.any():
        return []
    import cv2  # most detections have no masks

    x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
    part = mask[y : y + height, x : x + width].astype(np.uint8)
    # OpenCV's contours pass through the centres of pixels. With pixels of half the size, they are
    # close to the edges of the original ones, and a line of pixels has an area.
    finer = part.repeat(2, axis=0).repeat(2, axis=1)
    contours, _ = cv2.findContours(finer, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return [
        ((contour.reshape(-1, 2) + 0.5) / 2 + (x, y)).reshape(-1).tolist() for contour in contours
    ]


def transform_mask(
    segmentation: Any, transforms: T.TransformList, size: tuple[int, int], new_size: tuple[int, int]
) -> np.ndarray:
    """The mask of a segmentation in the transformed image, (H, W) bool.

    Polygons are transformed and then rasterised; an RLE is decoded and then transformed.

    Args:
        segmentation: polygons, or an RLE.
        transforms: transforms of the image.
        size: (height, width) of the image before them.
        new_size: (H, W) of the image after them.

    Raises:
        ValueError: `segmentation` is neither polygons nor an RLE of the image's size.
    """
    if isinstance(segmentation, list):
        # `apply_polygons` crops with a further package; here rasterising ignores what is outside.
        moved = [transforms.apply_coords(polygon) for polygon in polygons_of(segmentation)]
        return coco_masks.decode(_rle_of_polygons(moved, new_size)).astype(bool)
    mask = coco_masks.decode(rle_of(segmentation, size))
    return np.ascontiguousarray(transforms.apply_segmentation(mask)).astype(bool)
