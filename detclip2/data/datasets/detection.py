"""Detection data: COCO, LVIS and Objects365 json, through Detectron2's catalogs.

``register_detection`` puts a json into the catalogs; ``detection_records`` and ``category_names``
read any data set of the catalogs, Detectron2's own included, as DetectionMapper wants it.
"""

import functools
import json
import os
from collections.abc import Iterable
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager

from detclip2.data.sample import clean_phrase
from detclip2.data.skips import SkipCounter
from detclip2.utils.errors import UserError

_ID_LISTS = ("neg_category_ids", "not_exhaustive_category_ids")


def register_detection(
    name: str,
    json_file: str,
    image_root: str,
    evaluator_type: str = "coco",
    counter: SkipCounter | None = None,
) -> None:
    """Register a COCO, LVIS or Objects365 json; nothing is read before it is asked for.

    Detectron2's own reader stops at the first fault in the file; this one leaves the fault out,
    counts it in `counter`, and gives the same records where there is none (without masks).

    Args:
        name: in DatasetCatalog and MetadataCatalog.
        json_file: the annotations.
        image_root: the folder that ``file_name`` is relative to. For LVIS, which has images of
            both COCO splits, the folder that has ``train2017`` and ``val2017``.
        evaluator_type: "coco" or "lvis", for the evaluators.
        counter: where faults are counted.
    """
    counter = counter or SkipCounter(name)
    DatasetCatalog.register(name, lambda: _load_registered(name, json_file, image_root, counter))
    MetadataCatalog.get(name).set(
        json_file=json_file, image_root=image_root, evaluator_type=evaluator_type
    )


# Records and names are asked for one after the other; Objects365 takes minutes to parse.
@functools.lru_cache(maxsize=1)
def _load_registered(
    name: str, json_file: str, image_root: str, counter: SkipCounter
) -> list[dict[str, Any]]:
    names, records, contiguous = load_detection_json(json_file, image_root, counter)
    MetadataCatalog.get(name).set(thing_classes=names, thing_dataset_id_to_contiguous_id=contiguous)
    return records


def detection_set(
    name: str, json_file: str, image_root: str, evaluator_type: str = "coco"
) -> list[dict[str, Any]]:
    """Register a json and load its records, for configs; see :func:`register_detection`.

    A data set of that name is replaced, so that a config can be built twice.
    """
    for catalog in (DatasetCatalog, MetadataCatalog):
        if name in catalog:
            catalog.remove(name)
    register_detection(name, json_file, image_root, evaluator_type)
    return detection_records(name)


def detection_records(dataset: str) -> list[dict[str, Any]]:
    """The records of a registered data set, for DetectionMapper.

    Boxes and classes only (no masks or keypoints), and every category id is the contiguous one,
    in LVIS's ``neg_category_ids`` and ``not_exhaustive_category_ids`` too, which the catalog has
    as in the json. Images without boxes stay: they make samples of negatives.

    Raises:
        UserError: if no such data set is registered or its files cannot be read.
    """
    records = _catalog_records(dataset)
    contiguous = getattr(MetadataCatalog.get(dataset), "thing_dataset_id_to_contiguous_id", None)

    def to_contiguous(ids: Iterable[int]) -> list[int]:
        if contiguous is None:  # Detectron2's LVIS: ids from 1, without gaps
            return [i - 1 for i in ids]
        return [contiguous[i] for i in ids if i in contiguous]

    return [
        {
            **record,
            **{key: to_contiguous(record[key]) for key in _ID_LISTS if key in record},
            "annotations": [_slim(annotation) for annotation in record.get("annotations", ())],
        }
        for record in records
    ]


def category_names(dataset: str) -> list[str]:
    """The names of a registered data set by contiguous category id, as phrases.

    LVIS's underscores become spaces. A category without a name is "".
    """
    metadata = MetadataCatalog.get(dataset)
    if not hasattr(metadata, "thing_classes"):
        _catalog_records(dataset)
    return [clean_phrase(name.replace("_", " ")) for name in metadata.thing_classes]


def names_of_json(json_file: str) -> list[str]:
    """The names in a json by contiguous category id, as :func:`category_names` gives them.

    For configs: it needs no data set that is registered before, so that the order in which the
    parts of a config are built does not matter.

    Raises:
        UserError: if the file cannot be read.
    """
    content = read_json(json_file, ("categories",))
    categories = _first_by_id(
        content["categories"], "category", json_file, SkipCounter(os.path.basename(json_file))
    )
    names = (str(categories[identity].get("name") or "") for identity in sorted(categories))
    return [clean_phrase(name.replace("_", " ")) for name in names]


def load_detection_json(
    json_file: str, image_root: str, counter: SkipCounter
) -> tuple[list[str], list[dict[str, Any]], dict[int, int]]:
    """Read a COCO-style json; what is wrong in it is left out and counted.

    Args:
        json_file: path or URL that PathManager knows.
        image_root: see :func:`register_detection`.
        counter: where faults are counted.

    Returns:
        The category names by contiguous id ("" for a category without a name); Detectron2's
        records by ascending image id, with boxes XYWH in absolute pixels, contiguous category
        ids, and the id lists of LVIS as they are in the file; and file id -> contiguous id.

    Raises:
        UserError: if the file is missing, not json, or not of this format.
    """
    content = read_json(json_file, ("images", "annotations", "categories"))
    categories = _first_by_id(content["categories"], "category", json_file, counter)
    contiguous = {identity: index for index, identity in enumerate(sorted(categories))}
    names = [str(categories[identity].get("name") or "") for identity in contiguous]
    images = _first_by_id(content["images"], "image", json_file, counter)
    records = {
        identity: _image_record(image, image_root) for identity, image in sorted(images.items())
    }
    seen: set[Any] = set()
    for annotation in content["annotations"]:
        where = f"{json_file}: annotation {annotation.get('id')}"
        if annotation.get("id") in seen:
            counter.add("annotation-duplicate", where)
        seen.add(annotation.get("id", object()))
        record = records.get(annotation.get("image_id"))
        category_id = contiguous.get(annotation.get("category_id"))
        if record is None:
            counter.add("image-unknown", f"{where} of image {annotation.get('image_id')}")
        elif category_id is None:
            counter.add("category-unknown", f"{where}: {annotation.get('category_id')}")
        else:
            record["annotations"].append(
                _slim({**annotation, "bbox_mode": BoxMode.XYWH_ABS, "category_id": category_id})
            )
    counter.log()
    return names, list(records.values()), contiguous


def read_json(path: str, keys: Iterable[str] = ()) -> Any:
    """The content of a json file, an object that has `keys`.

    Raises:
        UserError: if it cannot be read, is not json in UTF-8, or lacks a key.
    """
    try:
        with PathManager.open(path, "r", encoding="utf-8") as file:
            content = json.load(file)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(f"{path} is not json in UTF-8: {error}") from error
    missing = [key for key in keys if not isinstance(content, dict) or key not in content]
    if missing:
        raise UserError(f"{path} has no key {missing[0]!r}; expected a json with {list(keys)}")
    return content


def _catalog_records(dataset: str) -> list[dict[str, Any]]:
    if dataset not in DatasetCatalog.list():
        raise UserError(f"no data set {dataset!r} is registered; register_detection does that")
    try:
        return DatasetCatalog.get(dataset)
    except OSError as error:
        raise UserError(f"data set {dataset!r}: {error}") from error


def _first_by_id(
    entries: list[dict[str, Any]], what: str, json_file: str, counter: SkipCounter
) -> dict[Any, dict[str, Any]]:
    """Entry by id; of two with one id the first, because annotations cannot say which they mean."""
    found: dict[Any, dict[str, Any]] = {}
    for entry in entries:
        if "id" not in entry:
            counter.add("record-malformed", f"{json_file}: {what} without id: {str(entry)[:80]}")
        elif entry["id"] in found:
            counter.add(f"{what}-duplicate", f"{json_file}: {what} id {entry['id']}")
        else:
            found[entry["id"]] = entry
    return found


def _image_record(image: dict[str, Any], image_root: str) -> dict[str, Any]:
    record: dict[str, Any] = {"image_id": image["id"], "annotations": []}
    if "neg_category_ids" in image and "coco_url" in image:
        # LVIS v1 has no file_name, and v0.5's is of COCO 2014; the URL has the 2017 one.
        file_name = os.path.join(*image["coco_url"].split("/")[-2:])
    else:
        file_name = str(image.get("file_name", ""))
    record["file_name"] = os.path.join(image_root, file_name)
    record.update({key: image[key] for key in ("height", "width", *_ID_LISTS) if key in image})
    return record


def _slim(annotation: dict[str, Any]) -> dict[str, Any]:
    """What a box needs; ``ignore`` (some COCO conversions have it) means the same as crowd."""
    return {
        "bbox": annotation.get("bbox"),
        "bbox_mode": annotation.get("bbox_mode", BoxMode.XYWH_ABS),
        "category_id": annotation.get("category_id"),
        "iscrowd": int(bool(annotation.get("iscrowd", 0) or annotation.get("ignore", 0))),
    }
