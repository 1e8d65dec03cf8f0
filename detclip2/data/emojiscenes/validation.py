"""EmojiScenes as registered data sets, and its validation set as files in LVIS's format."""

import functools
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detclip2.data.datasets.catalog import register
from detclip2.data.datasets.detection import load_detection_json
from detclip2.data.emojiscenes.scenes import EmojiScenes
from detclip2.data.emojiscenes.writers import encode_jpeg
from detclip2.data.io.masks import encode_mask, outlines_of
from detclip2.data.skips import SkipCounter
from detclip2.utils.errors import UserError

logger = logging.getLogger(__name__)

ANNOTATIONS = "annotations.json"


def register_emoji_scenes(name: str, scenes: EmojiScenes) -> None:
    """Register scenes, which are drawn on access, as the data set `name`; see `register`."""
    register(name, lambda: scenes, thing_classes=scenes.class_names)


def register_emoji_validation(name: str, scenes: EmojiScenes, folder: str | Path) -> Path:
    """Render `scenes` under `folder` unless they are there, and register them as `name`.

    The metadata have the keys that LVISEvaluator needs (`json_file`, `thing_classes`) and
    `class_image_count`, as for Detectron2's own LVIS. Category `i` of the json (from 1) is class
    `i - 1`, as Detectron2's LVIS reader expects.

    Returns:
        The path of the json.

    Raises:
        UserError: the folder cannot be written.
    """
    json_file = render_validation(scenes, folder)
    image_root = f"{json_file.parent}/"
    content = json.loads(json_file.read_text(encoding="utf-8"))
    register(
        name,
        functools.partial(_records, str(json_file), image_root, scenes.masks),
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


def _records(json_file: str, image_root: str, masks: bool) -> Sequence[dict[str, Any]]:
    counter = SkipCounter("validation scenes")
    return load_detection_json(json_file, image_root, counter, masks)[1]


def fingerprint(scenes: EmojiScenes) -> str:
    """A hash of all that images and boxes depend on, 16 hexadecimal digits.

    It covers settings, categories, font or artwork, and the first scenes, so that it differs for
    code or a version of OpenCV that draws them otherwise.
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
    if scenes.masks:
        facts["masks"] = "exact"
    if sampler.sprites.artwork is not None:
        facts["artwork"] = sampler.sprites.artwork.fingerprint()
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def render_validation(scenes: EmojiScenes, folder: str | Path) -> Path:
    """Write the images and an LVIS json into a new folder under `folder`.

    The folder's name has the `fingerprint`; a folder of that name is complete and is used as it is.
    It gets its name when it is complete, so killed runs leave no incomplete one, and processes may
    render at the same time.

    Returns:
        The path of the json.

    Raises:
        UserError: the folder cannot be written.
    """
    mark = fingerprint(scenes)
    target = Path(folder) / f"emoji-{scenes.split}-{scenes.sampler.size}-{mark}"
    if (target / ANNOTATIONS).is_file():
        return target / ANNOTATIONS
    logger.info("Rendering %d scenes into %s", len(scenes), target)
    partial = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        (partial / "images").mkdir(parents=True, exist_ok=True)
        content = _render(scenes, partial)
        content["info"]["fingerprint"] = mark
        (partial / ANNOTATIONS).write_text(json.dumps(content), encoding="utf-8")
        try:
            partial.rename(target)
        except OSError:
            if not (target / ANNOTATIONS).is_file():
                raise
    except OSError as error:
        raise UserError(f"{target}: cannot be written ({error})") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target / ANNOTATIONS


def _render(scenes: EmojiScenes, folder: Path) -> dict[str, Any]:
    """Write the images into `folder`, and return the content of the json."""
    outline = encode_mask if scenes.masks else outlines_of  # LVIS's own reader refuses RLE
    class_of = {category.id: i for i, category in enumerate(scenes.vocabulary, start=1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(len(scenes)):
        layout = scenes.sampler.layout(index)
        image = scenes.sampler.draw(index, layout)
        name = f"images/{index:06d}.jpg"
        (folder / name).write_bytes(encode_jpeg(image))
        present = {class_of[item.category.id] for item in layout.objects}
        images.append(
            {
                "id": index + 1,
                "file_name": name,
                # Detectron2's LVIS reader makes the path from the last two parts of it.
                "coco_url": f"emoji:///{name}",
                "height": image.shape[0],
                "width": image.shape[1],
                # All drawn objects are known, so every absent category is a negative.
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
                    "segmentation": outline(layout.owner == number),
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
