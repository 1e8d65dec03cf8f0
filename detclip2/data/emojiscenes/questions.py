"""Questions about EmojiScenes, whose answers are known exactly from the layout."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from detclip2.data.emojiscenes.captions import group_by_category
from detclip2.data.emojiscenes.categories import Category, World, names_of, world_of
from detclip2.data.emojiscenes.grounding import CONTRAST, SIDES, extent_of, place_of
from detclip2.data.emojiscenes.layout import Layout
from detclip2.data.emojiscenes.naming import article_of, plural_of
from detclip2.data.emojiscenes.scenes import BaseCategoryScenes

WHERE = {"to the left of": "left", "to the right of": "right", "above": "above", "below": "below"}
"""Relation -> the answer that says it."""
KINDS = ("what", "how many", "which colour", "is there", "where")
LARGEST = "the largest object"
# The axis of a relation, and the sign of the offset along it.
_DIRECTIONS = {
    "to the left of": (0, -1), "to the right of": (0, 1), "above": (1, -1), "below": (1, 1),
}  # fmt: skip


class Question(NamedTuple):
    """A question, its kind (of `KINDS`) and its only answer."""

    kind: str
    text: str
    answer: str


class SceneQuestions:
    """Writes questions about layouts.

    A question is written only where its answer is sure: relations are clear for all objects that
    could be meant, the largest object is so by far, and a colour is that of the category. Its words
    give no hint: a category that is not there is asked for as often as one that is, colours are
    asked of objects that the question does not name, and a number of objects is drawn before the
    category that has it.

    Args:
        categories: those that scenes show.
    """

    def __init__(self, categories: Sequence[Category]) -> None:
        self.countable = [c for c in categories if c.number == "singular"]
        # The answer to "which colour" must not be always the same.
        self.has_colors = len({c.color for c in categories} - {None}) > 1

    def write(self, layout: Layout, rng: np.random.Generator) -> Question:
        """A question of a kind drawn at random, among the kinds that the layout allows."""
        asks = (self._what, self._how_many, self._which_color, self._is_there, self._where)
        for i in rng.permutation(len(asks)):
            if question := asks[i](layout, rng):
                return question
        # Scenes may have no object that can be counted, nor one that is the largest.
        [name, *_] = names_of([item.category for item in layout.objects])
        return Question("is there", f"is there {article_of(name)} {name}?", "yes")

    def _what(self, layout: Layout, rng: np.random.Generator) -> Question | None:
        found = _drawn(list(_meant(layout)), rng)
        if found is None:
            return None
        words, category = found
        return Question("what", f"what is {words}?", category.name)

    def _which_color(self, layout: Layout, rng: np.random.Generator) -> Question | None:
        colored = [(w, c) for w, c in _meant(layout) if c.color and self.has_colors]
        found = _drawn(colored, rng)
        if found is None:
            return None
        words, category = found
        thing = words if words == LARGEST else f"the object {words}"
        return Question("which colour", f"which colour is {thing}?", str(category.color))

    def _how_many(self, layout: Layout, rng: np.random.Generator) -> Question | None:
        by_number: dict[int, list[Category]] = {}
        for group in group_by_category(layout):
            category = layout.objects[group[0]].category
            if category in self.countable:
                by_number.setdefault(len(group), []).append(category)
        if absent := self._absent(layout):
            # As rare as the other numbers, though there is always something that is not there.
            by_number = by_number if by_number and rng.random() < 0.75 else {0: absent}
        if not by_number:
            return None
        number = _drawn(sorted(by_number), rng)
        category = _drawn(by_number[number], rng)
        return Question("how many", f"how many {plural_of(category.name)} are there?", str(number))

    def _is_there(self, layout: Layout, rng: np.random.Generator) -> Question | None:
        present = {item.category for item in layout.objects}
        there = [c for c in self.countable if c in present]
        absent = self._absent(layout)
        if not there or not absent:
            return None
        choices, answer = (there, "yes") if rng.random() < 0.5 else (absent, "no")
        name = _drawn(choices, rng).name
        return Question("is there", f"is there {article_of(name)} {name}?", answer)

    def _where(self, layout: Layout, rng: np.random.Generator) -> Question | None:
        alone = _alone(layout)
        pairs = [
            (first, second, place)
            for first in alone
            for second in alone
            if first != second and (place := place_of(layout, first, second))
        ]
        found = _drawn(pairs, rng)
        if found is None:
            return None
        first, second, place = found
        names = [layout.objects[i].category.name for i in (first, second)]
        text = f"where is the {names[0]} relative to the {names[1]}?"
        return Question("where", text, WHERE[place])

    def _absent(self, layout: Layout) -> list[Category]:
        present = {item.category for item in layout.objects}
        return [category for category in self.countable if category not in present]


def _meant(layout: Layout) -> Iterator[tuple[str, Category]]:
    """Each way to mean the objects of one category without its name, and the category."""
    objects = layout.objects
    sizes = sorted(range(len(objects)), key=lambda i: -extent_of(objects[i]))
    if len(sizes) == 1 or extent_of(objects[sizes[0]]) > CONTRAST * extent_of(objects[sizes[1]]):
        yield LARGEST, objects[sizes[0]].category
    for anchor in _alone(layout):
        for relation in SIDES:
            categories = {objects[i].category for i in _beside(layout, anchor, relation)}
            if len(categories) == 1:
                yield f"{relation} the {objects[anchor].category.name}", categories.pop()


def _beside(layout: Layout, anchor: int, relation: str) -> list[int]:
    """The objects in a relation to another one; none if this is unclear for any object."""
    axis, sign = _DIRECTIONS[relation]
    found = []
    for i, item in enumerate(layout.objects):
        if i == anchor:
            continue
        place = place_of(layout, i, anchor)
        if place == relation:
            found.append(i)
        offset = item.center[axis] - layout.objects[anchor].center[axis]
        if place is None and sign * offset > 0:
            return []
    return found


def _alone(layout: Layout) -> list[int]:
    """The objects that are the only one of their category, without scissors: "where is the"."""
    groups = group_by_category(layout)
    alone = [group[0] for group in groups if len(group) == 1]
    return [i for i in alone if layout.objects[i].category.number != "plural"]


def _drawn(choices: Sequence[Any], rng: np.random.Generator) -> Any:
    """One of the choices; None if there are none."""
    return choices[int(rng.integers(len(choices)))] if choices else None


def scene_answers(world: int | World | None = None, most: int = 4) -> list[str]:
    """All answers to questions about a world's scenes of at most so many objects."""
    base = world_of(world).base
    colors = sorted({category.color for category in base if category.color})
    numbers = [str(number) for number in range(most + 1)]
    return list(dict.fromkeys(["yes", "no", *numbers, *WHERE.values(), *colors, *names_of(base)]))


class EmojiQuestions(BaseCategoryScenes):
    """Records of questions about EmojiScenes: `question`, `answers` and `question_type`.

    A scene has one question with one answer, whose score is 1. See `BaseCategoryScenes` for the
    arguments.
    """

    stream = "questions"

    def __init__(
        self,
        world: int | World | None = None,
        count: int = 10_000,
        *,
        repeat: float = 0.4,
        **scenes: Any,
    ):
        super().__init__(world, count, repeat=repeat, **scenes)
        self.questions = SceneQuestions(self.world.base)

    def describe(self, index: int, layout: Layout) -> dict[str, Any]:
        """The record without its image."""
        question = self.questions.write(layout, self.sampler.rng(index, "text"))
        return {
            **self.header(index),
            "question_id": index + 1,
            "question": question.text,
            "question_type": question.kind,
            "answer_type": question.kind,
            "answers": {question.answer: 1.0},
        }
