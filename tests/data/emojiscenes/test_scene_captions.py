"""Captions and grounded sentences of EmojiScenes, and the files they are written to."""

import itertools
import pickle
import re
import tarfile

import numpy as np
import pytest

from detclip2.data.emojiscenes import (
    EmojiGrounding,
    EmojiPairs,
    all_categories,
    make_world,
    write_caption_shards,
    write_grounding_json,
)
from detclip2.data.emojiscenes.naming import Mention, Text, article_of, plural_of
from detclip2.data.emojiscenes.sprites import find_emoji_font
from detclip2.data.sample import check_sample
from detclip2.utils.errors import UserError

try:
    find_emoji_font()
except UserError as error:
    pytest.skip(str(error), allow_module_level=True)

WORLD = make_world(40)


def all_names(category):
    names = {category.name, *category.synonyms}
    return names | {plural_of(name) for name in names}


# ---------------------------------------------------------------- English


@pytest.mark.parametrize(
    ("name", "plural"),
    [
        ("dog", "dogs"),
        ("fire engine", "fire engines"),
        ("slice of pizza", "slices of pizza"),
        ("strawberry", "strawberries"),
        ("monkey", "monkeys"),
        ("box", "boxes"),
        ("bus", "buses"),
        ("wolf", "wolves"),
        ("old woman", "old women"),
        ("man with a turban", "men with a turban"),
        ("person getting a haircut", "people getting a haircut"),
        ("nesting doll", "nesting dolls"),
        ("tropical fish", "tropical fish"),
        ("palm up hand", "palm up hands"),
    ],
)
def test_plural(name, plural):
    assert plural_of(name) == plural


@pytest.mark.parametrize(
    ("phrase", "article"),
    [("apple", "an"), ("dog", "a"), ("unicorn", "a"), ("hourglass", "an"), ("umbrella", "an")],
)
def test_article(phrase, article):
    assert article_of(phrase) == article


def test_spans_exclude_the_words_before_a_phrase():
    text = Text().add("see ").add_list([Mention("a ", "dog"), Mention("two ", "red cats")])
    assert text.text == "see a dog and two red cats"
    assert [text.text[start:end] for start, end, _ in text.spans] == ["dog", "red cats"]


# ---------------------------------------------------------------- image-text pairs


def test_phrases_are_in_the_caption_and_have_no_boxes():
    for record in EmojiPairs(40, count=150).records_without_images():
        assert record["phrases"]
        assert "annotations" not in record
        for phrase in record["phrases"]:
            assert phrase == phrase.lower()
            assert phrase in record["caption"].lower()


def test_clean_captions_name_objects_of_the_image():
    pairs = EmojiPairs(40, count=150, chatter=0.0, misleading=0.0)
    left_out = by_synonym = 0
    for index in range(len(pairs)):
        layout = pairs.sampler.layout(index)
        present = {item.category.id: item.category for item in layout.objects}
        caption = pairs.describe(index, layout)["caption"].lower()
        named = [c for c in present.values() if any(name in caption for name in all_names(c))]
        assert named
        left_out += len(present) - len(named)
        by_synonym += sum(c.name not in caption and plural_of(c.name) not in caption for c in named)
    assert left_out > 10
    assert by_synonym > 10


def test_captions_state_counts():
    pairs = EmojiPairs(40, count=200, objects=(2, 3), repeat=1.0, mention=1.0, chatter=0.0,
                       misleading=0.0, synonym=0.0)  # fmt: skip
    counted = 0
    for index in range(len(pairs)):
        layout = pairs.sampler.layout(index)
        first = layout.objects[0].category
        if first.number == "singular" and len(layout.objects) > 1:
            word = {2: "two ", 3: "three "}[len(layout.objects)]
            record = pairs.describe(index, layout)
            assert word in record["caption"].lower()
            assert any(phrase.endswith(plural_of(first.name)) for phrase in record["phrases"])
            counted += 1
    assert counted > 100


def test_novel_categories_occur_and_unseen_ones_do_not():
    pairs = EmojiPairs(40, count=150)
    shown = {item.category.split for i in range(150) for item in pairs.sampler.layout(i).objects}
    assert shown == {"base", "novel"}


def test_chatter_adds_phrases_without_objects():
    clean, noisy = (
        [
            phrase
            for record in EmojiPairs(
                40, count=150, chatter=share, misleading=0.0
            ).records_without_images()
            for phrase in record["phrases"]
            if not any(name in phrase for c in WORLD.seen for name in all_names(c))
        ]
        for share in (0.0, 1.0)
    )
    assert len(noisy) > 3 * len(clean)
    assert "free shipping" in noisy


def test_misleading_captions_name_absent_categories():
    pairs = EmojiPairs(40, count=60, misleading=1.0)
    for index in range(len(pairs)):
        layout = pairs.sampler.layout(index)
        present = {item.category.name for item in layout.objects}
        phrases = set(pairs.describe(index, layout)["phrases"])
        assert phrases & ({c.name for c in WORLD.seen} - present)


def test_image_text_pairs_are_reproducible_and_can_be_pickled():
    pairs = EmojiPairs(40, count=5, size=64, seed=3)
    again = pickle.loads(pickle.dumps(pairs))
    for ours, theirs in zip(pairs, again, strict=True):
        assert ours["caption"] == theirs["caption"]
        assert np.array_equal(ours["image"], theirs["image"])
    other = EmojiPairs(40, count=5, size=64, seed=4)
    assert [r["caption"] for r in other] != [r["caption"] for r in pairs]


# ---------------------------------------------------------------- grounding


def test_spans_match_their_boxes():
    source = EmojiGrounding(40, count=200)
    for index in range(len(source)):
        layout = source.sampler.layout(index)
        record = source.describe(index, layout)
        by_box = {tuple(map(float, item.box)): item for item in layout.objects}
        assert record["annotations"]
        for item in record["annotations"]:
            category = by_box[tuple(item["bbox"])].category
            assert category.split == "base"
            for phrase, (start, end) in zip(item["phrases"], item["tokens_positive"], strict=True):
                assert record["caption"][start:end].lower() == phrase
                assert any(phrase.endswith(name) for name in all_names(category))


def test_a_phrase_has_the_boxes_of_all_matching_objects():
    """Sizes that differ enough to distinguish two objects of a category."""
    source = EmojiGrounding(40, count=300)
    for index in range(len(source)):
        layout = source.sampler.layout(index)
        record = source.describe(index, layout)
        boxed = {tuple(a["bbox"]): a["phrases"] for a in record["annotations"]}
        for item in layout.objects:
            twins = [o for o in layout.objects if o.category is item.category]
            phrases = [boxed.get(tuple(map(float, o.box)), []) for o in twins]
            together = " ".join(itertools.chain.from_iterable(phrases))
            if together and "small " not in together and "large " not in together:
                assert all(p == phrases[0] for p in phrases)


def test_relations_are_true():
    source = EmojiGrounding(40, count=400, size=200)
    checked = 0
    for record in source.records_without_images():
        box_of: dict = {}
        for item in record["annotations"]:
            for span in item["tokens_positive"]:
                box_of.setdefault(tuple(span), []).append(item["bbox"])
        spans = sorted(box_of)
        for first, second in itertools.pairwise(spans):
            between = record["caption"][first[1] : second[0]]
            relation = next(
                (r for r in ("left of", "right of", "above", "below") if r in between), None
            )
            if relation is None:
                continue
            (a,), (b,) = box_of[first], box_of[second]
            x, y = ((a[0] + a[2] - b[0] - b[2]) / 2, (a[1] + a[3] - b[1] - b[3]) / 2)
            distance = {"left of": -x, "right of": x, "above": -y, "below": y}[relation]
            assert distance > 0.1 * 200
            checked += 1
    assert checked > 50


def test_referring_captions_mean_one_of_two():
    """The words, read from the caption, hold for the box of the phrase and not for its twin."""
    source = EmojiGrounding(40, count=400, size=200, synonym=0.0, referring=1.0)
    axis = {"left": (0, -1), "right": (0, 1), "above": (1, -1), "below": (1, 1)}
    axis.update(top=axis["above"], bottom=axis["below"])
    pattern = re.compile(
        "the (.+?) (?:to the (left|right) of|on the (left|right)|(above|below)|at the (top|bottom))"
        "(?: the (.+?))?(?: in this picture)?[.]?$"
    )
    found = {True: 0, False: 0}
    for index in range(len(source)):
        layout = source.layout(index)
        record = source.describe(index, layout)
        match = pattern.search(record["caption"])
        assert match
        assert len(record["annotations"]) <= 2
        name = match[1]
        twins = [item for item in layout.objects if item.category.name == name]
        assert len(twins) == 2
        *words, other = match.groups()[1:]
        way, sign = axis[next(filter(None, words))]
        [own] = [a for a in record["annotations"] if a["phrases"] == [name]]
        center = np.array(own["bbox"]).reshape(2, 2).mean(0)
        [twin] = [t.center for t in twins if list(map(float, t.box)) != own["bbox"]]
        reference = twin
        if other:
            [anchor] = [item for item in layout.objects if item.category.name == other]
            reference = np.array(anchor.center)
            apart = np.subtract(twin, reference)
            assert not (np.argmax(np.abs(apart)) == way and apart[way] * sign > 0)
        assert (center - reference)[way] * sign > 0.1 * 200
        (begin, end), *_ = own["tokens_positive"]
        assert record["caption"][begin:end] == name
        found[bool(other)] += 1
    assert min(found.values()) > 10, found


def test_a_part_of_the_scenes_refers():
    """The others are those of a source that never refers."""
    plain = EmojiGrounding(40, count=200, size=64)
    half = EmojiGrounding(40, count=200, size=64, referring=0.5)
    same = [
        a == b
        for a, b in zip(plain.records_without_images(), half.records_without_images(), strict=True)
    ]
    assert 70 < sum(same) < 130
    changed = same.index(False)
    assert not np.array_equal(plain[changed]["image"], half[changed]["image"])
    assert half[changed]["caption"] == list(half.records_without_images())[changed]["caption"]


def test_small_and_large_compare_two_objects_of_a_category():
    source = EmojiGrounding(40, count=300, objects=(2, 2), repeat=1.0)
    checked = 0
    for record in source.records_without_images():
        extent = {
            phrase.split()[0]: max(a["bbox"][2] - a["bbox"][0], a["bbox"][3] - a["bbox"][1])
            for a in record["annotations"]
            for phrase in a["phrases"]
        }
        if {"small", "large"} <= set(extent):
            assert extent["large"] > 1.5 * extent["small"]
            checked += 1
    assert checked > 30


# ---------------------------------------------------------------- files, read by the real readers


def test_grounding_json_is_read_back(tmp_path):
    from detclip2.data.datasets.grounding import mdetr_records
    from detclip2.data.mappers import GroundingMapper

    source = EmojiGrounding(40, count=6, size=96)
    json_file = write_grounding_json(source, tmp_path)
    records = mdetr_records(str(json_file), str(tmp_path / "images"))
    assert len(records) == 6
    mapper = GroundingMapper()
    for ours, theirs in zip(source, records, strict=True):
        assert theirs["caption"] == ours["caption"]
        assert [
            [phrase.lower() for phrase in item["phrases"]] for item in theirs["annotations"]
        ] == [item["phrases"] for item in ours["annotations"]]
        direct, read = (mapper(record, np.random.default_rng(0)) for record in (ours, theirs))
        check_sample(direct)
        assert np.allclose(
            direct["instances"].gt_boxes.tensor, read["instances"].gt_boxes.tensor, atol=1e-4
        )


def test_shards_are_read_back(tmp_path):
    from detclip2.data.io.shards import ImageTextShards
    from detclip2.data.mappers import CaptionMapper

    source = EmojiPairs(40, count=7, size=96)
    paths = write_caption_shards(source, tmp_path, shard_size=4)
    assert [path.name for path in paths] == ["00000.tar", "00001.tar"]
    for path, files in zip(paths, (12, 9), strict=True):
        with tarfile.open(path) as tar:
            assert len(tar.getnames()) == files
    shards = ImageTextShards([str(path) for path in paths])
    found = {record["image_id"]: record for record in shards}
    mapper = CaptionMapper()
    for index, ours in enumerate(source):
        theirs = found[f"{index:08d}"]
        texts = [mapper(record, np.random.default_rng(0))["phrases"] for record in (ours, theirs)]
        assert texts[0] == texts[1]
        assert texts[0][0] == ours["caption"]


def test_shards_are_reproducible_byte_for_byte(tmp_path):
    source = EmojiPairs(40, count=3, size=64)
    first, again = (write_caption_shards(source, tmp_path / name)[0] for name in ("a", "b"))
    assert first.read_bytes() == again.read_bytes()


@pytest.mark.parametrize("write", [write_caption_shards, write_grounding_json])
def test_a_folder_that_cannot_be_written_is_named(write, tmp_path):
    (tmp_path / "file").write_text("")
    source = {write_caption_shards: EmojiPairs, write_grounding_json: EmojiGrounding}[write]
    with pytest.raises(UserError, match="file"):
        write(source(40, count=1, size=64), tmp_path / "file")


def test_every_category_can_be_counted():
    plurals = [plural_of(c.name) for c in all_categories() if c.number == "singular"]
    assert len(set(plurals)) == len(plurals)
