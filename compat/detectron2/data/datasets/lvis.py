"""LVIS's json format: read into records, registered as a data set."""

import json
import logging
import os
from collections import defaultdict
from functools import partial

from detectron2 import _subset
from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager

from ..catalog import DatasetCatalog, MetadataCatalog

__all__ = ["register_lvis_instances"]

logger = logging.getLogger(__name__)


def register_lvis_instances(name, metadata, json_file, image_root):
    """Register the LVIS json under `name`; `metadata` is a dict of further metadata."""
    DatasetCatalog.register(name, partial(load_lvis_json, json_file, image_root, name))
    paths = {"json_file": json_file, "image_root": image_root}
    MetadataCatalog.get(name).set(**paths, evaluator_type="lvis", **metadata)


def load_lvis_json(json_file, image_root, dataset_name=None, extra_annotation_keys=None):
    """The images of an LVIS json in the order of their ids, as records.

    A record is that of `load_coco_json` with "neg_category_ids" and "not_exhaustive_category_ids",
    which keep the json's ids, while "category_id" counts from 0. The file's name is `image_root` +
    the last two parts of "coco_url". Polygons need at least 3 points (AssertionError).

    A `dataset_name` is that of a version of LVIS, "lvis_v1_..." or "lvis_v0.5_..." (ValueError for
    others): its metadata gets `thing_classes` and, for v1, `class_image_count`.
    """
    json_file = PathManager.get_local_path(json_file)
    with open(json_file, encoding="utf-8") as file:
        content = json.load(file)
    assert isinstance(content, dict), f"{json_file} is not a json of LVIS"
    images = {image["id"]: image for image in content["images"]}
    categories = {category["id"]: category for category in content["categories"]}
    annotations = defaultdict(list)
    for annotation in content["annotations"]:
        annotations[annotation["image_id"]].append(annotation)
    if dataset_name is not None:
        MetadataCatalog.get(dataset_name).set(**_describe_classes(categories, dataset_name))
    image_ids = sorted(images)
    annotation_ids = [a["id"] for i in image_ids for a in annotations[i]]
    assert len(set(annotation_ids)) == len(annotation_ids), f"{json_file}: annotation ids repeat"
    logger.info("%d images in LVIS format in %s", len(image_ids), json_file)

    records = []
    for image_id in image_ids:
        image = images[image_id]
        folder, file_name = image["coco_url"].split("/")[-2:]
        records.append(
            {
                "file_name": os.path.join(image_root + folder, file_name),
                "height": image["height"],
                "width": image["width"],
                "image_id": image_id,
                "not_exhaustive_category_ids": image.get("not_exhaustive_category_ids", []),
                "neg_category_ids": image.get("neg_category_ids", []),
                "annotations": [
                    _parse_annotation(annotation, extra_annotation_keys or [])
                    for annotation in annotations[image_id]
                ],
            }
        )
    return records


def _parse_annotation(annotation, extra_keys):
    polygons = annotation["segmentation"]
    assert polygons, f"annotation {annotation['id']} has no polygon"
    for polygon in polygons:
        are_points = len(polygon) % 2 == 0 and len(polygon) >= 6
        assert are_points, f"annotation {annotation['id']} has a polygon with fewer than 3 points"
    return {
        "bbox": annotation["bbox"],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": annotation["category_id"] - 1,
        "segmentation": polygons,
        **{key: annotation[key] for key in extra_keys},
    }


def _describe_classes(categories, dataset_name):
    """Metadata from the json's own categories, where Detectron2 has the lists built in.

    The class of id i is number i - 1, so a json with a part of the ids leaves gaps, named "".
    """
    if "cocofied" in dataset_name:
        raise NotImplementedError(_subset.not_here("LVIS with COCO's categories"))
    if "v1" not in dataset_name and "v0.5" not in dataset_name:
        raise ValueError(f"{dataset_name} is not a version of LVIS: pass no dataset_name")
    names = {id_: category["synonyms"][0] for id_, category in categories.items()}
    metadata = {"thing_classes": [names.get(id_, "") for id_ in range(1, max(names) + 1)]}
    if "v0.5" not in dataset_name and all("image_count" in c for c in categories.values()):
        metadata["class_image_count"] = [
            {"id": id_, "image_count": categories[id_]["image_count"]} for id_ in sorted(names)
        ]
    return metadata
