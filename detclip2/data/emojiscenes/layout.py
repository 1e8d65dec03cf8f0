"""Layouts of scenes: place, size and rotation of objects, and their visible parts."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from detclip2.data.emojiscenes.categories import Category
from detclip2.data.emojiscenes.sprites import SpriteSheet, warp_sprite

# The least visible fraction of an object: one with less could not be recognised.
MIN_VISIBLE = 0.4
# The lowest alpha of pixels that belong to the object and not to its background.
OPAQUE = 128
# Number of places that are tried before an object is skipped.
ATTEMPTS = 6
# Categories that mean something else if turned or mirrored, by word of the name and by group.
UPRIGHT_WORDS = frozenset({"up", "down", "left", "right", "leftwards", "rightwards", "upside-down"})
ONE_WAY_GROUPS = frozenset({"warning", "money", "religion", "book-paper", "time"})
# Longer side of an object before rotation, as a fraction of the scene's side.
SMALLEST, LARGEST = 0.09, 0.5


@dataclass
class PlacedObject:
    """An object in a scene.

    `box` is XYXY in pixels, tight around the *visible* part (as in LVIS and COCO), right and bottom
    exclusive; `visible` is the fraction that is neither covered nor outside, 0..1.
    """

    category: Category
    box: tuple[int, int, int, int]
    visible: float
    patch: np.ndarray
    left: int
    top: int
    area: int = 0

    @property
    def center(self) -> tuple[float, float]:
        """(x, y) of the box."""
        return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2


@dataclass
class Layout:
    """Objects from back to front, and `owner` (size, size) int16: each pixel's object, or -1."""

    objects: list[PlacedObject]
    owner: np.ndarray


def arrange(
    categories: Sequence[Category], size: int, sprites: SpriteSheet, rng: np.random.Generator
) -> Layout:
    """Place one object of each category in a square scene, later ones in front of earlier ones.

    Objects without a suitable place are skipped, so the layout may have fewer.
    """
    owner = np.full((size, size), -1, np.int16)
    placed: list[PlacedObject] = []
    total: list[int] = []
    seen: list[int] = []
    # A common scale makes some scenes close-ups and others distant views.
    scene_scale = rng.uniform(0.6, 1.0)
    for category in categories:
        low, high = np.log(SMALLEST), np.log(LARGEST * scene_scale)
        extent = size * float(np.exp(rng.uniform(low, high)))
        patch = _turned_sprite(category, extent, sprites, rng)
        for _ in range(ATTEMPTS):
            # Slightly beyond the edges, so that the image's border cuts some objects.
            place = rng.uniform(-0.1, 1.1, 2) * (size - np.array(patch.shape[1::-1]))
            left, top = place.astype(int).tolist()
            spot = _look_at(patch, left, top, owner)
            if spot is None:
                continue
            mask, rows, columns, full = spot
            covered = np.bincount(owner[rows, columns][mask] + 1, minlength=len(placed) + 1)[1:]
            if all(seen[i] - covered[i] >= MIN_VISIBLE * total[i] for i in np.flatnonzero(covered)):
                owner[rows, columns][mask] = len(placed)
                for i in np.flatnonzero(covered):
                    seen[i] -= int(covered[i])
                seen.append(int(np.count_nonzero(mask)))
                total.append(full)
                placed.append(PlacedObject(category, (0, 0, 0, 0), 0.0, patch, left, top))
                break
    for index, item in enumerate(placed):
        item.visible, item.area = seen[index] / total[index], seen[index]
        item.box = _tight_box(item, index, owner)
    return Layout(placed, owner)


def _turned_sprite(
    category: Category, extent: float, sprites: SpriteSheet, rng: np.random.Generator
) -> np.ndarray:
    """The category's sprite (longer side `extent` px), turned, perhaps mirrored, and jittered."""
    sprite = sprites[category.emoji]
    one_way = category.group in ONE_WAY_GROUPS or not UPRIGHT_WORDS.isdisjoint(
        category.name.split()
    )
    limit = 8.0 if one_way else 25.0
    angle = rng.uniform(-limit, limit)
    mirror = bool(rng.random() < 0.5) and not one_way
    scale = extent / max(sprite.height, sprite.width)
    patch, _, _ = warp_sprite(sprite, scale, angle, mirror, (0.0, 0.0))
    return cv2.transform(patch, _color_jitter(rng))


def _color_jitter(rng: np.random.Generator) -> np.ndarray:
    """A (4, 4) matrix for RGBA: mild brightness, saturation and tint; a red apple stays red."""
    brightness, saturation = rng.uniform(0.75, 1.1), rng.uniform(0.75, 1.15)
    tint = rng.uniform(0.93, 1.07, 3)
    grey = np.full((3, 3), 1 / 3) * (1 - saturation) + np.eye(3) * saturation
    matrix = np.eye(4)
    matrix[:3, :3] = brightness * tint[:, None] * grey
    return matrix


def _look_at(patch: np.ndarray, left: int, top: int, owner: np.ndarray):
    """A patch at a place: its mask inside the scene, the scene's rows and columns, its full area.

    None if too little of it is inside.
    """
    size = len(owner)
    solid = patch[..., 3] >= OPAQUE
    full = int(np.count_nonzero(solid))
    rows = slice(max(top, 0), min(top + patch.shape[0], size))
    columns = slice(max(left, 0), min(left + patch.shape[1], size))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return None
    mask = solid[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    if full == 0 or np.count_nonzero(mask) < MIN_VISIBLE * full:
        return None
    return mask, rows, columns, full


def _tight_box(item: PlacedObject, index: int, owner: np.ndarray) -> tuple[int, int, int, int]:
    rows = slice(max(item.top, 0), item.top + item.patch.shape[0])
    columns = slice(max(item.left, 0), item.left + item.patch.shape[1])
    mine = owner[rows, columns] == index
    x, y, width, height = cv2.boundingRect(mine.view(np.uint8))
    x, y = x + columns.start, y + rows.start
    return x, y, x + width, y + height


def paint(layout: Layout, image: np.ndarray) -> np.ndarray:
    """Draw the objects, back to front, into `image` (size, size, 3) uint8, in place."""
    size = len(image)
    for item in layout.objects:
        top, left, patch = item.top, item.left, item.patch
        rows = slice(max(top, 0), min(top + patch.shape[0], size))
        columns = slice(max(left, 0), min(left + patch.shape[1], size))
        patch = patch[
            rows.start - top : rows.stop - top, columns.start - left : columns.stop - left
        ]
        behind = image[rows, columns]
        through = cv2.merge([255 - patch[..., 3]] * 3)
        dimmed = cv2.multiply(behind, through, scale=1 / 255)
        image[rows, columns] = cv2.add(dimmed, patch[..., :3])
    return image
