"""Grounding data: MDETR/GLIP json (GoldG), and the jsonl that mmdetection calls ODVG.

A grounding record is a dataset record with ``caption``, whose annotations have ``phrases``: the
phrases of the caption that the box belongs to.
"""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.structures import BoxMode

from detclip2.data.datasets.detection import read_json
from detclip2.data.io.lines import LineFile
from detclip2.data.sample import SkipSample
from detclip2.data.skips import SkipCounter
from detclip2.utils.errors import UserError


def mdetr_records(
    json_file: str,
    image_root: str | Mapping[str, str],
    counter: SkipCounter | None = None,
) -> list[dict[str, Any]]:
    """Records of an MDETR/GLIP json: one for each caption, with its boxes.

    ``images`` have ``id``, ``file_name``, ``caption``, and ``annotations`` have ``image_id``,
    ``bbox`` (XYWH, absolute pixels) and ``tokens_positive``: spans [begin, end) of characters of
    the caption. Spans with only whitespace between them are one phrase ("red" + "apple").

    Args:
        json_file: the annotations.
        image_root: the folder of the images; for GoldG's mixed file, which draws on two sets, a
            folder for each ``data_source`` ({"vg": ..., "coco": ...}).
        counter: where spans outside the caption, unknown images and double ids are counted.

    Raises:
        UserError: if the file is missing or not of this format.
    """
    counter = counter or SkipCounter("grounding")
    content = read_json(json_file, ("images", "annotations"))
    records: dict[Any, dict[str, Any]] = {}
    for image in content["images"]:
        if "id" not in image or "file_name" not in image:
            counter.add("record-malformed", f"{json_file}: image {str(image)[:80]}")
        elif image["id"] in records:
            counter.add("image-duplicate", f"{json_file}: image id {image['id']}")
        else:
            records[image["id"]] = {
                "file_name": os.path.join(_root_of(image, image_root), image["file_name"]),
                **{key: image[key] for key in ("height", "width") if key in image},
                "image_id": image["id"],
                "caption": image.get("caption") or "",
                "annotations": [],
            }
    for annotation in content["annotations"]:
        where = f"{json_file}: annotation {annotation.get('id')}"
        record = records.get(annotation.get("image_id"))
        if record is None:
            counter.add("image-unknown", f"{where} of image {annotation.get('image_id')}")
            continue
        spans = annotation.get("tokens_positive") or []
        record["annotations"].append(
            {
                "bbox": annotation.get("bbox"),
                "bbox_mode": BoxMode.XYWH_ABS,
                "iscrowd": int(bool(annotation.get("iscrowd", 0))),
                "phrases": phrases_of_spans(record["caption"], spans, counter, where),
            }
        )
    counter.log()
    return list(records.values())


def phrases_of_spans(
    caption: str, spans: Sequence[Sequence[int]], counter: SkipCounter, where: str
) -> list[str]:
    """The phrases that character spans [begin, end) of a caption mark.

    Spans that overlap or have only whitespace between them are one phrase, others are phrases of
    their own; spans that are empty or not inside of the caption are left out and counted.
    """
    valid = []
    for span in spans:
        if len(span) == 2 and 0 <= span[0] < span[1] <= len(caption):
            valid.append((span[0], span[1]))
        else:
            counter.add("span-outside", f"{where}: {list(span)} of {len(caption)} characters")
    joined: list[tuple[int, int]] = []
    for begin, end in sorted(valid):
        if joined and not caption[joined[-1][1] : begin].strip():
            begin, end = joined[-1][0], max(end, joined.pop()[1])
        joined.append((begin, end))
    phrases = [caption[begin:end].strip() for begin, end in joined]
    return [phrase for phrase in phrases if phrase]


def _root_of(image: Mapping[str, Any], image_root: str | Mapping[str, str]) -> str:
    if isinstance(image_root, str):
        return image_root
    try:
        return image_root[image["data_source"]]
    except KeyError as error:
        raise UserError(
            f"image {image['id']} has data_source {image.get('data_source')!r}; "
            f"image_root has folders for {sorted(image_root)}"
        ) from error


class OdvgFile(Sequence[dict[str, Any]]):
    """An ODVG jsonl as records, grounding or detection by what a line holds.

    A grounding line: ``{"filename", "height", "width", "grounding": {"caption", "regions":
    [{"bbox": [x1, y1, x2, y2] or a list of such, "phrase": str or list}]}}``. A detection line:
    ``{"filename", "height", "width", "detection": {"instances": [{"bbox", "label", "category"}]}}``
    whose ``label`` is the ``category_id`` of DetectionMapper (names: :func:`odvg_names`).

    Args:
        jsonl_file: one json object a line.
        image_root: the folder that ``filename`` is relative to.

    Raises:
        UserError: if the file cannot be read. A line that is not in the format raises
            SkipSample when it is asked for.
    """

    def __init__(self, jsonl_file: str, image_root: str):
        self.lines = LineFile(jsonl_file)
        self.image_root = image_root

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index):
        """One record, or a list of them for a slice."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        try:
            return self._record(json.loads(self.lines[index]), index)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            where = f"{self.lines.path}, record {index}"
            raise SkipSample("record-malformed", f"{where}: {error!r}") from error

    def _record(self, line: dict[str, Any], index: int) -> dict[str, Any]:
        record: dict[str, Any] = {
            "file_name": os.path.join(self.image_root, line["filename"]),
            **{key: line[key] for key in ("height", "width") if key in line},
            "image_id": index,
        }
        if "grounding" in line:
            annotations = [
                {"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "phrases": _as_list(region["phrase"])}
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


def odvg_names(label_map_file: str) -> list[str]:
    """The names by label of an ODVG label map, ``{"0": "person", ...}``; a gap is "".

    Raises:
        UserError: if the file is missing or not such a map.
    """
    try:
        label_map = {int(key): str(name) for key, name in read_json(label_map_file).items()}
    except (AttributeError, ValueError) as error:
        raise UserError(f'{label_map_file}: expected {{"0": "name", ...}}, {error}') from error
    return [label_map.get(label, "") for label in range(max(label_map, default=-1) + 1)]


def _as_list(phrase: str | list[str]) -> list[str]:
    return [phrase] if isinstance(phrase, str) else [str(p) for p in phrase]


def _boxes_of(bbox: list) -> list[list[float]]:
    """The boxes of a region: a phrase may have one box or a list of them."""
    return bbox if bbox and isinstance(bbox[0], list) else [bbox]
