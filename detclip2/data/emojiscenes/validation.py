"""EmojiScenes as registered data sets, and its validation set as files in LVIS's format."""

import functools
import hashlib
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.lvis import load_lvis_json

from detclip2.utils.errors import UserError

from .layout import PlacedObject
from .scenes import EmojiScenes
from .writers import encode_jpeg

logger = logging.getLogger(__name__)

ANNOTATIONS = "annotations.json"


def register_emoji_scenes(name: str, scenes: EmojiScenes) -> None:
    """Register scenes that are drawn when asked for, as the data set `name`.

    A data set of that name is replaced, so that a config can be loaded twice.
    """
    _forget(name)
    DatasetCatalog.register(name, lambda: scenes)
    MetadataCatalog.get(name).set(thing_classes=scenes.class_names)


def register_emoji_validation(name: str, scenes: EmojiScenes, folder: str | Path) -> Path:
    """Render `scenes` under `folder` unless it has been done, and register them as `name`.

    The metadata are what LVISEvaluator needs (`json_file`, `thing_classes`) and
    `class_image_count`, as for Detectron2's own LVIS. Category `i` of the json (from 1) is class
    `i - 1`, so that Detectron2's LVIS reader needs no map. Returns the json's path.
    """
    json_file = render_validation(scenes, folder)
    image_root = f"{json_file.parent}/"
    content = json.loads(json_file.read_text(encoding="utf-8"))
    _forget(name)
    # Without the data set's name: Detectron2 knows the classes of LVIS's own files alone.
    DatasetCatalog.register(name, functools.partial(load_lvis_json, str(json_file), image_root))
    MetadataCatalog.get(name).set(
        json_file=str(json_file),
        image_root=image_root,
        evaluator_type="lvis",
        thing_classes=scenes.class_names,
        class_image_count=[
            {"id": category["id"], "image_count": category["image_count"]}
            for category in content["categories"]
        ],
    )
    return json_file


def _forget(name: str) -> None:
    for catalog in (DatasetCatalog, MetadataCatalog):
        if name in catalog:
            catalog.remove(name)


def fingerprint(scenes: EmojiScenes) -> str:
    """What the pictures and boxes depend on, as 16 hex digits: settings, categories, font or
    artwork, code.

    The code is known by what it does: the first scenes are part of the print, so that no rendering
    of another version of it, or of OpenCV, is taken for this one's.
    """
    sampler = scenes.sampler
    samples = [scenes[index] for index in range(min(4, len(scenes)))]
    facts = {
        "vocabulary": [category.id for category in scenes.vocabulary],
        "shown": [category.id for category in sampler.categories],
        "names": scenes.class_names,
        "count": len(scenes),
        "font": hashlib.sha256(sampler.sprites.font.read_bytes()).hexdigest(),
        "settings": [sampler.stream, sampler.seed, sampler.size, sampler.objects],
        "draws": [sampler.long_tail, sampler.repeat],
        "samples": [hashlib.sha256(sample["image"].tobytes()).hexdigest() for sample in samples],
        "boxes": [[item["bbox"] for item in sample["annotations"]] for sample in samples],
    }
    if sampler.sprites.artwork is not None:
        facts["artwork"] = sampler.sprites.artwork.fingerprint()
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def render_validation(scenes: EmojiScenes, folder: str | Path) -> Path:
    """Write the pictures and an LVIS json into a folder of their own under `folder`.

    The folder's name has the :func:`fingerprint`; when it is there, it is complete and is taken as
    it is. It is written aside and then renamed, so a killed run leaves nothing half done, and
    processes that render at the same time do not disturb each other. Returns the json's path.

    Raises UserError when the folder cannot be written.
    """
    mark = fingerprint(scenes)
    target = Path(folder) / f"emoji-{scenes.split}-{scenes.sampler.size}-{mark}"
    if (target / ANNOTATIONS).is_file():
        return target / ANNOTATIONS
    logger.info("Rendering %d scenes into %s", len(scenes), target)
    aside = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        (aside / "images").mkdir(parents=True, exist_ok=True)
        content = _render(scenes, aside)
        content["info"]["fingerprint"] = mark
        (aside / ANNOTATIONS).write_text(json.dumps(content), encoding="utf-8")
        try:
            aside.rename(target)
        except OSError:
            if not (target / ANNOTATIONS).is_file():
                raise
    except OSError as error:
        raise UserError(f"{target}: cannot be written ({error})") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return target / ANNOTATIONS


def _render(scenes: EmojiScenes, folder: Path) -> dict[str, Any]:
    """Write the pictures into `folder`; returns the content of the json."""
    class_of = {category.id: i for i, category in enumerate(scenes.vocabulary, start=1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(len(scenes)):
        layout = scenes.sampler.layout(index)
        picture = scenes.sampler.draw(index, layout)
        name = f"images/{index:06d}.jpg"
        (folder / name).write_bytes(encode_jpeg(picture))
        present = {class_of[item.category.id] for item in layout.objects}
        images.append(
            {
                "id": index + 1,
                "file_name": name,
                # Detectron2's LVIS reader makes the path of the last two parts of this.
                "coco_url": f"emoji:///{name}",
                "height": picture.shape[0],
                "width": picture.shape[1],
                # The world knows all that it drew: whatever is not there is a negative.
                "neg_category_ids": sorted(set(class_of.values()) - present),
                "not_exhaustive_category_ids": [],
            }
        )
        for number, item in enumerate(layout.objects):
            left, top, right, bottom = item.box
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index + 1,
                    "category_id": class_of[item.category.id],
                    "bbox": [left, top, right - left, bottom - top],
                    "area": item.area,
                    "segmentation": _outline(item, layout.owner == number),
                    "iscrowd": 0,
                }
            )
    return {
        "info": {"description": "EmojiScenes", "seed": scenes.sampler.seed},
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": _categories(scenes, annotations),
    }


def _outline(item: PlacedObject, visible: np.ndarray) -> list[list[float]]:
    """Polygons, x and y in turn, around the visible part; its holes are filled."""
    left, top, right, bottom = item.box
    mask = visible[top:bottom, left:right].astype(np.uint8)
    # OpenCV's contours run through the centres of pixels; those of pixels half as large run close
    # to the edges of the true ones, and a line of pixels has an area.
    finer = mask.repeat(2, axis=0).repeat(2, axis=1)
    contours, _ = cv2.findContours(finer, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return [
        ((contour.reshape(-1, 2) + 0.5) / 2 + (left, top)).reshape(-1).tolist()
        for contour in contours
    ]


def _categories(scenes: EmojiScenes, annotations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    images_of: dict[int, list[int]] = {}
    for annotation in annotations:
        images_of.setdefault(annotation["category_id"], []).append(annotation["image_id"])
    return [
        {
            "id": number,
            "name": category.name,
            "synonyms": [category.name, *category.synonyms],
            "synset": f"{category.name.replace(' ', '_')}.e.01",
            "def": f"the emoji {category.emoji}",
            "frequency": category.frequency,
            "split": category.split,
            "image_count": len(set(images_of.get(number, []))),
            "instance_count": len(images_of.get(number, [])),
        }
        for number, category in enumerate(scenes.vocabulary, start=1)
    ]
