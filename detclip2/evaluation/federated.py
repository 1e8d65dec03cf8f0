"""Federated annotations, in which a category may be unknown in an image (LVIS, arXiv 1908.03195).

An image with ``neg_category_ids`` is known for these categories and those that have a box. LVIS's
protocol ignores detections of the others, and those without a match of the categories in
``not_exhaustive_category_ids``, whose instances are not all boxed. Without these keys an image is
known for all categories.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detclip2.data.io.coco_parser import ID_LISTS, Content

NEGATIVE, _ = ID_LISTS


class Federated:
    """What is known of the categories of each image.

    Args:
        content: annotations in COCO's format, as `read_coco_json` gives them.
    """

    def __init__(self, content: Content):
        boxed: dict[Any, set[Any]] = defaultdict(set)
        for annotation in content["annotations"]:
            boxed[annotation["image_id"]].add(annotation["category_id"])
        self._known: dict[Any, set[Any]] = {}
        self._partial: dict[Any, set[Any]] = {}
        for image in content["images"]:
            lists = [set(image.get(key, ())) for key in ID_LISTS]
            if NEGATIVE in image:
                self._known[image["id"]] = boxed[image["id"]].union(*lists)
            if lists[1]:
                self._partial[image["id"]] = lists[1]

    def __bool__(self) -> bool:
        """Whether anything is unknown."""
        return bool(self._known or self._partial)

    def known(self, image_id: Any, category_ids: Sequence[Any]) -> NDArray[np.bool_]:
        """(N,) whether each of N categories is known in an image."""
        if image_id not in self._known:
            return np.ones(len(category_ids), dtype=bool)
        known = self._known[image_id]
        return np.array([category_id in known for category_id in category_ids], dtype=bool)

    def is_partial(self, image_id: Any, category_id: Any) -> bool:
        """Whether instances of a category may be in an image without a box."""
        return category_id in self._partial.get(image_id, ())

    def is_exhaustive(self, image_id: Any, category_id: Any) -> bool:
        """Whether all instances of a category in an image have a box, be it none."""
        known = self._known.get(image_id)
        is_known = known is None or category_id in known
        return is_known and not self.is_partial(image_id, category_id)

    def partial_images(self) -> dict[Any, set[Any]]:
        """Category id -> ids of the images in which it `is_partial`."""
        images: dict[Any, set[Any]] = defaultdict(set)
        for image_id, categories in self._partial.items():
            for category_id in categories:
                images[category_id].add(image_id)
        return images
