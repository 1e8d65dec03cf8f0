"""Captions in the predictor and in explanations: GLIP reads them whole, others by phrases."""

import numpy as np
import pytest
import torch

from detclip2.config import InferenceSettings
from detclip2.data.text.caption_phrases import CaptionPhrases
from detclip2.inference.explain import explain
from detclip2.inference.predictor import OpenVocabularyPredictor
from detclip2.inference.vocabulary import Vocabulary
from detclip2.modeling.protocol import ExplainableModel
from detclip2.utils.errors import UserError
from detclip2.utils.model_folder import read_model_folder
from detclip2.visualization.explanation import draw_explanation
from tests.helpers.tiny_glip import tiny_glip

CAPTION = "A Man next to two small dogs; the man has a bag"
PHRASES = ["Man", "small dogs", "bag"]


@pytest.fixture(scope="module")
def glip():
    settings = InferenceSettings(min_size=64, max_size=96)
    return OpenVocabularyPredictor.from_model(tiny_glip(), settings)


@pytest.fixture(scope="module")
def nano(nano_folder):
    return OpenVocabularyPredictor(*read_model_folder(nano_folder), device="cpu")


@pytest.fixture(scope="module")
def photo():
    return np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)


def same(a, b):
    return (
        torch.equal(a.pred_boxes.tensor, b.pred_boxes.tensor)
        and torch.equal(a.scores, b.scores)
        and a.labels == b.labels
    )


@torch.no_grad()
def slow_probabilities(predictor, photo):
    """Outputs of the head, and (K, M) probabilities, token by token."""
    model, found = predictor.model, CaptionPhrases.find(CAPTION)
    sample = {"image": predictor.resized(photo), "phrases": PHRASES, "num_positives": 3}
    sample.update(caption=CAPTION, phrase_spans=found.spans, supervision="grounding")
    text = model.encode_text([sample])
    outputs = model.encode_images(model.preprocess_image([sample]), text)
    scores = model.token_logits(outputs, text)[0].sigmoid()
    offsets = model.text_encoder.tokenizer(CAPTION, return_offsets_mapping=True)["offset_mapping"]
    columns = []
    for spans in found.spans:
        own = [
            t
            for t, (b, e) in enumerate(offsets)
            if e > b and any(b < end and e > begin for begin, end in spans)
        ]
        columns.append(sum(scores[:, t] for t in own) / len(own))
    return outputs, torch.stack(columns, dim=1)


def test_glip_reads_the_caption_whole(glip, photo):
    found = glip(photo, caption=CAPTION)
    assert set(found.labels) <= {*PHRASES}
    assert [PHRASES[i] for i in found.pred_classes.tolist()] == found.labels
    _, probabilities = slow_probabilities(glip, photo)
    best = dict.fromkeys(PHRASES, 0.0)
    for label, score in zip(found.labels, found.scores.tolist(), strict=True):
        best[label] = max(best[label], score)
    outputs, _ = slow_probabilities(glip, photo)
    expected = (probabilities * outputs.centerness[0].sigmoid()[:, None]).sqrt()
    expected = expected.where(probabilities > 0.05, 0).amax(dim=0)
    assert list(best.values()) == pytest.approx(expected.tolist(), rel=1e-4)
    assert not same(found, glip(photo, vocabulary=PHRASES)), "the words around phrases matter"


def test_a_caption_may_be_set_once(glip, photo):
    phrases = CaptionPhrases.find(CAPTION)
    glip.set_vocabulary(phrases)
    assert list(glip.vocabulary.labels) == PHRASES
    assert same(glip(photo), glip(photo, caption=CAPTION))
    other = ["dog"]
    both = glip([photo, photo], vocabularies=[phrases, other])
    assert same(both[0], glip(photo))
    assert same(both[1], glip(photo, vocabulary=other))


def test_other_models_detect_the_phrases(nano, photo):
    found = nano(photo, caption=CAPTION, score_threshold=0.0)
    assert len(found)
    assert same(found, nano(photo, vocabulary=Vocabulary.from_names(PHRASES), score_threshold=0.0))


def test_mistakes_are_sentences(glip, photo):
    with pytest.raises(UserError, match="a caption or a vocabulary, not both"):
        glip(photo, caption="a dog", vocabulary=["dog"])
    with pytest.raises(UserError, match="the caption is empty"):
        glip(photo, caption="")
    with pytest.raises(UserError, match="at most 254 at once: shorten it"):
        glip(photo, caption="a dog and a cat " * 60)
    with pytest.raises(UserError, match="at most 254 at once"):
        explain(glip, photo, "a dog and a cat " * 60)
    with pytest.raises(UserError, match="is a list with one for each image"):
        glip([photo], vocabularies=CaptionPhrases.find("a dog"))


def test_an_explanation_has_the_best_region_of_each_phrase(glip, photo):
    assert isinstance(glip.model, ExplainableModel)
    explanation = explain(glip, photo, CAPTION)
    assert explanation.caption == CAPTION
    assert explanation.phrases == PHRASES
    outputs, probabilities = slow_probabilities(glip, photo)
    centerness = outputs.centerness[0].sigmoid()
    height, width = glip.resized(photo).shape[1:]
    scale = np.tile([photo.shape[1] / width, photo.shape[0] / height], 2)
    for m in range(len(PHRASES)):
        scores = (probabilities[:, m] * centerness).tolist()
        best = scores.index(max(scores))
        np.testing.assert_allclose(
            explanation.boxes[m], outputs.boxes[0, best].numpy() * scale, rtol=1e-4
        )
        assert explanation.scores[m] == pytest.approx(probabilities[best, m].item(), rel=1e-4)
        assert explanation.heat[m].max() <= probabilities[:, m].max().item() + 1e-5
    assert explanation.heat.shape == (3, height, width)
    assert draw_explanation(explanation).dtype == np.uint8


def test_phrases_of_other_captions_have_no_probability(glip, photo):
    image = glip.resized(photo)
    samples = [{"image": image, "phrases": [p], "num_positives": 1} for p in ("dog", "cat")]
    with torch.no_grad():
        text = glip.model.encode_text(samples)
        outputs = glip.model.encode_images(glip.model.preprocess_image(samples), text)
        similarity = glip.model.similarity(outputs, text)
    assert similarity.shape == (2, outputs.centerness.shape[1], 2)
    assert torch.isfinite(similarity[[0, 1], :, [0, 1]]).all()
    assert (similarity[[0, 1], :, [1, 0]] == -torch.inf).all()
    chosen, found = glip.model.chosen_regions(outputs, text)
    assert chosen.shape == (2, 2)
    assert found.tolist() == [True, True]
