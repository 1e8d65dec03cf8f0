"""Vocabularies of the whole model: as text, as embeddings, for each image, with synonyms."""

import copy

import pytest
import torch

from detclip2.inference.vocabulary import Vocabulary
from detclip2.modeling.text.text_bank import VocabularyState
from detclip2.utils.errors import UserError
from tests.helpers.detclip_samples import NAMES, assert_same, detect, image


@pytest.mark.parametrize("number", [1, 1000])
def test_names_by_embedding_equal_names_by_text(detector, number):
    names = [f"name {i}" for i in range(number)]
    detector.set_vocabulary(names)
    [by_text] = detect(detector, [{"image": image()}])
    embeddings = detector.encode_phrases(names)
    assert embeddings.shape == (number, detector.embed_dim)
    assert not embeddings.requires_grad
    detector.set_vocabulary(embeddings)
    [by_embedding] = detect(detector, [{"image": image()}])
    assert_same(by_text, by_embedding)
    detector.set_vocabulary(["something else"])
    [own] = detect(detector, [{"image": image(), "vocabulary": embeddings}])
    assert_same(by_text, own)
    assert len(by_text) > 0


def test_each_image_can_have_its_own_vocabulary(detector):
    samples = [
        {"image": image(seed=i), "vocabulary": detector.encode_phrases(NAMES[i:])} for i in (0, 1)
    ]
    first, second = detect(detector, samples)
    assert set(first.pred_classes.tolist()) == {0, 1, 2}
    assert set(second.pred_classes.tolist()) == {0, 1}


@pytest.mark.parametrize("own", [False, True])
def test_names_of_one_label_score_as_the_best_of_them(detector, own):
    names = detector.encode_phrases([*NAMES, "яблоко"])
    label_of_row = torch.tensor([0, 1, 1, 1])
    if own:
        samples = [{"image": image(), "vocabulary": names, "label_of_row": label_of_row}]
    else:
        detector.set_vocabulary(names, label_of_row)
        samples = [{"image": image()}]
    [found] = detect(detector, samples)

    class BestInALoop:
        def chunks(self, phrases, size):
            return [(0, lambda regions: self.best(detector.align(regions, phrases)))]

        def best(self, similarity):
            groups = [[0], [1, 2, 3]]
            return torch.stack([similarity[:, group].max(dim=1).values for group in groups], dim=1)

    state = VocabularyState(BestInALoop(), names)
    [expected] = detect(detector, [{"image": image(), "vocabulary": state}])
    assert set(expected.pred_classes.tolist()) == {0, 1}
    assert_same(found, expected)


def test_another_vocabulary_replaces_the_labels(detector):
    names = detector.encode_phrases(NAMES)
    [expected] = detect(detector, [{"image": image(), "vocabulary": names}])
    detector.set_vocabulary(names, torch.tensor([0, 0, 0]))
    [own] = detect(detector, [{"image": image(), "vocabulary": names}])
    assert_same(own, expected)
    detector.set_vocabulary(names)
    assert_same(detect(detector, [{"image": image()}])[0], expected)


def test_an_image_can_have_names(detector):
    embeddings = detector.encode_phrases(NAMES[::-1])
    [expected] = detect(detector, [{"image": image(), "vocabulary": embeddings}])
    [found] = detect(detector, [{"image": image(), "vocabulary": NAMES[::-1]}])
    assert len(found) > 0
    assert_same(found, expected)


def test_no_names(detector):
    detector.set_vocabulary(torch.zeros(0, detector.embed_dim))
    assert len(detect(detector, [{"image": image()}])[0]) == 0
    detector.set_vocabulary([])
    with pytest.raises(UserError, match="no vocabulary: call set_vocabulary"):
        detect(detector, [{"image": image()}])


def test_a_vocabulary_of_another_width_is_refused(detector):
    for shape in ((3, 5), (16,)):
        with pytest.raises(UserError, match=r"expected \(C, 16\)"):
            detector.set_vocabulary(torch.zeros(shape))


def test_names_are_encoded_again_when_weights_have_changed(detector):
    before = detector.vocabulary
    assert detector.vocabulary is before, "kept while nothing changes"
    state = {
        name: t + 0.1 * torch.randn_like(t) if "text_tower" in name else t
        for name, t in detector.state_dict().items()
    }
    detector.load_state_dict(state)
    loaded = detector.vocabulary
    assert not torch.equal(loaded, before)
    torch.testing.assert_close(loaded, detector.encode_phrases(NAMES))
    detector.train()
    with torch.no_grad():
        detector.text_tower.projection.weight.mul_(2)
    torch.testing.assert_close(detector.eval().vocabulary, 2 * loaded)


def test_the_state_is_prepared_again_when_weights_have_changed(detector):
    embeddings = detector.encode_phrases(NAMES)
    detector.set_vocabulary(embeddings)
    samples = [{"image": image()}]
    detect(detector, samples)
    one = torch.ones(())
    for change in (
        lambda: detector.load_state_dict({**detector.state_dict(), "align.log_scale": 3 * one}),
        lambda: (detector.train(), detector.align.log_scale.data.fill_(2.0), detector.eval()),
    ):
        change()
        [found] = detect(detector, samples)
        [expected] = detect(detector, [{**samples[0], "vocabulary": embeddings}])
        assert len(found) > 0
        assert_same(found, expected)


def test_a_copy_has_a_state_of_its_own(detector):
    """As in EMA, whose weights change without loading."""
    samples = [{"image": image()}]
    detect(detector, samples)
    average = copy.deepcopy(detector)
    average.align.log_scale.data.fill_(2.0)
    [found] = detect(average, samples)
    average.set_vocabulary(NAMES)
    assert_same(found, detect(average, samples)[0])


def test_an_encoded_vocabulary_is_not_encoded_again(detector):
    names = [["red apple", "пёс"], "fire engine"]
    vocabulary = Vocabulary.from_names(names, synonyms="max")
    with pytest.raises(UserError, match="no embeddings yet"):
        detector.set_vocabulary(vocabulary)
    vocabulary = vocabulary.encode(detector.encode_phrases)
    detector.set_vocabulary(vocabulary)
    [found] = detect(detector, [{"image": image()}])
    detector.set_vocabulary(vocabulary.embeddings, vocabulary.label_of_row)
    assert_same(found, detect(detector, [{"image": image()}])[0])
    assert set(found.pred_classes.tolist()) == {0, 1}


def test_given_embeddings_survive_training_and_move_with_the_model(detector):
    embeddings = detector.encode_phrases(NAMES)
    detector.set_vocabulary(embeddings)
    detector.train().eval()
    detector.load_state_dict(detector.state_dict())
    assert torch.equal(detector.vocabulary, embeddings)
    assert detector.to("meta").vocabulary.device.type == "meta"


def test_encoding_does_not_change_the_mode(tiny_model):
    tiny_model.text_tower.model.embeddings.register_forward_hook(
        lambda *args: pytest.fail("training") if tiny_model.text_tower.training else None
    )
    tiny_model.encode_phrases(NAMES)
    assert all(module.training for module in tiny_model.modules())
    tiny_model.eval().encode_phrases(NAMES)
    assert not any(module.training for module in tiny_model.modules())


def test_many_names_are_encoded_in_chunks(detector, monkeypatch):
    names = [*NAMES, "a much longer name than the others", "x"]
    expected = detector.encode_phrases(names)
    calls = []
    detector.text_tower.register_forward_pre_hook(lambda _, args: calls.append(len(args[0])))
    monkeypatch.setattr("detclip2.modeling.text.text_tower.BATCH_SIZE", 2)
    torch.testing.assert_close(detector.encode_phrases(names), expected)
    assert calls == [2, 2, 1]
    assert detector.encode_phrases([]).shape == (0, detector.embed_dim)


def test_a_model_without_text_tower(detector):
    embeddings = detector.encode_phrases(NAMES)
    [expected] = detect(detector, [{"image": image()}])
    model = copy.copy(detector)
    model._modules = {**detector._modules, "text_tower": None}
    model.set_vocabulary(NAMES)
    with pytest.raises(UserError, match="no text tower"):
        detect(model, [{"image": image()}])
    model.set_vocabulary(embeddings)
    assert_same(detect(model, [{"image": image()}])[0], expected)
