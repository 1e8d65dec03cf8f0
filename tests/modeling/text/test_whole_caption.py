"""A caption that a model reads whole: the tokens of its phrases, and their scores."""

from dataclasses import dataclass, field

import pytest
import torch

from detclip2.modeling.text.caption_state import CaptionedVocabulary, encode_caption, encode_names
from detclip2.modeling.text.token_batch import TokenBatch
from detclip2.utils.errors import UserError
from tests.helpers.glip_reference import tokenizer as word_pieces
from tests.helpers.tiny_glip import TOKENS, text_tower


@dataclass
class Captioned:
    caption: str
    spans: list = field(default_factory=list)


@pytest.fixture(scope="module")
def tower():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return text_tower()


def spans_of(caption, phrase):
    begins = [i for i in range(len(caption)) if caption.startswith(phrase, i)]
    return [(begin, begin + len(phrase)) for begin in begins]


def test_a_phrase_is_the_mean_over_its_tokens_in_all_its_places(tower):
    text = "red apple on a sofa, red apple on the red bed"
    phrases = ["red apple", "sofa", "red"]
    vocabulary = Captioned(text, [spans_of(text, phrase) for phrase in phrases])
    assert isinstance(vocabulary, CaptionedVocabulary)
    state = encode_caption(vocabulary, tower)
    assert len(state) == 3
    [caption] = state.captions
    assert caption.text == text
    assert caption.labels.tolist() == [0, 1, 2]
    tokens = tower.tokenizer(text, return_offsets_mapping=True)
    torch.testing.assert_close(caption.states, tower.eval().encode(tower.tokenize([text])))
    for phrase, weights in zip(phrases, caption.weights.T, strict=True):
        own = [
            any(b < end and e > begin for b, e in spans_of(text, phrase) if end > begin)
            for begin, end in tokens["offset_mapping"]
        ]
        expected = torch.tensor(own).float()
        torch.testing.assert_close(weights, expected / expected.sum())


def test_training_mode_stays(tower):
    tower.train()
    encode_caption(Captioned("a dog", [[(2, 5)]]), tower)
    assert tower.training


def test_a_caption_that_does_not_fit_is_refused(tower):
    words = (TOKENS - 2) * ["dog"]
    [length] = tower.num_tokens([" ".join(words)])
    fitting = " ".join(words[: TOKENS - 2 - (length - len(words))])
    assert len(encode_caption(Captioned(fitting, [[(0, 3)]]), tower)) == 1
    with pytest.raises(UserError, match=f"has {TOKENS - 1} tokens, and this .* at most 254"):
        encode_caption(Captioned(fitting + " dog", [[(0, 3)]]), tower)


def test_unknown_tokens_alone_have_no_scores(tower, monkeypatch):
    monkeypatch.setattr(tower, "tokenizer", word_pieces())
    known, unknown = "person", "\u65e5\u672c"
    assert tower.num_tokens([unknown])[0] > 0
    text = f"{unknown} and {known} {unknown}"
    spans = [spans_of(text, unknown), spans_of(text, f"{known} {unknown}")]
    state = encode_caption(Captioned(text, spans), tower)
    assert state.captions[0].weights.sum(dim=0).tolist() == [0, 1]
    state = encode_names([unknown, known], None, tower, None)
    assert state.captions[0].weights.sum(dim=0).tolist() == [0, 1]


def test_weights_of_a_batch_are_those_of_each_own_caption(tower):
    samples = [
        {"phrases": ["dog", "red apple"], "num_positives": 2},
        {"phrases": ["sofa"], "num_positives": 1},
    ]
    batch = TokenBatch.from_samples(samples, tower)
    weights = batch.phrase_weights()
    assert weights.shape == (2, batch.mask.shape[1], 3)
    expected = torch.zeros_like(weights)
    for b, m, of_all in ((0, 0, 0), (0, 1, 1), (1, 0, 2)):
        own = batch.tokens_of[b][m].float()
        expected[b, :, of_all] = own / own.sum()
    torch.testing.assert_close(weights, expected)
