"""Detection data: COCO, LVIS and Objects365 json, through Detectron2's catalogs.

``register_detection`` adds a json to the catalogs; ``detection_records`` and ``category_names``
give any data set of the catalogs, including Detectron2's own, in DetectionMapper's format.
"""

import functools
from collections.abc import Iterable, Sequence
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from detclip2.data.datasets.catalog import register
from detclip2.data.datasets.packed import PackedRecords, packed
from detclip2.data.io.coco_json import count_problems, read_json, to_pixels
from detclip2.data.io.coco_parser import ID_LISTS, file_of, parse_coco
from detclip2.data.io.coco_values import flag_of, id_of, name_of_category, order_of_id
from detclip2.data.skips import SkipCounter
from detclip2.data.text.clean import clean_phrase
from detclip2.utils.errors import UserError
from detclip2.utils.paths import FolderOfFiles

_CROWD = ("iscrowd", "ignore")
_KEYS = {"images": ("id",), "annotations": (), "categories": ("id",)}


def register_detection(
    name: str,
    json_file: str,
    image_root: str,
    evaluator_type: str = "coco",
    counter: SkipCounter | None = None,
    masks: bool = False,
) -> None:
    """Register a COCO, LVIS or Objects365 json, which is read when the records are needed.

    Detectron2's own reader stops at the first fault in the file; this one skips the entry and
    counts it in `counter`. Without faults, the records are the same.

    Args:
        name: name in DatasetCatalog and MetadataCatalog; replaces a data set of the same name.
        json_file: the annotations.
        image_root: the folder that ``file_name`` is relative to. For LVIS, which has images of
            both COCO splits, the folder that has ``train2017`` and ``val2017``.
        evaluator_type: "coco" or "lvis", for the evaluators.
        counter: counts faults.
        masks: whether annotations keep their ``segmentation``.
    """
    counter = counter or SkipCounter(name)
    register(
        name,
        lambda: _load_registered(name, json_file, image_root, counter, masks),
        json_file=json_file,
        image_root=image_root,
        evaluator_type=evaluator_type,
    )


# Callers read the records and then the names; Objects365 takes minutes to parse.
@functools.lru_cache(maxsize=1)
def _load_registered(
    name: str, json_file: str, image_root: str, counter: SkipCounter, masks: bool
) -> Sequence[dict[str, Any]]:
    names, records, contiguous = load_detection_json(json_file, image_root, counter, masks)
    MetadataCatalog.get(name).set(thing_classes=names, thing_dataset_id_to_contiguous_id=contiguous)
    return records


def detection_set(
    name: str,
    json_file: str,
    image_root: str,
    evaluator_type: str = "coco",
    masks: bool = False,
) -> Sequence[dict[str, Any]]:
    """Register a json and load its records, for configs; see `register_detection`."""
    register_detection(name, json_file, image_root, evaluator_type, masks=masks)
    return detection_records(name, masks)


def detection_records(dataset: str, masks: bool = False) -> Sequence[dict[str, Any]]:
    """The records of a registered data set, for DetectionMapper.

    Annotations have boxes and classes, no keypoints. Every category id is contiguous, including
    LVIS's ``neg_category_ids`` and ``not_exhaustive_category_ids``, which the catalog has as in the
    json. Images without boxes are kept: their samples have negatives alone. Records are packed
    in arrays, which forked workers share, if json can hold them (`PackedRecords`).

    Args:
        dataset: name in the catalog.
        masks: whether annotations keep their ``segmentation``, for ``keep=["gt_masks"]`` of the
            mapper.

    Raises:
        UserError: no such data set is registered, or its files cannot be read.
    """
    records = _catalog_records(dataset)
    contiguous = getattr(MetadataCatalog.get(dataset), "thing_dataset_id_to_contiguous_id", None)

    def to_contiguous(ids: Iterable[int]) -> list[int]:
        if contiguous is None:  # Detectron2's LVIS: ids from 1, without gaps
            return [i - 1 for i in ids]
        return [contiguous[i] for i in map(id_of, ids) if i in contiguous]

    def with_lists(record: dict[str, Any]) -> dict[str, Any]:
        return {**record, **{key: to_contiguous(record[key]) for key in ID_LISTS if key in record}}

    if isinstance(records, PackedRecords):  # they are slim
        return records.changed(lambda record: _with_masks(with_lists(record), masks))
    return packed(
        {
            **with_lists(record),
            "annotations": [_slim(one, masks) for one in record.get("annotations", ())],
        }
        for record in records
    )


def category_names(dataset: str) -> list[str]:
    """The category names of a registered data set by contiguous id, as clean phrases.

    LVIS's underscores become spaces. The name of a category without one is "".

    Raises:
        UserError: no such data set is registered, or its files cannot be read.
    """
    metadata = MetadataCatalog.get(dataset)
    if not hasattr(metadata, "thing_classes"):
        _catalog_records(dataset)
    return [_as_phrase(name) for name in metadata.thing_classes]


def category_synonyms(dataset: str) -> dict[str, list[str]]:
    """Name -> its synonyms in the json of a registered data set, in the form of `category_names`.

    LVIS's json has synonyms, which may include the name itself.

    Raises:
        UserError: the json cannot be read.
    """
    content = read_json(MetadataCatalog.get(dataset).json_file, ("categories",))
    parsed = parse_coco(MetadataCatalog.get(dataset).json_file, content, {"categories": ("id",)})
    synonyms = {
        _as_phrase(one.get("name", "")): list(map(_as_phrase, one.get("synonyms") or ()))
        for one in parsed.categories.values()
    }
    return {name: [s for s in texts if s != name] for name, texts in synonyms.items()}


def names_of_json(json_file: str) -> list[str]:
    """The category names of a json by contiguous id, in the form of `category_names`.

    For configs: no data set needs to be registered, so the parts of a config may be built in any
    order.

    Raises:
        UserError: the file cannot be read.
    """
    content = read_json(json_file, ("categories",))
    categories = parse_coco(json_file, content, {"categories": ("id",)}).categories
    ordered = sorted(categories, key=order_of_id)
    return [_as_phrase(categories[identity].get("name", "")) for identity in ordered]


def load_detection_json(
    json_file: str, image_root: str, counter: SkipCounter, masks: bool = False
) -> tuple[list[str], Sequence[dict[str, Any]], dict[int | str, int]]:
    """Read a COCO-style json; faulty entries are skipped and counted.

    Args:
        json_file: path or URL that PathManager knows.
        image_root: see `register_detection`.
        counter: counts faults.
        masks: whether annotations keep their ``segmentation``.

    Returns:
        The category names by contiguous id ("" for a category without a name); Detectron2's
        records, packed, by ascending image id, with boxes XYWH in absolute pixels, contiguous
        category ids, and LVIS's id lists as in the file; and file id -> contiguous id.

    Raises:
        UserError: the file is missing, not json, or not in this format, or an image is outside of
            the folder.
    """
    parsed = parse_coco(json_file, read_json(json_file, _KEYS), _KEYS)
    to_pixels(parsed)
    ordered = sorted(parsed.categories, key=order_of_id)
    contiguous = {identity: index for index, identity in enumerate(ordered)}
    names = [parsed.categories[identity].get("name", "") for identity in ordered]
    folder = FolderOfFiles(image_root)
    records = {
        identity: _image_record(parsed.images[identity], folder)
        for identity in sorted(parsed.images, key=order_of_id)
    }
    for annotation in parsed.annotations:
        category_id = contiguous[annotation["category_id"]]
        records[annotation["image_id"]]["annotations"].append(
            _slim({**annotation, "bbox_mode": BoxMode.XYWH_ABS, "category_id": category_id}, masks)
        )
    count_problems(parsed, counter)
    return names, PackedRecords(records.values()), contiguous


def _as_phrase(name: Any) -> str:
    return clean_phrase(name_of_category(name).replace("_", " "))


def _catalog_records(dataset: str) -> Sequence[dict[str, Any]]:
    if dataset not in DatasetCatalog.list():
        raise UserError(f"no data set {dataset!r} is registered; register_detection does that")
    try:
        return DatasetCatalog.get(dataset)
    except OSError as error:
        raise UserError(f"data set {dataset!r}: {error}") from error


def _image_record(image: dict[str, Any], folder: FolderOfFiles) -> dict[str, Any]:
    record: dict[str, Any] = {"image_id": image["id"], "annotations": []}
    record["file_name"] = folder.path(file_of(image))
    record.update({key: image[key] for key in ("height", "width", *ID_LISTS) if key in image})
    return record


def _with_masks(record: dict[str, Any], masks: bool) -> dict[str, Any]:
    """The unpacked rest of a record, without ``segmentation`` unless `masks`."""
    if masks or "annotations" not in record:
        return record
    drop = "segmentation"
    others = [{k: v for k, v in one.items() if k != drop} for one in record["annotations"]]
    return {**record, "annotations": others}


def _slim(annotation: dict[str, Any], masks: bool) -> dict[str, Any]:
    """The keys that samples need; ``ignore`` (of some COCO conversions) means crowd."""
    slim = {
        "bbox": annotation.get("bbox"),
        "bbox_mode": annotation.get("bbox_mode", BoxMode.XYWH_ABS),
        "category_id": annotation.get("category_id"),
        "iscrowd": int(any(flag_of(annotation.get(key)) is not False for key in _CROWD)),
    }
    if masks and annotation.get("segmentation"):
        slim["segmentation"] = annotation["segmentation"]
    return slim
