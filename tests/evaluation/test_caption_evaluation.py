"""BLEU-4, CIDEr and names of captions against slow references and numbers by hand."""

import json
import logging
import math
import random

import pytest

from detclip2.evaluation.captions import (
    CaptionEvaluator,
    NameFinder,
    bleu_4,
    caption_set,
    words_of,
)
from detclip2.evaluation.cider import cider_d
from detclip2.utils.errors import UserError

pytest.importorskip("sacrebleu")
WORDS = "a the dog cat red big runs sits on under".split()  # noqa: SIM905


def random_data(seed, images=6):
    draw = random.Random(seed)

    def sentence():
        return [draw.choice(WORDS) for _ in range(draw.randint(1, 9))]

    references = [[sentence() for _ in range(draw.randint(1, 4))] for _ in range(images)]
    captions = [
        draw.choice(of_image)[: draw.randint(1, 9)] if draw.random() < 0.7 else sentence()
        for of_image in references
    ]
    return captions, references


def grams(words, n):
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def slow_bleu_4(captions, references):
    """Papineni et al., 2002, with the closest reference length and clipped counts."""
    right, total, own_length, length = [0] * 4, [0] * 4, 0, 0
    for words, of_image in zip(captions, references, strict=True):
        own_length += len(words)
        length += min((abs(len(r) - len(words)), len(r)) for r in of_image)[1]
        for n in range(1, 5):
            mine = grams(words, n)
            total[n - 1] += len(mine)
            for gram in set(mine):
                most = max(grams(r, n).count(gram) for r in of_image)
                right[n - 1] += min(mine.count(gram), most)
    if 0 in right:
        return 0.0
    precision = math.exp(sum(math.log(r / t) for r, t in zip(right, total, strict=True)) / 4)
    return precision * min(1.0, math.exp(1 - length / own_length))


def slow_cider_d(captions, references):
    """Vedantam et al., 2015, sec. 5, with vectors over all n-grams."""
    scores = []
    for words, of_image in zip(captions, references, strict=True):
        similarities = []
        for reference in of_image:
            total = 0.0
            for n in range(1, 5):
                basis = sorted({g for s in (words, reference) for g in grams(s, n)})
                rarity = [
                    math.log(len(references))
                    - math.log(max(1, sum(any(g in grams(r, n) for r in rs) for rs in references)))
                    for g in basis
                ]
                mine, theirs = (
                    [grams(s, n).count(g) * w for g, w in zip(basis, rarity, strict=True)]
                    for s in (words, reference)
                )
                product = sum(min(a, b) * b for a, b in zip(mine, theirs, strict=True))
                lengths = math.sqrt(sum(a * a for a in mine) * sum(b * b for b in theirs))
                total += product / lengths if lengths else 0.0
            difference = len(words) - len(reference)
            similarities.append(total / 4 * math.exp(-(difference**2) / 72))
        scores.append(sum(similarities) / len(similarities))
    return 10 * sum(scores) / len(scores)


@pytest.mark.parametrize("seed", range(8))
def test_against_slow_references(seed):
    captions, references = random_data(seed)
    assert bleu_4(captions, references) == pytest.approx(slow_bleu_4(captions, references))
    assert cider_d(captions, references) == pytest.approx(slow_cider_d(captions, references))


def test_the_numbers_of_cocos_evaluation():
    """What pycocoevalcap 1.2 gives for these sentences."""
    people = [
        [
            "a man riding a wave on top of a surfboard",
            "a surfer rides a large wave in the ocean",
        ],
        [
            "two dogs play with a red ball on the grass",
            "a pair of dogs on a green field",
            "dogs chase a ball",
        ],
        ["a plate of food with broccoli and meat"],
    ]
    written = [
        "a man riding a wave on a surfboard",
        "two dogs on the grass with a ball",
        "a plate of meat and broccoli",
    ]
    captions = [words_of(text) for text in written]
    references = [[words_of(text) for text in of_image] for of_image in people]
    assert cider_d(captions, references) == pytest.approx(2.956464040947241)
    assert bleu_4(captions, references) == pytest.approx(0.43845388882725667)


def test_perfect_captions():
    references = [[words_of("a dog runs on the beach")], [words_of("two red cats sit in a box")]]
    captions = [of_image[0] for of_image in references]
    assert bleu_4(captions, references) == pytest.approx(1.0)
    assert cider_d(captions, references) == pytest.approx(10.0)


def test_cider_by_hand():
    """Two images, one word each: tf-idf is log 2, the cosine of unigrams 1, of others 0."""
    assert cider_d([["dog"], ["dog"]], [[["dog"]], [["cat"]]]) == pytest.approx(10 / 4 / 2)
    # Twice the word: clipped to once, so 1 * 1 / (2 * 1), and one word longer.
    expected = 10 / 4 / 2 * 0.5 * math.exp(-1 / 72)
    assert cider_d([["dog", "dog"], ["bird"]], [[["dog"]], [["cat"]]]) == pytest.approx(expected)


def test_degenerate_captions():
    references = [[words_of("a dog runs on the beach")], [["cat"]]]
    assert bleu_4([[], []], references) == 0.0
    assert cider_d([[], []], references) == 0.0
    assert cider_d([["dog"]], [[["dog"]]]) == 0.0  # every n-gram is in every image


def test_words():
    text = "The man\u2019s t-shirt isn't red... He can't, 1,000 (two) CAFÉS!"
    expected = "the man 's t-shirt is n't red he ca n't 1,000 two cafés"
    assert words_of(text) == expected.split()
    assert words_of(" ?! ") == []


def test_names_are_found_by_their_longest_spelling():
    spellings = {"dog": ["dog", "dogs"], "hot dog": ["hot dog", "hot dogs"], "ox": ["ox", "oxen"]}
    find = NameFinder(spellings)
    assert find("Two hot dogs and an ox-cart.") == {"hot dog", "ox"}
    assert find("a hot  dog, a dog") == {"hot dog", "dog"}
    assert find("dogma, foxes and hot tea") == set()
    assert find("") == set()
    assert NameFinder({})("a dog") == set()


RECORDS = [
    {"image_id": 1, "captions": ["a dog", "there is a dog and an ox"], "names": ["dog", "ox"]},
    {"image_id": 2, "captions": ["an ox", "one ox on its own here"], "names": ["ox"]},
]
SPELLINGS = {"dog": ["dog"], "ox": ["ox"], "cat": ["cat"]}


def test_the_evaluator(tmp_path):
    caption_set("captions", RECORDS)
    evaluator = CaptionEvaluator("captions", SPELLINGS, tmp_path)
    texts = ["There is a dog and a cat.", "An ox"]
    inputs = [{"image_id": 1}, {"image_id": 2}]
    evaluator.process(inputs, [{"caption": text} for text in texts])
    results = evaluator.evaluate()["captions"]
    words = [words_of(text) for text in texts]
    people = [[words_of(text) for text in record["captions"]] for record in RECORDS]
    assert results == {
        "BLEU-4": pytest.approx(100 * slow_bleu_4(words, people)),
        "CIDEr": pytest.approx(100 * slow_cider_d(words, people)),
        "name precision": pytest.approx(100 * 2 / 3),
        "name recall": pytest.approx(100 * 2 / 3),
    }
    assert results["BLEU-4"] > 0
    rows = json.loads((tmp_path / "captions.json").read_text("utf-8"))
    assert rows == [{"image_id": i + 1, "caption": text} for i, text in enumerate(texts)]
    written = json.loads((tmp_path / "caption_results.json").read_text("utf-8"))
    assert "4 captions of 2 images" in written["protocol"]["annotations"]


def test_missing_captions_are_empty(caplog):
    caption_set("captions", RECORDS)
    evaluator = CaptionEvaluator("captions", SPELLINGS)
    evaluator.process([{"image_id": 2}], [{"caption": "an ox"}])
    with caplog.at_level(logging.WARNING):
        results = evaluator.evaluate()["captions"]
    assert "1 of 2 images have no caption" in caplog.text
    assert (results["name precision"], results["name recall"]) == (100, pytest.approx(100 / 3))


def test_what_cannot_be_measured():
    caption_set("captions", RECORDS)
    evaluator = CaptionEvaluator("captions")
    evaluator.process([{"image_id": 1}], [{"caption": "a dog"}])
    with pytest.raises(UserError, match="two captions"):
        evaluator.process([{"image_id": 1}], [{"caption": "a dog"}])
    with pytest.raises(UserError, match="image 7"):
        evaluator.process([{"image_id": 7}], [{"caption": "a dog"}])
    with pytest.raises(UserError, match="is there twice"):
        caption_set("captions", [RECORDS[0], RECORDS[0]])
    with pytest.raises(UserError, match="has no caption"):
        caption_set("captions", [{"image_id": 1, "captions": ["?"]}])
    with pytest.raises(UserError, match="no image"):
        caption_set("captions", [])
    with pytest.raises(UserError, match="not registered"):
        CaptionEvaluator("no_such_captions")
    caption_set("captions", [{"image_id": 1, "captions": ["a dog"]}])
    with pytest.raises(UserError, match="without `names`"):
        CaptionEvaluator("captions", SPELLINGS)
