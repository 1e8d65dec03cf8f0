"""Detection in tiles: small things in large images, which resizing would make too small."""

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor
from torchvision.ops.boxes import batched_nms

from detclip2.data.io.image import read_image
from detclip2.inference.predictor import ONE_IMAGE, OpenVocabularyPredictor
from detclip2.inference.results import Labels
from detclip2.utils.errors import UserError

OVERLAP = 0.2
"""Share of a tile that the next one has too, as in SAHI (Akyon et al., 2022): what is smaller is
whole in one of them."""
CUT_INSIDE = 0.5
"""A cut box of which this share is in a whole box of its name is a piece of the same thing."""
_AT_EDGE = 2.0  # px from an edge between tiles at which a box counts as cut by it
_SMALLEST = 32

Tile: TypeAlias = tuple[int, int, int, int]
"""XYXY px in the image."""


class TiledPredictor:
    """Detects in overlapping tiles and in the whole image, and merges the detections.

    Boxes that an edge between tiles cuts give way to whole boxes, from the next tile or the whole
    image, that have most of them inside. The rest is merged as the model does it: by its
    ``nms_threshold``, name by name unless ``class_agnostic_nms``, and ``max_detections`` remain.
    A mask is that of its box, so that it ends where its tile does.

    An image that is not larger than a tile is detected as it is.

    Args:
        predictor: with a vocabulary.
        size: side of a tile, px.

    Raises:
        UserError: the side is too small.
    """

    def __init__(self, predictor: OpenVocabularyPredictor, size: int) -> None:
        if size < _SMALLEST:
            raise UserError(f"tiles of {size} px are too small; expected at least {_SMALLEST}")
        self.predictor = predictor
        self.size = size

    def __call__(self, images: Any, **overrides: Any) -> Any:
        """Detect in an image, or lazily in those of an iterable; see `OpenVocabularyPredictor`.

        Args:
            images: one image, or any iterable of images.
            **overrides: the four settings by name.

        Raises:
            UserError: an image cannot be read, or there is no vocabulary.
        """
        if isinstance(images, ONE_IMAGE):
            return self._detect(images, overrides)
        return (self._detect(image, overrides) for image in images)

    def _detect(self, image: Any, overrides: dict[str, Any]) -> Instances:
        pixels = read_image(image)
        height, width = pixels.shape[:2]
        whole = self.predictor(pixels, **overrides)
        places = [*tiles(height, width, self.size)]
        if len(places) == 1:
            return whole
        parts = []
        crops = (pixels[y1:y2, x1:x2] for x1, y1, x2, y2 in places)
        for place, found in zip(places, self.predictor(crops, **overrides), strict=True):
            parts.append((place, found, cut_boxes(found.pred_boxes.tensor, place, height, width)))
        # The last one, so that of equal scores the box from a tile counts, which is finer.
        parts.append(((0, 0, width, height), whole, torch.zeros(len(whole), dtype=torch.bool)))
        return self._merged(parts, (height, width), overrides)

    def _merged(
        self,
        parts: list[tuple[Tile, Instances, Tensor]],
        size: tuple[int, int],
        overrides: dict[str, Any],
    ) -> Instances:
        settings = {**vars(self.predictor.effective_thresholds)}
        settings.update({key: value for key, value in overrides.items() if value is not None})
        boxes = torch.cat(
            [found.pred_boxes.tensor + torch.tensor(tile[:2] * 2) for tile, found, _ in parts]
        )
        scores = torch.cat([found.scores for _, found, _ in parts])
        classes = torch.cat([found.pred_classes for _, found, _ in parts])
        labels = Labels(label for _, found, _ in parts for label in found.labels)
        is_cut = torch.cat([cut for _, _, cut in parts])
        groups = torch.zeros_like(classes) if settings["class_agnostic_nms"] else classes
        kept = merge(boxes, scores, groups, is_cut, settings["nms_threshold"])
        kept = kept[: settings["max_detections"]]
        merged = Instances(
            size,
            pred_boxes=Boxes(boxes[kept]),
            scores=scores[kept],
            pred_classes=classes[kept],
            labels=labels[kept],
        )
        if parts[-1][1].has("pred_masks"):
            merged.pred_masks = _masks_at(kept, parts, size)
        return merged


def tiles(height: int, width: int, size: int) -> Iterator[Tile]:
    """The tiles of an image, XYXY px; all have the same size, the last ones end with the image.

    Args:
        height: of the image, px.
        width: of the image, px.
        size: side of a tile, px; of images that are smaller, their own.
    """
    for y in _starts(height, size):
        for x in _starts(width, size):
            yield x, y, min(x + size, width), min(y + size, height)


def _starts(length: int, size: int) -> list[int]:
    """The first pixels of the tiles along one side, evenly spaced."""
    if length <= size:
        return [0]
    count = int(np.ceil((length - size) / (size * (1 - OVERLAP)))) + 1
    return [round(i * (length - size) / (count - 1)) for i in range(count)]


def _masks_at(
    kept: Tensor, parts: list[tuple[Tile, Instances, Tensor]], size: tuple[int, int]
) -> Tensor:
    """(N, H, W) bool masks in the image of N detections, by their positions in all parts together.

    Only these are as large as the image; the others stay as large as their tiles.
    """
    masks = torch.zeros(len(kept), *size, dtype=torch.bool)
    first = 0
    for (x1, y1, x2, y2), found, _ in parts:
        of_part = ((kept >= first) & (kept < first + len(found))).nonzero()[:, 0]
        masks[of_part, y1:y2, x1:x2] = found.pred_masks[kept[of_part] - first]
        first += len(found)
    return masks


def cut_boxes(boxes: Tensor, tile: Tile, height: int, width: int) -> Tensor:
    """(N,) bool: whether boxes end at an edge of a tile that is no edge of the image.

    Args:
        boxes: (N, 4) XYXY px in the tile.
        tile: XYXY px in the image.
        height: of the image, px.
        width: of the image, px.
    """
    x1, y1, x2, y2 = tile
    low = (boxes[:, :2] < _AT_EDGE) & torch.tensor([x1 > 0, y1 > 0])
    high = (boxes[:, 2:] > boxes.new_tensor([x2 - x1, y2 - y1]) - _AT_EDGE) & torch.tensor(
        [x2 < width, y2 < height]
    )
    return (low | high).any(1)


def merge(
    boxes: Tensor, scores: Tensor, groups: Tensor, is_cut: Tensor, nms_threshold: float
) -> Tensor:
    """Indices of the detections that remain of those of all tiles, best first.

    Whole boxes suppress each other by their intersection over union. Of cut boxes those remain that
    are not mostly inside of a remaining box of their group, whole ones first.

    Args:
        boxes: (N, 4) XYXY px in the image.
        scores: (N,).
        groups: (N,) int64; boxes of different groups do not touch each other.
        is_cut: (N,) bool.
        nms_threshold: of the intersection over union.
    """
    whole, cut = (~is_cut).nonzero()[:, 0], is_cut.nonzero()[:, 0]
    whole = whole[batched_nms(boxes[whole], scores[whole], groups[whole], nms_threshold)]
    order = torch.cat([whole, cut[scores[cut].argsort(descending=True, stable=True)]])
    kept = torch.ones(len(order), dtype=torch.bool)
    for i in range(len(whole), len(order)):
        others = order[:i][kept[:i] & (groups[order[:i]] == groups[order[i]])]
        kept[i] = not (_share_inside(boxes[order[i]], boxes[others]) >= CUT_INSIDE).any()
    remaining = order[kept]
    return remaining[scores[remaining].argsort(descending=True, stable=True)]


def _share_inside(box: Tensor, others: Tensor) -> Tensor:
    """(N,) the share of a box's area that is in each of N others."""
    sides = torch.minimum(box[2:], others[:, 2:]) - torch.maximum(box[:2], others[:, :2])
    return sides.clamp(min=0).prod(1) / (box[2:] - box[:2]).prod().clamp(min=1e-9)
