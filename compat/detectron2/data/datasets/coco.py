"""COCO's json format: read into records, registered as a data set, written from one."""

import contextlib
import datetime
import io
import json
import logging
import os
from functools import partial

import numpy as np
import pycocotools.mask as mask_util
from iopath.common.file_io import file_lock
from pycocotools.coco import COCO

from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager

from ..catalog import DatasetCatalog, MetadataCatalog

__all__ = [
    "convert_to_coco_json",
    "load_coco_json",
    "register_coco_instances",
]

logger = logging.getLogger(__name__)


def load_coco_json(json_file, image_root, dataset_name=None, extra_annotation_keys=None):
    """The images of a COCO json in the order of their ids, as records.

    A record has "file_name" (below `image_root`), "height", "width", "image_id" and
    "annotations", each with what the json has of "bbox" (XYWH), "iscrowd", "category_id",
    "segmentation" (polygons of at least 3 points, or compressed RLE), "keypoints" (x and y plus
    0.5: points, not indices of pixels) and the `extra_annotation_keys`.

    With a `dataset_name` the category ids become 0..C-1 in the order of the json's ids, and the
    metadata of that data set gets `thing_classes` and `thing_dataset_id_to_contiguous_id`.
    An instance whose polygons all have fewer than 3 points is skipped.

    Raises AssertionError for annotation ids that repeat and for annotations marked "ignore",
    ValueError for an empty box, KeyError for a category that the json does not define.
    """
    json_file = PathManager.get_local_path(json_file)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(json_file)
    new_ids = None if dataset_name is None else _describe_classes(coco, dataset_name)
    image_ids = sorted(coco.imgs)
    _check_annotations(coco, json_file)
    logger.info("%d images in COCO format in %s", len(image_ids), json_file)

    keys = ["iscrowd", "bbox", "category_id", *(extra_annotation_keys or [])]
    records, without_polygon = [], 0
    for image_id in image_ids:
        image = coco.imgs[image_id]
        parsed = [_parse_annotation(a, image_id, keys, new_ids) for a in coco.imgToAnns[image_id]]
        objects = [annotation for annotation in parsed if annotation is not None]
        without_polygon += len(parsed) - len(objects)
        records.append(
            {
                "file_name": os.path.join(image_root, image["file_name"]),
                "height": image["height"],
                "width": image["width"],
                "image_id": image_id,
                "annotations": objects,
            }
        )
    if without_polygon:
        logger.warning(
            "%s: %d instances have no polygon of at least 3 points and are skipped",
            json_file,
            without_polygon,
        )
    return records


def _describe_classes(coco, dataset_name):
    """Put the classes into the metadata; returns the map from the json's ids to 0..C-1."""
    ids = sorted(coco.cats)
    if not ids:
        raise KeyError(f"the json of {dataset_name} has no categories")
    if ids != list(range(1, len(ids) + 1)) and "coco" not in dataset_name:
        logger.warning("category ids of %s are not 1..%d: they are mapped", dataset_name, len(ids))
    new_ids = {old: new for new, old in enumerate(ids)}
    MetadataCatalog.get(dataset_name).set(
        thing_classes=[coco.cats[i]["name"] for i in ids],
        thing_dataset_id_to_contiguous_id=new_ids,
    )
    return new_ids


def _check_annotations(coco, json_file):
    of_images = [a["id"] for image_id in coco.imgs for a in coco.imgToAnns[image_id]]
    if len(of_images) < len(coco.anns):
        logger.warning(
            "%s: %d of %d annotations belong to no image of the file",
            json_file,
            len(coco.anns) - len(of_images),
            len(coco.anns),
        )
    # The minival files of COCO 2014 have a few such ids.
    if "minival" not in json_file:
        assert len(set(of_images)) == len(of_images), f"{json_file}: annotation ids repeat"


def _parse_annotation(annotation, image_id, keys, new_ids):
    """One annotation of a record, or None if its polygons are invalid."""
    assert annotation["image_id"] == image_id, annotation
    assert not annotation.get("ignore", 0), "annotations marked 'ignore' are not supported"
    parsed = {key: annotation[key] for key in keys if key in annotation}
    if "bbox" in parsed and not parsed["bbox"]:
        raise ValueError(f"an annotation of image {image_id} has an empty bbox")
    parsed["bbox_mode"] = BoxMode.XYWH_ABS
    if segmentation := annotation.get("segmentation"):
        segmentation = _parse_segmentation(segmentation)
        if not segmentation:
            return None
        parsed["segmentation"] = segmentation
    if keypoints := annotation.get("keypoints"):
        parsed["keypoints"] = [v if i % 3 == 2 else v + 0.5 for i, v in enumerate(keypoints)]
    if new_ids is not None:
        if parsed["category_id"] not in new_ids:
            raise KeyError(f"category_id {parsed['category_id']} is not in the json's categories")
        parsed["category_id"] = new_ids[parsed["category_id"]]
    return parsed


def _parse_segmentation(segmentation):
    if isinstance(segmentation, dict):
        if isinstance(segmentation["counts"], list):
            return mask_util.frPyObjects(segmentation, *segmentation["size"])
        return segmentation
    return [polygon for polygon in segmentation if len(polygon) % 2 == 0 and len(polygon) >= 6]


def register_coco_instances(name, metadata, json_file, image_root):
    """Register the COCO json under `name`; `metadata` is a dict of further metadata."""
    assert isinstance(name, str), name
    paths = {"json_file": json_file, "image_root": image_root}
    for what, path in paths.items():
        assert isinstance(path, (str, os.PathLike)), f"{what} of '{name}' is no path: {path!r}"
    if name not in DatasetCatalog:
        DatasetCatalog.register(name, partial(load_coco_json, json_file, image_root, name))
    MetadataCatalog.get(name).set(**paths, evaluator_type="coco", **metadata)


def convert_to_coco_dict(dataset_name):
    """A registered data set, with `thing_classes` in its metadata, as the content of a COCO json.

    Ids of categories are those of `thing_dataset_id_to_contiguous_id`, or else 0..C-1.
    """
    metadata = MetadataCatalog.get(dataset_name)
    mapping = metadata.get("thing_dataset_id_to_contiguous_id")
    classes = metadata.thing_classes
    old_ids = {new: old for old, new in mapping.items()} if mapping else range(len(classes))
    images, annotations = [], []
    for position, record in enumerate(DatasetCatalog.get(dataset_name)):
        image_id = record.get("image_id", position)
        images.append(
            {
                "id": image_id,
                "width": int(record["width"]),
                "height": int(record["height"]),
                "file_name": str(record["file_name"]),
            }
        )
        for annotation in record.get("annotations", []):
            # Matching treats id 0 as "no match", so they start at 1.
            ids = {"id": len(annotations) + 1, "image_id": image_id}
            category_id = int(old_ids[annotation["category_id"]])
            annotations.append({**ids, "category_id": category_id, **_to_coco(annotation)})
    coco = {
        "info": {"date_created": str(datetime.datetime.now()), "description": dataset_name},
        "images": images,
        "categories": [{"id": old_ids[i], "name": name} for i, name in enumerate(classes)],
        "licenses": None,
    }
    return {**coco, "annotations": annotations} if annotations else coco


def _to_coco(annotation):
    box = np.asarray(annotation["bbox"], dtype=float)
    if box.ndim != 1 or len(box) not in (4, 5):
        raise ValueError(f"a bbox is a list of 4 numbers, or 5 if rotated, not {box.tolist()}")
    mode = BoxMode.XYWH_ABS if len(box) == 4 else BoxMode.XYWHA_ABS
    box = BoxMode.convert(box.tolist(), annotation["bbox_mode"], mode)
    segmentation = annotation.get("segmentation")
    converted = {
        "bbox": [round(float(x), 3) for x in box],
        "area": float(box[2] * box[3] if segmentation is None else _area(segmentation)),
        "iscrowd": int(annotation.get("iscrowd", 0)),
    }
    if keypoints := annotation.get("keypoints"):
        converted["keypoints"] = [v if i % 3 == 2 else v - 0.5 for i, v in enumerate(keypoints)]
        visible = sum(v > 0 for v in keypoints[2::3])
        converted["num_keypoints"] = annotation.get("num_keypoints", visible)
    if segmentation is not None:
        if isinstance(segmentation, dict) and isinstance(segmentation["counts"], bytes):
            segmentation = {**segmentation, "counts": segmentation["counts"].decode("ascii")}
        converted["segmentation"] = segmentation
    return converted


def _area(segmentation):
    """Pixels of RLE; of polygons the sum of their areas, by the shoelace formula."""
    if isinstance(segmentation, dict):
        return mask_util.area(segmentation)
    if not isinstance(segmentation, list):
        raise TypeError(f"a segmentation is polygons or RLE, not a {type(segmentation)}")
    points = [np.asarray(polygon, dtype=float).reshape(-1, 2).T for polygon in segmentation]
    return sum(0.5 * abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) for x, y in points)


def convert_to_coco_json(dataset_name, output_file, allow_cached=True):
    """Write a registered data set as a COCO json, unless the file is there from an earlier call."""
    PathManager.mkdirs(os.path.dirname(output_file))
    with file_lock(output_file):
        if PathManager.exists(output_file) and allow_cached:
            logger.warning(
                "%s is taken as %s in COCO format: remove it if the data set has changed",
                output_file,
                dataset_name,
            )
            return
        with PathManager.open(f"{output_file}.tmp", "w") as file:
            json.dump(convert_to_coco_dict(dataset_name), file)
        os.replace(f"{output_file}.tmp", output_file)
