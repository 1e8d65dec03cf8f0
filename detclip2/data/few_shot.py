"""Few-shot splits: so many boxes of every class, chosen by a seed."""

import logging
import random
from collections import Counter
from typing import Any

from detclip2.data.io.coco_json import Content
from detclip2.utils.errors import UserError

logger = logging.getLogger(__name__)

SHOTS = (1, 3, 5, 10)
"""Those of ODinW's few-shot tracks (GLIP, ELEVATER)."""
SEEDS = (3, 30, 300)
"""Those of GLIP's splits. The splits here are others: GLIP published its files, not its code."""


def few_shot_split(content: Content, shots: int, seed: int) -> Content:
    """Images with at least `shots` boxes of every class.

    The images are shuffled by the seed; in that order, an image is taken if it has a box of a class
    that lacks boxes so far. It comes with all of its boxes, because what is left unboxed would be
    taught as background; so a class may have more than `shots`. A class with fewer boxes in the
    whole file has all of them; a warning names it. Boxes without area and crowds do not count.

    Args:
        content: of :func:`~detclip2.data.io.coco_json.read_coco_json`.
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


def _counts(annotation: dict[str, Any]) -> bool:
    _, _, width, height = annotation["bbox"]
    return width > 0 and height > 0 and not annotation.get("iscrowd", 0)
