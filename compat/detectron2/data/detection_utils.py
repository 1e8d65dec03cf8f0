"""Steps from a record to a training sample: image, size, boxes, augmentations."""

import numpy as np
import pycocotools.mask as mask_util
import torch
from PIL import ExifTags, Image

from detectron2 import _subset
from detectron2.structures import Boxes, BoxMode, Instances
from detectron2.utils.file_io import PathManager

from . import transforms as T
from .catalog import MetadataCatalog

__all__ = [
    "annotations_to_instances",
    "build_augmentation",
    "check_image_size",
    "check_metadata_consistency",
    "filter_empty_instances",
    "read_image",
    "transform_instance_annotations",
]

# The transposition that undoes each value of the EXIF tag "Orientation"; 1 is upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class SizeMismatchError(ValueError):
    """An image is not as large as its record says."""


def _make_upright(image):
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # broken EXIF raises all kinds of errors; the image is still used
        return image
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def read_image(file_name, format=None):
    """Read an image, upright whatever its EXIF says, as an (H, W, C) uint8 array.

    `format` is "BGR" or one of PIL's modes: "RGB", "L" (C = 1), ...; None leaves the file's own.
    """
    if format == "YUV-BT.601":
        raise NotImplementedError(_subset.not_here(f"Image format {format}"))
    with PathManager.open(file_name, "rb") as file:
        image = _make_upright(Image.open(file))
        if format is not None:
            image = image.convert("RGB" if format == "BGR" else format)
        array = np.asarray(image)
    if format == "L":
        return array[:, :, None]
    return array[:, :, ::-1] if format == "BGR" else array


def check_image_size(dataset_dict, image):
    """Fill in the "width" and "height" that the record lacks; SizeMismatchError if one is wrong."""
    height, width = image.shape[:2]
    expected = (dataset_dict.setdefault("width", width), dataset_dict.setdefault("height", height))
    if expected != (width, height):
        raise SizeMismatchError(
            f"image {dataset_dict.get('file_name', '')} is (width, height) = {(width, height)}, "
            f"its annotation says {expected}"
        )


def _to_xyxy(annotation):
    return BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS)


def transform_instance_annotations(
    annotation, transforms, image_size, *, keypoint_hflip_indices=None
):
    """Apply `transforms` to the box and the segmentation of one annotation, in place.

    The box becomes XYXY in pixels, clipped to `image_size` (height, width) after the transforms.
    """
    if "keypoints" in annotation:
        raise NotImplementedError(_subset.not_here("Transforming keypoints"))
    if isinstance(transforms, (tuple, list)):
        transforms = T.TransformList(transforms)
    height, width = image_size
    box = transforms.apply_box(np.array([_to_xyxy(annotation)]))[0]
    annotation["bbox"] = np.clip(box, 0, [width, height, width, height])
    annotation["bbox_mode"] = BoxMode.XYXY_ABS
    if "segmentation" in annotation:
        annotation["segmentation"] = _transform_segmentation(
            annotation["segmentation"], transforms, tuple(image_size)
        )
    return annotation


def _transform_segmentation(segmentation, transforms, image_size):
    """Polygons stay polygons; RLE becomes a mask (H, W)."""
    if isinstance(segmentation, list):
        polygons = [np.asarray(polygon).reshape(-1, 2) for polygon in segmentation]
        return [polygon.reshape(-1) for polygon in transforms.apply_polygons(polygons)]
    if isinstance(segmentation, dict):
        mask = transforms.apply_segmentation(mask_util.decode(segmentation))
        assert mask.shape[:2] == image_size, f"mask {mask.shape} of an image of {image_size}"
        return mask
    raise ValueError(f"a segmentation is polygons or RLE, not a {type(segmentation)}")


def annotations_to_instances(annos, image_size, mask_format="polygon"):
    """`Instances` with `gt_boxes` (N, 4) XYXY and `gt_classes` (N,) of an image (height, width)."""
    if annos and ("segmentation" in annos[0] or "keypoints" in annos[0]):
        raise NotImplementedError(_subset.not_here("Ground truth of masks or keypoints"))
    instances = Instances(image_size)
    instances.gt_boxes = Boxes(np.array([_to_xyxy(anno) for anno in annos]).reshape(-1, 4))
    classes = [int(anno["category_id"]) for anno in annos]
    instances.gt_classes = torch.tensor(classes, dtype=torch.int64)
    return instances


def filter_empty_instances(
    instances, by_box=True, by_mask=True, box_threshold=1e-5, return_mask=False
):
    """Without the instances whose box is not wider and higher than `box_threshold`.

    With `return_mask` also a boolean tensor: which were kept.
    """
    assert by_box or by_mask, "filter by boxes, by masks, or by both"
    if by_box:
        keep = instances.gt_boxes.nonempty(threshold=box_threshold)
    else:
        keep = torch.ones(len(instances), dtype=torch.bool)
    return (instances[keep], keep) if return_mask else instances[keep]


def check_metadata_consistency(key, dataset_names):
    """ValueError unless the metadata `key` is the same in all data sets."""
    values = {name: getattr(MetadataCatalog.get(name), key) for name in dataset_names}
    first = next(iter(values), None)
    for name, value in values.items():
        if value != values[first]:
            raise ValueError(f"data sets {first} and {name} have different metadata '{key}'")


def build_augmentation(cfg, is_train):
    """The augmentations that a yacs config asks for: resizing, in training also a flip."""
    if not is_train:
        return [T.ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST, "choice")]
    resize = T.ResizeShortestEdge(
        cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING
    )
    direction = cfg.INPUT.RANDOM_FLIP
    if direction == "none":
        return [resize]
    flip = T.RandomFlip(horizontal=direction == "horizontal", vertical=direction == "vertical")
    return [resize, flip]
