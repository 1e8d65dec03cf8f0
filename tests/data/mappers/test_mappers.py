import copy
import io

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from PIL import Image

from detclip2.data.mappers import (
    CaptionMapper,
    DetectionMapper,
    GroundingMapper,
    draw_sample,
)
from detclip2.data.mappers.base import numpy_seed
from detclip2.data.mappers.records import box_of, box_problem
from detclip2.data.sample import REQUIRED_KEYS, SkipSample, check_sample
from detclip2.data.text.concepts import Concept, ConceptDictionary
from detclip2.inference.vocabulary import Vocabulary
from detclip2.utils.errors import UserError
from tests.helpers.mapper_records import (
    HEIGHT,
    NAMES,
    NAN,
    RECORDS,
    WIDTH,
    box,
    mappers,
    pixels,
    record,
    rng,
    same,
)


@pytest.mark.parametrize("kind", RECORDS)
def test_one_key_set_and_the_record_is_unchanged(kind):
    before = copy.deepcopy(RECORDS[kind])
    for seed in range(20):
        sample = mappers()[kind](RECORDS[kind], rng(seed))
        check_sample(sample, 150)
        assert sample.keys() - {"instances"} == REQUIRED_KEYS
        assert same(before, RECORDS[kind])


@pytest.mark.parametrize("kind", RECORDS)
def test_a_sample_depends_on_record_and_generator_alone(kind):
    mapper = mappers()[kind]
    np.random.seed(1)
    first = [mapper(RECORDS[kind], rng(seed)) for seed in range(6)]
    np.random.seed(2)
    second = [mapper(RECORDS[kind], rng(seed)) for seed in reversed(range(6))][::-1]
    assert all(map(same, first, second))
    assert len({tuple(sample["image"].shape) for sample in first}) > 1
    state = np.random.get_state()[1].copy()
    mapper(RECORDS[kind], rng())
    np.testing.assert_array_equal(state, np.random.get_state()[1])


def test_numpy_seed_restores_the_state_after_an_error():
    np.random.seed(3)
    expected = np.random.rand()
    np.random.seed(3)
    with pytest.raises(KeyError), numpy_seed(9):
        raise KeyError
    assert np.random.rand() == expected


def slow_box(bbox, scale_x, scale_y, flip, width, height):
    """Corner by corner, without the library's transforms."""
    x, y, w, h = bbox
    corners = [(px * scale_x, py * scale_y) for px in (x, x + w) for py in (y, y + h)]
    if flip:
        corners = [(width - px, py) for px, py in corners]
    xs, ys = zip(*corners, strict=True)
    return [
        min(max(min(xs), 0), width),
        min(max(min(ys), 0), height),
        min(max(max(xs), 0), width),
        min(max(max(ys), 0), height),
    ]


@pytest.mark.parametrize("flip", [False, True])
def test_boxes_and_pixels_move_together(flip):
    boxes = [(10, 20, 30, 15), (-5, 50, 40, 40), (70.5, -3.25, 20, 10), (0, 0, 80, 60)]
    size = (45, 100)
    augmentations = [T.Resize(size), T.RandomFlip(prob=1.0 if flip else 0.0)]
    sample = DetectionMapper(NAMES, augmentations)(record([box(1, b) for b in boxes]), rng())
    expected = [slow_box(b, 100 / WIDTH, 45 / HEIGHT, flip, 100, 45) for b in boxes]
    np.testing.assert_allclose(sample["instances"].gt_boxes.tensor, expected, rtol=1e-6)
    resized = np.asarray(Image.fromarray(pixels()).resize((100, 45), Image.BILINEAR))
    resized = resized[:, ::-1] if flip else resized
    difference = sample["image"].permute(1, 2, 0).numpy().astype(int) - resized
    assert np.abs(difference).max() <= 1  # grey level
    assert (sample["height"], sample["width"]) == (HEIGHT, WIDTH)


def test_the_boxes_of_an_image_are_moved_in_one_call(monkeypatch):
    calls = []
    move = T.ResizeTransform.apply_coords
    monkeypatch.setattr(
        T.ResizeTransform, "apply_coords", lambda *args: calls.append(1) or move(*args)
    )
    mapper = DetectionMapper(NAMES, [T.Resize((45, 100))])
    sample = mapper(record([box(1, (10, 20, 30, 15))] * 9), rng())
    assert len(sample["instances"]) == 9
    assert len(calls) == 1


def test_detection_phrases_against_a_slow_reference():
    draws = rng(5)
    for seed in range(200):
        limit = int(draws.integers(1, 9))
        present = draws.integers(0, len(NAMES), int(draws.integers(0, 5))).tolist()
        boxes = [tuple(draws.integers(1, 30, 4).tolist()) for _ in present]
        mapper = DetectionMapper(NAMES, max_phrases=limit)
        sample = mapper(record([box(c, b) for c, b in zip(present, boxes, strict=True)]), rng(seed))
        check_sample(sample, limit)
        phrases, positives = sample["phrases"], sample["num_positives"]
        expected = {NAMES[c] for c in present}
        assert positives == min(len(expected), limit)
        assert set(phrases[:positives]) <= expected
        assert len(phrases) == min(limit, len(NAMES))
        assert not set(phrases[positives:]) & expected
        got = {
            (phrases[int(c)], *map(float, b))
            for c, b in zip(
                sample["instances"].gt_classes, sample["instances"].gt_boxes.tensor, strict=True
            )
        }
        assert got == {
            (NAMES[c], float(x), float(y), float(x + w), float(y + h))
            for c, (x, y, w, h) in zip(present, boxes, strict=True)
            if NAMES[c] in phrases[:positives]
        }
        assert mapper.counter.total() == len(expected) - positives


def test_every_absent_category_is_drawn_equally_often():
    mapper = DetectionMapper(NAMES, max_phrases=3)
    counts = dict.fromkeys(NAMES, 0)
    for seed in range(1000):
        for phrase in mapper(record([box(2)]), rng(seed))["phrases"][1:]:
            counts[phrase] += 1
    assert counts.pop("cat") == 0
    # Binomial(1000, 2/5): mean 400, standard deviation 15.5; five of them.
    assert all(abs(count - 400) < 78 for count in counts.values())


def test_a_record_without_boxes_is_a_sample_of_negatives():
    for empty in (record(), {k: v for k, v in record().items() if k != "annotations"}):
        sample = DetectionMapper(NAMES)(empty, rng())
        check_sample(sample, 150)
        assert sample["num_positives"] == 0
        assert sorted(sample["phrases"]) == sorted(NAMES)
        assert len(sample["instances"]) == 0


INVALID = {
    "nan": (NAN, 1, 2, 3),
    "infinite": (0, 0, float("inf"), 3),
    "inverted": (30, 30, -10, -10),
    "no width": (3, 3, 0, 5),
    "no height": (3, 3, 5, 0),
    "right of the image": (WIDTH, 3, 5, 5),
    "below the image": (3, HEIGHT + 3, 5, 5),
    "left of the image": (-10, 3, 10, 5),
    "above the image": (3, -10, 5, 9),
    "three numbers": (1, 2, 3),
    "no numbers": ("a", "b", "c", "d"),
}


@pytest.mark.parametrize("bbox", INVALID.values(), ids=INVALID)
def test_invalid_boxes_are_skipped_and_counted(bbox):
    mapper = DetectionMapper(NAMES)
    sample = mapper(record([box(1, bbox), box(2)]), rng())
    check_sample(sample, 150)
    assert len(sample["instances"]) == 1
    assert mapper.counter.counts() == {"box-invalid": 1}
    # A dog is present at an unknown place: "dog" is not a negative of any anchor.
    positives = sample["phrases"][: sample["num_positives"]]
    assert positives == ["cat", "dog"]
    assert [positives[i] for i in sample["not_exhaustive"]] == ["dog"]


@pytest.mark.parametrize("bbox", [None, [], [[1, 2, 3, 4]]])
def test_malformed_boxes(bbox):
    with pytest.raises(ValueError, match="4 numbers"):
        box_of({"bbox": bbox, "bbox_mode": BoxMode.XYWH_ABS})
    with pytest.raises(ValueError, match="4 numbers"):
        box_of({"bbox_mode": BoxMode.XYWH_ABS})


def test_boxes_of_every_mode():
    for mode in (BoxMode.XYWH_ABS, BoxMode.XYXY_ABS):
        expected = BoxMode.convert([1.5, 2.0, 30.0, 40.25], mode, BoxMode.XYXY_ABS)
        assert list(box_of(box(0, (1.5, 2, 30, 40.25), bbox_mode=mode))) == list(expected)


def test_boxes_across_or_at_the_border_are_valid():
    for bbox in [(-5, -5, 5.5, 5.5), (0, 0, WIDTH, HEIGHT), (WIDTH - 0.5, 0, 9, 9)]:
        assert box_problem(box_of(box(0, bbox)), (HEIGHT, WIDTH)) == ""


def test_crowd_regions_are_neither_boxes_nor_negatives():
    mapper = DetectionMapper(NAMES)
    sample = mapper(record([box(0), box(0, iscrowd=1), box(4, iscrowd=1)]), rng())
    assert len(sample["instances"]) == 1
    assert sample["phrases"][: sample["num_positives"]] == ["person", "sheep"]
    assert sample["not_exhaustive"].tolist() == [0, 1]
    assert mapper.counter.total() == 0


def test_a_box_cropped_away_is_neither_positive_nor_a_fault():
    mapper = DetectionMapper(NAMES, [T.CropTransform(0, 0, 20, 20)])
    sample = mapper(record([box(1, (5, 5, 30, 30)), box(2, (40, 40, 10, 10))]), rng())
    check_sample(sample, 150)
    assert sample["phrases"][: sample["num_positives"]] == ["dog"]
    assert sample["instances"].gt_boxes.tensor.tolist() == [[5, 5, 20, 20]]
    assert mapper.counter.total() == 0


def test_equal_names_share_a_phrase_and_unnamed_categories_have_none():
    mapper = DetectionMapper(["Cup", "", "cup ", "mug", "\x00"])
    sample = mapper(record([box(2), box(0, (1, 1, 5, 5)), box(1), box(4), box(9)]), rng())
    check_sample(sample, 150)
    assert sample["phrases"] == ["Cup", "mug"]
    assert sample["instances"].gt_classes.tolist() == [0, 0]
    assert mapper.counter.counts() == {"category-unnamed": 2, "category-unknown": 1}


@pytest.mark.parametrize("category_id", [-1, 6, None, "dog", 1.0])
def test_unknown_category_ids(category_id):
    mapper = DetectionMapper(NAMES)
    assert mapper(record([box(category_id)]), rng())["num_positives"] == 0
    assert mapper.counter.counts() == {"category-unknown": 1}


def test_federated_annotation():
    federated = record(
        [box(1), box(2)], neg_category_ids=[4, 2, 5], not_exhaustive_category_ids=[1]
    )
    sample = DetectionMapper(NAMES)(federated, rng())
    check_sample(sample, 150)
    assert sample["phrases"][:2] == ["dog", "cat"]
    assert sorted(sample["phrases"][2:]) == ["kite", "sheep"]
    assert sample["own_phrases_only"]
    assert sample["not_exhaustive"].tolist() == [0]
    nothing_known = DetectionMapper(NAMES)(record([box(1)], neg_category_ids=[]), rng())
    assert nothing_known["phrases"] == ["dog"]
    dictionary = ConceptDictionary.from_names(["tree", "sea"])
    sample = DetectionMapper(NAMES, negatives=dictionary)(federated, rng())
    assert sorted(sample["phrases"][2:]) == ["kite", "sheep"]


def test_prompts_with_definitions_and_negatives_from_a_dictionary():
    dictionary = ConceptDictionary(
        [
            Concept("dog", "a domestic animal that barks"),
            Concept("puppy", "a young dog", synonyms=("dogs",)),
            Concept("tree", "a tall plant"),
            Concept("mug"),
        ]
    )
    mapper = DetectionMapper(NAMES, negatives=dictionary, definitions=dictionary)
    sample = mapper(record([box(1)]), rng())
    check_sample(sample, 150)
    assert sample["phrases"][0] == "dog, a domestic animal that barks"
    # Neither the dog, nor the puppy that is also called "dogs".
    assert sorted(sample["phrases"][1:]) == ["mug", "tree, a tall plant"]
    own = DetectionMapper(NAMES, definitions=dictionary)(record([box(0)]), rng())
    assert "dog, a domestic animal that barks" in own["phrases"]


def test_training_and_evaluation_prompts_are_equal():
    templates = ("{}", "a photo of a {}", "many {}s")
    definitions = {"dog": "it barks", "cat": "it\n purrs"}
    vocabulary = Vocabulary.from_names(NAMES, templates, definitions)
    asked = {text for (texts,) in vocabulary.prompts for text in texts}
    mapper = DetectionMapper(NAMES, templates=templates, definitions=definitions)
    seen = set()
    for seed in range(20):
        phrases = mapper(record([box(1)]), np.random.default_rng(seed))["phrases"]
        template = [f"{text.format('dog')}, it barks" for text in templates].index(phrases[0])
        seen.add(template)
        of_template = {texts[template] for (texts,) in vocabulary.prompts}
        assert set(phrases) == of_template  # a sample has one template
    assert seen == {0, 1, 2}
    assert "many cats, it purrs" in asked


def test_grounding_with_several_boxes_a_phrase_and_phrases_a_box():
    sample = mappers()["grounding"].__class__()(RECORDS["grounding"], rng())
    assert sample["phrases"] == ["A dog", "the left one"]
    assert sample["num_positives"] == 2
    assert sample["instances"].gt_classes.tolist() == [0, 1, 0]
    boxes = sample["instances"].gt_boxes.tensor.tolist()
    assert boxes == [[10, 20, 40, 35], [10, 20, 40, 35], [1, 1, 10, 10]]


def test_phrases_that_are_not_boxed_everywhere_have_no_negatives():
    sample = GroundingMapper(negatives=["zebra"], exhaustive=False)(RECORDS["grounding"], rng())
    assert sample["not_exhaustive"].tolist() == list(range(sample["num_positives"]))
    assert sample["phrases"][-1] == "zebra"
    assert len(GroundingMapper()(RECORDS["grounding"], rng()).get("not_exhaustive", ())) == 0


def test_grounding_negatives_are_disjoint_from_the_concepts_of_the_caption():
    vocabulary = ["dogs", "left", "tree", "trees", "left one", "sea", "a dog", "police dog"]
    sample = GroundingMapper(negatives=vocabulary)(RECORDS["grounding"], rng())
    assert sorted(sample["phrases"][2:]) == ["sea", "tree", "trees"]
    limited = GroundingMapper(negatives=vocabulary, max_phrases=3)(RECORDS["grounding"], rng())
    assert len(limited["phrases"]) == 3
    assert GroundingMapper(negatives=vocabulary, max_phrases=1)(RECORDS["grounding"], rng())[
        "phrases"
    ] in (["A dog"], ["the left one"])


@pytest.mark.parametrize(
    "annotations",
    [[], [box()], [box(phrases=[])], [box(phrases=[" "])], [box(phrases=None)]],
)
def test_grounding_without_phrases_is_skipped(annotations):
    with pytest.raises(SkipSample) as info:
        GroundingMapper()(record(annotations, caption="a dog"), rng())
    assert info.value.kind == "caption-without-phrase"


def test_a_grounded_phrase_with_an_invalid_box():
    mapper = GroundingMapper(negatives=["sea"])
    sample = mapper(record([box(bbox=(0, 0, 0, 0), phrases=["a dog"])], caption="a dog"), rng())
    check_sample(sample, 100)
    assert (sample["phrases"], len(sample["instances"])) == (["a dog", "sea"], 0)
    assert sample["not_exhaustive"].tolist() == [0]


def test_phrases_of_captions_are_given_or_extracted():
    def noun_phrases(caption):
        assert caption == "A dog and a cat"
        return ["a dog", "A Cat", "a dog"]

    mapper = CaptionMapper(noun_phrases=noun_phrases)
    extracted = mapper(record(caption=" A dog  and a cat "), rng())
    assert extracted["phrases"] == ["A dog and a cat", "a dog", "A Cat"]
    assert extracted["num_positives"] == 3
    ready = mapper(record(caption="A dog and a cat", phrases=["the dog"]), rng())
    assert ready["phrases"] == ["A dog and a cat", "the dog"]
    without = CaptionMapper(noun_phrases=noun_phrases, include_caption=False)
    assert without(record(caption="A dog and a cat"), rng())["phrases"] == ["a dog", "A Cat"]
    short = CaptionMapper(noun_phrases=noun_phrases, max_phrases=2)
    assert len(short(record(caption="A dog and a cat"), rng())["phrases"]) == 2


def test_one_of_several_captions_is_drawn():
    mapper = CaptionMapper(noun_phrases=lambda caption: [caption.split()[1]])
    captions = ["a dog", "a cat", "a cow"]
    drawn = {mapper(record(captions=captions), rng(s))["phrases"][0] for s in range(40)}
    assert drawn == set(captions)


def test_caption_images_are_resized_as_the_config_says():
    mapper = CaptionMapper([T.Resize((320, 320))], noun_phrases=str.split)
    assert mapper(record(caption="a dog"), rng())["image"].shape == (3, 320, 320)


@pytest.mark.parametrize(
    ("caption", "kind"),
    [
        ("", "caption-empty"),
        (" \t\x00\ufeff", "caption-empty"),
        (None, "caption-empty"),
        (3, "record-malformed"),
        ("and so on", "caption-without-phrase"),
        ("caf\u00e9 noir".encode("latin-1"), "caption-encoding"),
    ],
)
def test_captions_that_cannot_be_used(caption, kind):
    mapper = CaptionMapper(noun_phrases=lambda text: [w for w in text.split() if w == "dog"])
    with pytest.raises(SkipSample) as info:
        mapper(record(caption=caption), rng())
    assert info.value.kind == kind
    assert "a.jpg" in info.value.message
    assert draw_sample([record(caption=caption)], 0, mapper, rng()) is None
    assert mapper.counter.counts() == {kind: 1}


def test_a_caption_of_ten_thousand_words_and_one_in_utf8_bytes():
    mapper = CaptionMapper()
    sample = mapper(record(caption="a red dog and " * 10_000), rng())
    check_sample(sample, 32)
    assert len(sample["phrases"][0]) <= 1000
    assert (
        mapper(record(caption="une fl\u00fbte".encode()), rng())["phrases"][0] == "une fl\u00fbte"
    )


@pytest.mark.parametrize("caption", ["of the and to", "it is", "...", "\U0001f600"])
def test_captions_without_a_noun_phrase_in_our_chunker(caption):
    mapper = CaptionMapper()
    sample = draw_sample([record(caption=caption)], 0, mapper, rng())
    assert (sample is None) == (mapper.counter.counts() == {"caption-without-phrase": 1})
    if "\U0001f600" not in caption:
        assert sample is None


def test_images_that_cannot_be_used(tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff not an image")
    mapper = DetectionMapper(NAMES)
    cases = {
        "image-unreadable": [
            {"file_name": str(broken)},
            {"file_name": str(tmp_path / "missing.jpg")},
            {"file_name": str(tmp_path)},
            {"image_id": 4},
            {"image_bytes": b""},
        ],
        "image-mismatched": [{"image": pixels(), "height": WIDTH, "width": HEIGHT}],
        "image-extreme": [{"image": pixels(1, 200)}],
    }
    for kind, records in cases.items():
        for bad in records:
            with pytest.raises(SkipSample) as info:
                mapper(bad, rng())
            assert info.value.kind == kind
            assert str(bad.get("file_name", "image")) in info.value.message


def test_the_three_ways_to_give_an_image(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(pixels()).save(buffer, "png")
    path = tmp_path / "a.png"
    path.write_bytes(buffer.getvalue())
    mapper = DetectionMapper(NAMES)
    ways = [{"image": pixels()}, {"image_bytes": buffer.getvalue()}, {"file_name": str(path)}]
    samples = [mapper(way, rng()) for way in ways]
    assert all(torch.equal(s["image"], samples[0]["image"]) for s in samples)
    assert [s["file_name"] for s in samples] == ["", "", str(path)]


def test_a_limit_of_zero_phrases_is_refused():
    with pytest.raises(UserError, match="max_phrases"):
        DetectionMapper(NAMES, max_phrases=0)


def test_what_the_caption_names_without_a_box_is_no_negative():
    mapper = GroundingMapper(negatives=["cat", "sea"])
    sample = mapper(record([box(phrases=["a dog"])], caption="a dog chases a cat"), rng())
    assert sample["phrases"] == ["a dog", "sea"]


def test_a_phrase_whose_box_is_cropped_away_is_no_negative():
    annotations = [
        box(bbox=(0, 0, 20, 20), phrases=["dog"]),
        box(bbox=(60, 40, 10, 10), phrases=["cat"]),
    ]

    class Left(T.Augmentation):
        def get_transform(self, image):
            return T.CropTransform(0, 0, 30, 30)

    sample = GroundingMapper([Left()], negatives=["cat", "sea"])(record(annotations), rng())
    assert sample["phrases"] == ["dog", "sea"]


def test_given_phrases_are_not_used_for_one_of_several_captions():
    mapper = CaptionMapper(noun_phrases=str.split, include_caption=False)
    sample = mapper(record(captions=["cow", "cow"], phrases=["dog"]), rng())
    assert sample["phrases"] == ["cow"]
