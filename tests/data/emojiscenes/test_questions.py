"""Questions about EmojiScenes, answered again from the layouts; captions that name everything."""

from collections import Counter, defaultdict

import numpy as np
import pytest

from detclip2.data.emojiscenes.captioning import EmojiCaptioning, spellings_of_names
from detclip2.data.emojiscenes.categories import make_world
from detclip2.data.emojiscenes.naming import plural_of
from detclip2.data.emojiscenes.questions import KINDS, EmojiQuestions, scene_answers
from detclip2.data.emojiscenes.sprites import find_emoji_font
from detclip2.data.mappers import CaptioningMapper, QuestionMapper
from detclip2.data.sample import check_sample
from detclip2.utils.errors import UserError

try:
    find_emoji_font()
except UserError as error:
    pytest.skip(str(error), allow_module_level=True)

WORLD = make_world(60)
COUNT = 600
RELATIONS = ("to the left of", "to the right of", "above", "below")
SIDE_OF_ANSWER = dict(zip(("left", "right", "above", "below"), RELATIONS, strict=True))


@pytest.fixture(scope="module")
def scenes():
    """(layout, record without its image) of each question."""
    questions = EmojiQuestions(WORLD, count=COUNT, size=64)
    layouts = [questions.sampler.layout(i) for i in range(COUNT)]
    return [(layout, questions.describe(i, layout)) for i, layout in enumerate(layouts)]


def of_kind(scenes, kind):
    for layout, record in scenes:
        if record["question_type"] == kind:
            [(answer, score)] = record["answers"].items()
            assert score == 1.0
            yield layout, record["question"], answer


def named(layout, name):
    return [item for item in layout.objects if item.category.name == name]


def leans(first, second, relation):
    """Whether the first object lies in this direction, however little."""
    (x1, y1), (x2, y2) = first.center, second.center
    return {
        "to the left of": x1 < x2,
        "to the right of": x1 > x2,
        "above": y1 < y2,
        "below": y1 > y2,
    }[relation]


def size_of(item):
    left, top, right, bottom = item.box
    return max(right - left, bottom - top)


def meant(layout, words):
    """The categories that "the largest object" or "above the dog" can mean, at the widest."""
    if words == "the largest object":
        largest = max(map(size_of, layout.objects))
        return {i.category for i in layout.objects if 1.6 * size_of(i) >= largest}
    [relation] = [r for r in RELATIONS if words.startswith(f"{r} the ")]
    [anchor] = named(layout, words.removeprefix(f"{relation} the "))
    others = [item for item in layout.objects if item is not anchor]
    # Of an object that is far more above than to the left nobody says that it is to the left.
    horizontal = relation in RELATIONS[:2]
    found = set()
    for item in others:
        x, y = np.abs(np.subtract(item.center, anchor.center))
        along, across = (x, y) if horizontal else (y, x)
        if leans(item, anchor, relation) and 2 * along >= across:
            found.add(item.category)
    return found


def test_all_kinds_are_asked(scenes):
    counts = Counter(record["question_type"] for _, record in scenes)
    assert counts.keys() == set(KINDS)
    assert min(counts.values()) > COUNT / 20
    assert all(record["question"].endswith("?") for _, record in scenes)


def test_what(scenes):
    for layout, question, answer in of_kind(scenes, "what"):
        [category] = meant(layout, question.removeprefix("what is ").rstrip("?"))
        assert category.name == answer


def test_which_colour(scenes):
    for layout, question, answer in of_kind(scenes, "which colour"):
        words = question.removeprefix("which colour is ").removeprefix("the object ").rstrip("?")
        [category] = meant(layout, words)
        assert category.color == answer
        assert category.name not in question


def test_how_many(scenes):
    by_plural = {plural_of(category.name): category.name for category in WORLD.base}
    for layout, question, answer in of_kind(scenes, "how many"):
        plural = question.removeprefix("how many ").removesuffix(" are there?")
        assert len(named(layout, by_plural[plural])) == int(answer)


def test_is_there(scenes):
    for layout, question, answer in of_kind(scenes, "is there"):
        name = question.removeprefix("is there a").removeprefix("n").strip(" ?")
        assert bool(named(layout, name)) == (answer == "yes")


def test_where(scenes):
    for layout, question, answer in of_kind(scenes, "where"):
        first, second = (
            question.removeprefix("where is the ").rstrip("?").split(" relative to the ")
        )
        [item], [anchor] = named(layout, first), named(layout, second)
        x, y = np.abs(np.subtract(item.center, anchor.center))
        assert leans(item, anchor, SIDE_OF_ANSWER[answer])
        assert (x > 2 * y) if answer in ("left", "right") else (y > 2 * x)


def test_the_words_of_a_question_give_no_hint(scenes):
    answers = defaultdict(Counter)
    for _, record in scenes:
        answers[record["question_type"]].update(record["answers"])
    for kind, most in [("is there", 0.6), ("where", 0.4), ("how many", 0.55), ("what", 0.1)]:
        share = max(answers[kind].values()) / answers[kind].total()
        assert share < most, (kind, answers[kind])
    known = set(scene_answers(WORLD))
    assert all(set(counts) <= known for counts in answers.values())


def test_a_record_depends_on_its_index_alone(scenes):
    questions = EmojiQuestions(WORLD, count=3, size=64)
    for i, (_, expected) in enumerate(scenes[:3]):
        record = questions[i]
        image = record.pop("image")
        assert record == expected
        assert image.shape == (64, 64, 3)


def test_a_world_of_one_colour_has_no_question_of_colours():
    world = make_world(10)
    assert {c.color for c in world.base} == {None}
    questions = EmojiQuestions(world, count=100, size=64)
    kinds = {record["question_type"] for record in questions.records_without_images()}
    assert kinds == set(KINDS) - {"which colour"}


def test_samples_of_questions():
    mapper = QuestionMapper()
    for record in EmojiQuestions(WORLD, count=4, size=64):
        check_sample(mapper(record))


def test_captions_name_every_object():
    scenes = EmojiCaptioning(WORLD, count=100, size=64)
    spellings = spellings_of_names(WORLD)
    for i, record in enumerate(scenes.records_without_images()):
        layout = scenes.sampler.layout(i)
        assert set(record["names"]) == {item.category.name for item in layout.objects}
        for caption in record["captions"]:
            assert all(any(s in caption for s in spellings[name]) for name in record["names"])
        # Those that cover most come first.
        areas = {n: sum(i.area for i in named(layout, n)) for n in record["names"]}
        first = max(areas, key=lambda name: areas[name])
        places = {n: min(caption.find(s) % 1000 for s in spellings[n]) for n in record["names"]}
        assert places[first] == min(places.values())
    record = scenes[0]
    check_sample(CaptioningMapper()(record))
