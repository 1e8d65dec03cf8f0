"""Masks of annotations, as in COCO's json: polygons or run-length encodings (RLE)."""

from typing import Any

import numpy as np
from detectron2.data import transforms as T
from pycocotools import mask as coco_masks

_FAR = 10  # image sizes: polygons are clipped there, as the time to rasterise grows with length


def polygons_of(segmentation: list[Any]) -> list[np.ndarray]:
    """The polygons of a segmentation, each (P, 2) x and y in px, with P of 3 or more.

    Polygons with fewer points are skipped.

    Raises:
        ValueError: no polygon is left, or one is not pairs of finite numbers.
    """
    try:
        flat = [np.array(polygon, dtype=np.float64).reshape(-1) for polygon in segmentation]
    except (TypeError, ValueError) as error:
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
        ValueError: `segmentation` is neither, or an RLE of another size.
    """
    if isinstance(segmentation, list):
        return _rle_of_polygons(polygons_of(segmentation), size)
    try:
        if tuple(segmentation["size"]) != tuple(size):
            raise ValueError(f"it is an RLE of size {segmentation['size']}, not {list(size)}")
        if isinstance(segmentation["counts"], list):
            return coco_masks.frPyObjects(segmentation, *size)
        return segmentation
    except (KeyError, TypeError) as error:
        raise ValueError("it is neither polygons nor an RLE") from error


def _rle_of_polygons(polygons: list[np.ndarray], size: tuple[int, int]) -> Any:
    height, width = size
    far = _FAR * np.array([width, height])
    flat = [np.clip(polygon, -far, far).reshape(-1).tolist() for polygon in polygons]
    return coco_masks.merge(coco_masks.frPyObjects(flat, height, width))


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
    try:
        mask = coco_masks.decode(rle_of(segmentation, size))
    except (TypeError, RuntimeError) as error:
        raise ValueError(f"its RLE cannot be read: {error}") from error
    return np.ascontiguousarray(transforms.apply_segmentation(mask)).astype(bool)
