"""Small parts of a data set: images with at least K boxes of every class, or the first N."""

import logging
import random
from collections import Counter
from typing import Any

from detclip2.data.io.coco_parser import Content
from detclip2.utils.errors import UserError

logger = logging.getLogger(__name__)

SHOTS = (1, 3, 5, 10)
"""Those of ODinW's few-shot tracks (GLIP, ELEVATER)."""
SEEDS = (3, 30, 300)
"""Those of GLIP's splits. The splits here are others: GLIP published its files, not its code."""


def few_shot_split(content: Content, shots: int, seed: int) -> Content:
    """Images with at least `shots` boxes of every class.

    The images are shuffled by the seed; in that order, an image is taken if it has a box of a class
    that lacks boxes so far. It keeps all of its boxes, because unboxed objects would be background
    in training; so a class may have more than `shots`. A class with fewer boxes in the whole file
    has all of them; a warning names it. Boxes without area and crowds do not count.

    Args:
        content: of `read_coco_json`.
        shots: boxes of a class, at least 1.
        seed: of the shuffle; the same images come out on every machine.

    Returns:
        content of the same format; images and annotations in the order of the file.

    Raises:
        UserError: `shots` is not positive, or there is no box to choose.
    """
    if shots < 1:
        raise UserError(f"shots is {shots}; expected at least 1")
    counts: dict[Any, Counter[Any]] = {}  # image -> class -> boxes
    for annotation in content["annotations"]:
        if _counts(annotation):
            counts.setdefault(annotation["image_id"], Counter())[annotation["category_id"]] += 1
    order = [image["id"] for image in content["images"] if image["id"] in counts]
    if not order:
        raise UserError("there is no box in these annotations to make a few-shot split of")
    random.Random(seed).shuffle(order)
    have: Counter[Any] = Counter()
    taken = set()
    for image_id in order:
        if any(have[category] < shots for category in counts[image_id]):
            taken.add(image_id)
            have.update(counts[image_id])
    for category in content["categories"]:
        if (number := have[category["id"]]) < shots:
            logger.warning(
                "class %r has %d boxes in the whole file, fewer than %d",
                category["name"],
                number,
                shots,
            )
    return {
        **content,
        "images": [image for image in content["images"] if image["id"] in taken],
        "annotations": [a for a in content["annotations"] if a["image_id"] in taken],
    }


def first_images(content: Content, number: int, most_boxes: int | None = None) -> Content:
    """The first images with a box, all of their annotations, and the classes of these.

    Args:
        content: of `read_coco_json`.
        number: of images.
        most_boxes: images with more are skipped; None: none is.

    Raises:
        UserError: there are fewer.
    """
    boxes = Counter(one["image_id"] for one in content["annotations"] if _counts(one))
    limit = float("inf") if most_boxes is None else most_boxes
    fitting = [image for image in content["images"] if 0 < boxes[image["id"]] <= limit]
    images = fitting[:number]
    if len(images) < number or number < 1:
        raise UserError(f"{number} images are asked for; {len(fitting)} have so few boxes, or any")
    taken = {image["id"] for image in images}
    annotations = [a for a in content["annotations"] if a["image_id"] in taken]
    classes = {annotation["category_id"] for annotation in annotations}
    categories = [one for one in content["categories"] if one["id"] in classes]
    return {**content, "images": images, "annotations": annotations, "categories": categories}


def _counts(annotation: dict[str, Any]) -> bool:
    _, _, width, height = annotation["bbox"]
    return width > 0 and height > 0 and not annotation.get("iscrowd", 0)


def few_shot_file(split: str, shots: int, seed: int) -> str:
    """The name that GLIP's files of a split have: ``fewshot_train_shot1_seed3.json``."""
    names = {"valid": "val", "mini_val": "minival"}
    return f"fewshot_{names.get(split, split)}_shot{shots}_seed{seed}.json"
