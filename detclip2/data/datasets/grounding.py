"""Grounding data: MDETR/GLIP json (GoldG), and mmdetection's ODVG jsonl.

A grounding record is a dataset record with ``caption``. Its annotations have ``phrases``: the
phrases of the caption that the box belongs to.
"""

from collections.abc import Mapping
from typing import Any

from detectron2.structures import BoxMode

from detclip2.data.io.coco_json import count_problems, image_records, read_json, to_pixels
from detclip2.data.io.coco_parser import parse_coco
from detclip2.data.io.lines import JsonLines
from detclip2.data.skips import SkipCounter
from detclip2.data.text.clean import read_phrases
from detclip2.data.text.spans import join_spans, read_spans
from detclip2.utils.errors import UserError, shown

MAX_LABELS = 1_000_000


def mdetr_records(
    json_file: str,
    image_root: str | Mapping[str, str],
    counter: SkipCounter | None = None,
    spans: bool = False,
    masks: bool = False,
) -> list[dict[str, Any]]:
    """Records of an MDETR/GLIP json: one for each caption, with its boxes.

    ``images`` have ``id``, ``file_name``, ``caption``, and ``annotations`` have ``image_id``,
    ``bbox`` (XYWH, absolute pixels) and ``tokens_positive``: spans [begin, end) of characters of
    the caption. Spans with only whitespace between them are one phrase ("red" + "apple").

    Args:
        json_file: the annotations.
        image_root: the folder of the images; for GoldG's mixed file, which has images of two data
            sets, a folder for each ``data_source`` ({"vg": ..., "coco": ...}).
        counter: counts spans outside the caption, captions that are no text, unknown images and
            duplicate ids.
        spans: whether annotations keep ``tokens_positive``, for ``keep=["phrase_spans"]`` of the
            mapper.
        masks: whether annotations keep their ``segmentation``, as in MDETR's files of RefCOCO, for
            ``keep=["gt_masks"]`` of the mapper.

    Raises:
        UserError: the file is missing or not in this format.
    """
    counter = counter or SkipCounter("grounding")
    keys: dict[str, tuple[str, ...]] = {"images": ("id", "file_name"), "annotations": ()}
    # An image with several captions is listed once for each.
    parsed = parse_coco(
        json_file, read_json(json_file, keys), keys, annotation_ids=False, one_image_a_file=False
    )
    to_pixels(parsed)
    records = image_records(
        parsed,
        lambda image: _root_of(image, image_root),
        lambda image: {"caption": _caption_of(image, counter, json_file), "annotations": []},
    )
    for annotation in parsed.annotations:
        where = f"{json_file}: annotation {shown(annotation.get('id'))}"
        record = records[annotation["image_id"]]
        marked = annotation.get("tokens_positive")
        slim = {
            "bbox": annotation.get("bbox"),
            "bbox_mode": BoxMode.XYWH_ABS,
            "iscrowd": annotation.get("iscrowd", 0),
            "phrases": phrases_of_spans(record["caption"], marked, counter, where),
        }
        if spans:
            slim["tokens_positive"], _ = read_spans(marked, record["caption"])
        if masks and annotation.get("segmentation"):
            slim["segmentation"] = annotation["segmentation"]
        record["annotations"].append(slim)
    count_problems(parsed, counter)
    return list(records.values())


def phrases_of_spans(caption: str, marked: Any, counter: SkipCounter, where: str) -> list[str]:
    """The phrases of character spans [begin, end) of a caption.

    Spans that overlap or have only whitespace between them form one phrase. What is no span inside
    the caption is skipped and counted, see `read_spans`.
    """
    valid, invalid = read_spans(marked, caption)
    for entry in invalid:
        counter.add("span-outside", f"{where}: {shown(entry)} of {len(caption)} characters")
    phrases = [caption[begin:end].strip() for begin, end in join_spans(caption, valid)]
    return [phrase for phrase in phrases if phrase]


def _caption_of(image: Mapping[str, Any], counter: SkipCounter, json_file: str) -> str:
    """The caption of an image; "" for one that is no text, which is counted."""
    caption = image.get("caption")
    if caption is not None and not isinstance(caption, str):
        kind = type(caption).__name__
        counter.add(
            "record-malformed", f"{json_file}: image {shown(image['id'])}: caption is a {kind}"
        )
    return caption if isinstance(caption, str) else ""


def _root_of(image: Mapping[str, Any], image_root: str | Mapping[str, str]) -> str:
    if isinstance(image_root, str):
        return image_root
    try:
        return image_root[image["data_source"]]
    except KeyError as error:
        raise UserError(
            f"image {shown(image['id'])} has data_source {shown(image.get('data_source'))}; "
            f"image_root has folders for {sorted(image_root)}"
        ) from error


class OdvgFile(JsonLines):
    """An ODVG jsonl as records: a line is a grounding or a detection record.

    A grounding line: ``{"filename", "height", "width", "grounding": {"caption", "regions":
    [{"bbox": [x1, y1, x2, y2] or a list of boxes, "phrase": str or list,
    "tokens_positive"?: [[begin, end], ...]}]}}``. A detection line: ``{"filename", "height",
    "width", "detection": {"instances": [{"bbox", "label", "category"}]}}`` whose ``label`` is the
    ``category_id`` of DetectionMapper (names: `odvg_names`).

    Args:
        jsonl_file: one json object a line.
        image_root: the folder that ``filename`` is relative to.

    Raises:
        UserError: the file cannot be read. Access to a line that is not in the format raises
            SkipSample.
    """

    def _parse(self, line: Any, index: int) -> dict[str, Any]:
        record: dict[str, Any] = {
            "file_name": self._path(line["filename"]),
            **{key: line[key] for key in ("height", "width") if key in line},
            "image_id": index,
        }
        if "grounding" in line:
            annotations = [
                {
                    "bbox": box,
                    "bbox_mode": BoxMode.XYXY_ABS,
                    "phrases": read_phrases(region["phrase"]),
                    **{key: region[key] for key in ("tokens_positive",) if key in region},
                }
                for region in line["grounding"]["regions"]
                for box in _boxes_of(region["bbox"])
            ]
            return {**record, "caption": line["grounding"]["caption"], "annotations": annotations}
        annotations = [
            {
                "bbox": instance["bbox"],
                "bbox_mode": BoxMode.XYXY_ABS,
                "category_id": int(instance["label"]),
            }
            for instance in line["detection"]["instances"]
        ]
        return {**record, "annotations": annotations}


class OdvgCaptions(JsonLines):
    """The captions of the grounding lines of an ODVG jsonl, as negatives of other captions.

    Args:
        jsonl_file: see `OdvgFile`.
    """

    def __init__(self, jsonl_file: str) -> None:
        super().__init__(jsonl_file, image_root="")

    def _parse(self, line: Any, index: int) -> Any:
        if not isinstance(caption := line["grounding"]["caption"], str):
            raise TypeError(f"the caption is {caption!r}")
        return caption


def odvg_phrases(jsonl_file: str) -> list[str]:
    """The distinct phrases with boxes of an ODVG jsonl, as negatives of its other images.

    Raises:
        UserError: the file cannot be read. SkipSample for a line that is not in the format.
    """
    phrases = (
        phrase
        for record in OdvgFile(jsonl_file, "")
        for annotation in record["annotations"]
        for phrase in annotation.get("phrases", ())
    )
    return list(dict.fromkeys(phrases))


def odvg_names(label_map_file: str) -> list[str]:
    """The names of an ODVG label map, ``{"0": "person", ...}``, by label; "" for a missing label.

    Raises:
        UserError: the file is missing or not such a map, or a label is not below `MAX_LABELS`.
    """
    try:
        label_map = {int(key): str(name) for key, name in read_json(label_map_file).items()}
    except (AttributeError, ValueError) as error:
        raise UserError(f'{label_map_file}: expected {{"0": "name", ...}}, {error}') from error
    for label in label_map:
        if not 0 <= label < MAX_LABELS:  # the list below has an entry for every smaller label
            raise UserError(
                f"{label_map_file}: the label {shown(label)} is not below {MAX_LABELS:,}"
            )
    return [label_map.get(label, "") for label in range(max(label_map, default=-1) + 1)]


def _boxes_of(bbox: list) -> list[list[float]]:
    """The boxes of a region, which has one box or a list of boxes."""
    return bbox if bbox and isinstance(bbox[0], list) else [bbox]
