"""Vocabularies of the predictor: for all calls, one call or each image; from files or encoded."""

import itertools

import numpy as np
import pytest
import torch

from detclip2.inference.vocabulary import PROBE, Vocabulary
from detclip2.utils.errors import UserError
from tests.helpers.color_model import draw_image


def test_a_vocabulary_for_one_call_or_for_each_image(colors):
    image = draw_image(red=(0, 0, 20, 20), blue=(30, 30, 50, 50))
    colors.set_vocabulary(["red"])
    assert colors(image, vocabulary=["lime", "blue"]).labels == ["blue"]
    results = colors([image] * 3, vocabularies=[["blue"], "lime", Vocabulary.from_text("red,blue")])
    assert [r.labels for r in results] == [["blue"], [], ["red", "blue"]]
    assert colors(image).labels == ["red"]
    for wrong in ([["red"]], [["red"]] * 3):
        with pytest.raises(UserError, match="as many vocabularies as images"):
            colors([image] * 2, vocabularies=wrong)
        with pytest.raises(UserError, match="as many vocabularies as images"):
            list(colors(iter([image] * 2), vocabularies=iter(wrong)))
    with pytest.raises(UserError, match="a list with one for each image"):
        colors([image] * 3, vocabularies="red")
    with pytest.raises(UserError, match="not both"):
        colors(image, vocabulary=["red"], vocabularies=[["red"]])


@pytest.mark.parametrize("name", ["coco", " LVIS"])
def test_the_name_of_a_builtin_list_is_asked_about(colors, name):
    with pytest.raises(UserError, match=r"give Vocabulary\.builtin"):
        colors.set_vocabulary(name)
    colors.set_vocabulary([name])
    assert colors.vocabulary.labels == (name,)


def test_equal_vocabularies_are_encoded_only_once(colors, tmp_path):
    image = draw_image(red=(0, 0, 20, 20), blue=(30, 30, 50, 50))
    (tmp_path / "names.txt").write_text("blue")
    encoded = colors.encode(["red"])
    ready = [encoded, encoded, tmp_path / "names.txt", tmp_path / "names.txt"]
    names = [["red"], ("red",), iter(["red"]), "blue, lime", "blue, lime", [["red", "scarlet"]]]
    colors.model.encoded.clear()
    results = colors([image] * 10, vocabularies=[*ready, *names])
    labels = ["red"] * 2 + ["blue"] * 2 + ["red"] * 3 + ["blue"] * 2  # and nothing is mixed up
    assert [label for r in results for label in r.labels] == labels
    texts = [tuple(text for text in group if text != PROBE) for group in colors.model.encoded]
    assert [group for group in texts if group] == [
        ("blue",),
        ("red",),
        ("blue", "lime"),
        ("red", "scarlet"),
    ]


def test_vocabularies_of_equal_names_keep_their_own_embeddings(colors):
    image = draw_image(red=(0, 0, 20, 20), blue=(30, 30, 50, 50))
    names = Vocabulary.from_names(["it"])
    probe = colors.model.encode_phrases([PROBE])
    ready = []
    for color in ("red", "blue"):
        rows = {"it": colors.model.encode_phrases([color])}
        ready.append(names.encode(lambda p, r=rows: torch.cat([r.get(x, probe) for x in p])))
    red, blue = colors([image] * 2, vocabularies=ready)
    np.testing.assert_allclose(red.pred_boxes.tensor, [[0, 0, 20, 20]], atol=1)
    np.testing.assert_allclose(blue.pred_boxes.tensor, [[30, 30, 50, 50]], atol=1)


def test_an_endless_stream_with_vocabularies(colors):
    image = draw_image(red=(0, 0, 20, 20))
    names = (["red", f"thing {i}"] for i in itertools.count())
    results = colors(itertools.repeat(image), vocabularies=names)
    for _ in range(100):
        assert next(results).labels == ["red"]
    assert len(colors.model.batches) == 25


def test_vocabularies_from_files(colors, tmp_path):
    image = draw_image(red=(0, 0, 20, 20), blue=(30, 30, 50, 50))
    (tmp_path / "names.txt").write_text("lime\nblue\n")
    saved = tmp_path / "v.safetensors"
    colors.encode(["blue", "red"]).save(saved)
    for source, labels in [(tmp_path / "names.txt", ["blue"]), (saved, ["blue", "red"])]:
        for vocabulary in (source, str(source)):
            colors.set_vocabulary(vocabulary)
            assert colors(image).labels == labels
    colors.model.text_identity = None  # encoded vocabularies need no text encoder
    colors.set_vocabulary(saved)
    assert colors(image).labels == ["blue", "red"]


def test_a_vocabulary_of_another_encoder_is_refused(colors, tmp_path):
    path = tmp_path / "v.safetensors"
    vocabulary = Vocabulary.from_names(["red"])
    vocabulary.encode(colors.model.encode_phrases, "another").save(path)
    with pytest.raises(UserError, match="'another' and the model has 'colours'"):
        colors.set_vocabulary(path)
    with pytest.raises(UserError, match="other weights"):
        colors.set_vocabulary(vocabulary.encode(lambda p: torch.eye(3)[: len(p)], "colours"))


def test_without_vocabulary(colors):
    with pytest.raises(UserError, match="call set_vocabulary"):
        colors(draw_image())
