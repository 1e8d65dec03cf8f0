"""EmojiScenes: images of emoji with boxes, drawn on access."""

import functools
import logging
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from detectron2.structures import BoxMode
from torch.utils.data import Dataset

from detclip2.data.emojiscenes.backgrounds import draw_background
from detclip2.data.emojiscenes.categories import Category, World, world_of
from detclip2.data.emojiscenes.layout import Layout, arrange, paint
from detclip2.data.emojiscenes.sprites import SpriteSheet
from detclip2.data.io.masks import encode_mask
from detclip2.utils.errors import UserError

logger = logging.getLogger(__name__)

# Seeds of the random streams of each part of a world. Never change them: scenes would differ.
STREAMS = {"train": 1, "val": 2, "pairs": 3, "grounding": 4, "questions": 5, "captioning": 6}
# Parts of a scene with random numbers of their own, so that none depends on how others are drawn.
PARTS: dict[str, tuple[int, ...]] = {
    "layout": (), "image": (1,), "text": (2,), "referring": (3,), "twins": (4,)
}  # fmt: skip
# Number of scenes whose contents are drawn together, so that categories occur evenly and a scene
# does not depend on all those before it.
BLOCK = 1024


class SceneSampler:
    """Draws the categories of scene `index`, arranges the objects and draws the image.

    A scene depends on (seed, stream, index) alone: its categories, places and colours are the same
    on all machines with the same font.

    Args:
        categories: the categories that may occur.
        stream: a key of STREAMS.
        seed: seed of the world.
        size: pixels of an edge, 32 or more.
        objects: (least, most) objects of a scene, in 1 to 100; those without a place are skipped.
        long_tail: exponent of the frequencies: the probability of the category of rank k is
            proportional to (k + 5) ** -long_tail; those of frequency f rank before those of c. With
            0, categories are dealt like cards, so that all occur equally often.
        repeat: probability that a further object is of a category that the scene has already.
        font: see `SpriteSheet`.
        artwork: see `SpriteSheet`. Categories that it lacks are skipped, with a warning.

    Raises:
        UserError: there is no category to draw, or a value is out of its range.
    """

    def __init__(
        self,
        categories: Sequence[Category],
        stream: str,
        seed: int,
        size: int = 320,
        objects: tuple[int, int] = (1, 8),
        long_tail: float = 0.0,
        repeat: float = 0.15,
        font: str | None = None,
        artwork: str | None = None,
    ):
        self.sprites = SpriteSheet(font, artwork)
        self._drawn = self._drawable(categories)
        if not self._drawn:
            raise UserError("EmojiScenes needs at least one category")
        objects = (objects[0], objects[1])  # a config gives a list
        if not 1 <= objects[0] <= objects[1] <= 100:
            raise UserError(f"objects of a scene: {objects}, expected (least, most) in 1 to 100")
        if size < 32:
            raise UserError(f"size of a scene: {size}, expected at least 32 pixels")
        self.categories = tuple(categories)
        self.stream, self.seed, self.size = stream, seed, size
        self.objects, self.long_tail, self.repeat = objects, long_tail, repeat
        order = sorted(range(len(categories)), key=lambda i: categories[i].frequency != "f")
        weights = np.empty(len(categories))
        weights[order] = (np.arange(len(categories)) + 5.0) ** -long_tail
        self._cumulative = np.cumsum(weights / weights.sum())
        self._plan = functools.lru_cache(maxsize=8)(self._plan_block)

    def _drawable(self, categories: Sequence[Category]) -> list[Category]:
        """The categories that can be drawn."""
        artwork = self.sprites.artwork
        if artwork is None:
            return list(categories)
        missing = [category.name for category in categories if category.emoji not in artwork]
        if missing:
            text = f"{artwork.folder}: has no picture of {len(missing)} of {len(categories)} names"
            logger.warning("%s, which are skipped: %s", text, ", ".join(missing))
        return [category for category in categories if category.emoji in artwork]

    def rng(self, index: int, part: str = "layout") -> np.random.Generator:
        """The random numbers of a part of scene `index`, a key of `PARTS`."""
        return np.random.default_rng([self.seed, STREAMS[self.stream], index, *PARTS[part]])

    def _plan_block(self, block: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Per scene, its number of objects and the start of its categories in the list returned."""
        # No scene has the index 2**32 + block, so none shares these random numbers.
        rng = self.rng(2**32 + block)
        least, most = self.objects
        numbers = rng.integers(least, most + 1, BLOCK)
        distinct = 1 + rng.binomial(numbers - 1, 1 - self.repeat)
        ends = np.cumsum(distinct)
        if self.long_tail:
            dealt = np.searchsorted(self._cumulative, rng.random(ends[-1]))
            dealt = np.minimum(dealt, len(self.categories) - 1)
        else:
            rounds = -(-ends[-1] // len(self.categories))
            decks = [rng.permutation(len(self.categories)) for _ in range(rounds)]
            dealt = np.concatenate(decks)[: ends[-1]]
        return numbers, ends - distinct, dealt

    def contents(self, index: int, rng: np.random.Generator) -> list[Category]:
        """The categories of the objects of scene `index`, from back to front."""
        numbers, starts, dealt = self._plan(index // BLOCK)
        place = index % BLOCK
        end = starts[place + 1] if place + 1 < BLOCK else len(dealt)
        fresh = dealt[starts[place] : end]
        again = rng.choice(fresh, numbers[place] - len(fresh))
        chosen = [self.categories[i] for i in rng.permutation(np.concatenate([fresh, again]))]
        if len(self._drawn) == len(self.categories):
            return chosen
        # All other scenes are as in the font's style, and no scene is empty.
        drawn = [category for category in chosen if category in self._drawn]
        return drawn or [self._drawn[index % len(self._drawn)]]

    def layout(self, index: int) -> Layout:
        """The layout of scene `index`, with at least one object."""
        rng = self.rng(index)
        contents = self.contents(index, rng)
        while not (layout := self.arrange(contents, rng)).objects:
            pass  # in one of a million scenes, all places of the only object are outside
        return layout

    def arrange(self, contents: Sequence[Category], rng: np.random.Generator) -> Layout:
        """A layout of objects of these categories; those without a place are skipped."""
        return arrange(contents, self.size, self.sprites, rng)

    def draw(self, index: int, layout: Layout) -> np.ndarray:
        """The image (size, size, 3) uint8 RGB of scene `index`, from its layout."""
        return paint(layout, draw_background(self.size, self.rng(index, "image")))

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "_plan"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._plan = functools.lru_cache(maxsize=8)(self._plan_block)


class LazyScenes(Dataset):
    """A sequence of records that are drawn on access; subclasses describe them.

    Records do not depend on `count`. A sequence can be pickled, for loader workers.
    """

    masks = False
    """Whether annotations have masks."""

    def __init__(self, sampler: SceneSampler, count: int):
        self.sampler, self.count = sampler, count

    @abstractmethod
    def describe(self, index: int, layout: Layout) -> dict[str, Any]:
        """The record of scene `index` without its image."""

    def layout(self, index: int) -> Layout:
        """The layout of scene `index`, with at least one object."""
        return self.sampler.layout(index)

    def mask_of(self, layout: Layout, number: int) -> dict[str, Any]:
        """The key ``segmentation`` of an object: its visible pixels; {} without `masks`."""
        return {"segmentation": encode_mask(layout.owner == number)} if self.masks else {}

    def header(self, index: int) -> dict[str, Any]:
        """The keys that all records have."""
        sampler = self.sampler
        return {
            "file_name": f"emoji-{sampler.stream}-{sampler.seed}-{index}",
            "image_id": index + 1,
            "height": sampler.size,
            "width": sampler.size,
        }

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(self.count)[index]
        layout = self.layout(index)
        return {**self.describe(index, layout), "image": self.sampler.draw(index, layout)}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(self.count))

    def records_without_images(self) -> Iterator[dict[str, Any]]:
        """The records without their images, which is more than twice as fast."""
        return (self.describe(i, self.layout(i)) for i in range(self.count))


class BaseCategoryScenes(LazyScenes):
    """Scenes of base categories alone. See `EmojiScenes` for the arguments."""

    stream: str
    """A key of `STREAMS`."""

    def __init__(
        self,
        world: int | World | None = None,
        count: int = 10_000,
        size: int = 320,
        seed: int = 0,
        objects: tuple[int, int] = (1, 4),
        long_tail: float = 0.0,
        repeat: float = 0.25,
        font: str | None = None,
    ):
        self.world = world_of(world)
        shown = self.world.base
        super().__init__(
            SceneSampler(shown, self.stream, seed, size, objects, long_tail, repeat, font), count
        )


class EmojiScenes(LazyScenes):
    """Detection records of EmojiScenes, drawn on access.

    A record is Detectron2's dataset dict with `image` (H, W, 3) uint8 RGB instead of a file to
    read. All objects have boxes; `category_id` is an index into `vocabulary`.

    Args:
        world: number of seen categories (see `make_world`), None for all, or a World.
        split: "train" has base categories in a long tail; "val" has base and novel ones, equally
            often. In training, novel categories occur in image-text pairs alone, without boxes.
        count: number of scenes; scene i is the same for every count.
        size: see `SceneSampler`, as for `seed`, `objects`, `long_tail`, `repeat`, `font` and
            `artwork`.
        masks: whether annotations have ``segmentation``, the exact visible pixels as RLE.
        contents: overrides the categories of `split`: any of "base", "novel", "unseen". Unseen
            categories have their own vocabulary and do not mix with the others.

    Raises:
        UserError: `split` or `contents` is not valid; see also `SceneSampler`.
    """

    def __init__(
        self,
        world: int | World | None = None,
        split: str = "train",
        count: int = 10_000,
        size: int = 320,
        seed: int = 0,
        contents: Sequence[str] | None = None,
        objects: tuple[int, int] = (1, 8),
        long_tail: float | None = None,
        repeat: float = 0.15,
        font: str | None = None,
        artwork: str | None = None,
        masks: bool = False,
    ):
        if split not in ("train", "val"):
            raise UserError(f"split of EmojiScenes: {split!r}, expected 'train' or 'val'")
        self.world = world_of(world)
        self.split = split
        self.masks = masks
        parts = tuple(contents or (("base",) if split == "train" else ("base", "novel")))
        if "unseen" in parts and len(parts) > 1:
            raise UserError("contents of EmojiScenes: 'unseen' does not mix with other splits")
        self.vocabulary = self.world.unseen if parts == ("unseen",) else self.world.seen
        self._class_of = {category.id: i for i, category in enumerate(self.vocabulary)}
        if long_tail is None:
            long_tail = 0.5 if split == "train" else 0.0
        shown = self.world.of(parts)
        super().__init__(
            SceneSampler(shown, split, seed, size, objects, long_tail, repeat, font, artwork),
            count,
        )

    @property
    def class_names(self) -> list[str]:
        """The names of `vocabulary`, by `category_id`."""
        return [category.name for category in self.vocabulary]

    def describe(self, index: int, layout: Layout) -> dict[str, Any]:
        """The record without its image."""
        return {
            **self.header(index),
            "annotations": [
                {
                    "bbox": [float(edge) for edge in item.box],
                    "bbox_mode": BoxMode.XYXY_ABS,
                    "category_id": self._class_of[item.category.id],
                    "iscrowd": 0,
                    "area": float(item.area),
                    **self.mask_of(layout, number),
                }
                for number, item in enumerate(layout.objects)
            ],
        }
