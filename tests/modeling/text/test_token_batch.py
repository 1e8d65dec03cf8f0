"""The captions of a batch, and vocabularies as captions."""

import pytest
import torch

from detclip2.modeling.text.caption_state import encode_names, names_and_labels
from detclip2.modeling.text.token_batch import TokenBatch
from tests.helpers.tiny_glip import TOKENS, text_tower


@pytest.fixture(scope="module")
def tower():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return text_tower().eval()


def sample(phrases, num_positives=None, **more):
    positives = len(phrases) if num_positives is None else num_positives
    return {"phrases": phrases, "num_positives": positives, **more}


def words(tower, text, positions):
    """The text of some tokens."""
    return "".join(tower.tokenizer.decode(tower.tokenizer(text)["input_ids"][i]) for i in positions)


def test_columns_are_tokens_of_the_own_caption(tower):
    batch = TokenBatch.from_samples([sample(["dog", "cat"]), sample(["red apple"])], tower)
    assert len(batch) == 2
    assert batch.embeddings.shape[:2] == batch.mask.shape
    assert batch.mask.sum(dim=1).unique().numel() == 2
    box, column = batch.columns_of(0, torch.tensor([1, 0, 1]))
    assert box.unique().tolist() == [0, 1, 2]
    of_box = [set(column[box == i].tolist()) for i in range(3)]
    assert of_box[0] == of_box[2]
    assert not of_box[0] & of_box[1]
    assert words(tower, "dog. cat", sorted(of_box[1])).strip() == "dog"
    valid = batch.negatives_valid()
    assert torch.equal(valid, batch.mask)


def test_the_states_are_those_of_the_caption_alone(tower):
    """Padding to the longest caption changes nothing."""
    captions = ["dog", "dog. cat. red apple. fire engine"]
    names = [caption.split(". ") for caption in captions]
    batch = TokenBatch.from_samples([sample(own) for own in names], tower)
    for b, caption in enumerate(captions):
        alone = tower.encode(tower.tokenize([caption]))[0]
        torch.testing.assert_close(batch.embeddings[b, : len(alone)], alone)
        assert batch.mask[b].sum() == len(alone)


def test_tokens_of_what_is_not_exhaustive_are_no_negatives(tower):
    batch = TokenBatch.from_samples(
        [sample(["dog", "cat"], not_exhaustive=torch.tensor([1])), sample(["dog"])], tower
    )
    valid = batch.negatives_valid()
    assert torch.equal(valid[0], batch.mask[0] & ~batch.tokens_of[0][1])
    assert not valid[0, batch.tokens_of[0][1]].any()
    assert torch.equal(valid[1], batch.mask[1])


def test_a_part_is_the_samples_of_the_part(tower):
    samples = [sample(["dog"]), sample(["cat", "dog"]), sample(["apple"])]
    part = TokenBatch.from_samples(samples, tower).part(slice(1, 3))
    assert len(part) == 2
    assert part.columns_of(0, torch.tensor([1]))[1].numel() > 0
    assert len(part.tokens_of) == len(part.not_exhaustive) == 2


def test_gradients_of_parts_go_back_to_the_tower(tower):
    samples = [sample(["dog"]), sample(["cat"])]
    whole = TokenBatch.from_samples(samples, tower)
    whole.embeddings.square().sum().backward()
    weight = tower.model.embeddings.word_embeddings.weight
    expected, weight.grad = weight.grad, None
    whole = TokenBatch.from_samples(samples, tower)
    detached = whole.detach()
    for part in (slice(0, 1), slice(1, 2)):
        detached.part(part).embeddings.square().sum().backward()
    assert weight.grad is None
    whole.backward(detached)
    torch.testing.assert_close(weight.grad, expected)


def test_a_span_beyond_the_limit_has_no_columns(tower):
    caption = "dog " * TOKENS + "cat"
    spans = [[[0, 3]], [[len(caption) - 3, len(caption)]], [[len(caption) + 5, len(caption) + 8]]]
    one = sample(["dog", "cat", "bird"], caption=caption, phrase_spans=spans)
    batch = TokenBatch.from_samples([one], tower)
    assert batch.mask.shape == (1, TOKENS)
    assert batch.tokens_of[0].any(dim=1).tolist() == [True, False, False]


def test_captions_of_other_images_are_negatives(tower):
    one = sample(["dog"], caption="a dog", phrase_spans=[[[2, 5]]], other_captions=["the red kite"])
    batch = TokenBatch.from_samples([one], tower)
    text = "a dog. the red kite."
    assert batch.mask.sum() == len(tower.tokenizer(text)["input_ids"])
    [tokens] = [row.nonzero().squeeze(1).tolist() for row in batch.tokens_of[0]]
    assert words(tower, text, tokens).strip() == "dog"
    assert batch.negatives_valid().all()
    torch.manual_seed(0)
    places = {
        int(TokenBatch.from_samples([one], tower, True).tokens_of[0].float().argmax())
        for _ in range(10)
    }
    assert len(places) == 2


def test_names_in_the_order_of_the_data_set_are_not_shuffled(tower):
    """Positives first would tell the model which names are in the image."""
    one = sample(["kite", "dog", "cat"], 1, phrase_order=torch.tensor([1, 2, 0]))
    text = "dog. cat. kite"
    for shuffle in (True, False):
        batch = TokenBatch.from_samples([one], tower, shuffle)
        found = [words(tower, text, row.nonzero().squeeze(1)) for row in batch.tokens_of[0]]
        assert [name.strip() for name in found] == ["kite", "dog", "cat"]


def test_negatives_stand_around_a_caption_with_spans(tower):
    """They have no columns of their own: their tokens are negatives, as those of the caption."""
    one = sample(["dog", "red kite"], 1, caption="a dog", phrase_spans=[[[2, 5]]])
    batch = TokenBatch.from_samples([one], tower)
    text = "a dog. red kite."
    assert batch.mask.sum() == len(tower.tokenizer(text)["input_ids"])
    assert words(tower, text, batch.tokens_of[0][0].nonzero().squeeze(1)).strip() == "dog"
    assert batch.tokens_of[0].any(dim=1).tolist() == [True, False]
    assert batch.negatives_valid().all()
    both = TokenBatch.from_samples([{**one, "other_captions": ["the cat"]}], tower)
    assert both.mask.sum() == len(tower.tokenizer("a dog. the cat. red kite.")["input_ids"])


def test_a_vocabulary_is_split_into_captions_that_fit(tower):
    names = [f"thing number {i}" for i in range(150)]
    state = encode_names(names, None, tower, None)
    assert len(state) == 150
    assert len(state.captions) > 1
    labels = []
    for caption in state.captions:
        assert caption.states.shape[1] <= TOKENS
        torch.testing.assert_close(caption.weights.sum(dim=0), torch.ones(len(caption.labels)))
        assert caption.text.split(". ") == [names[i] for i in caption.labels]
        labels += caption.labels.tolist()
    assert labels == list(range(150))
    [*_, last] = encode_names(names, None, tower, 20).captions
    assert len(last.labels) == 150 % 20


def test_the_weights_of_a_name_are_the_mean_over_its_tokens(tower):
    [caption] = encode_names(["dog", "a red fire engine"], None, tower, None).captions
    for column in caption.weights.T:
        used = column[column > 0]
        assert (used == 1 / len(used)).all()
    assert (caption.weights[:, 1] > 0).sum() > (caption.weights[:, 0] > 0).sum() >= 1


def test_an_over_long_name_keeps_the_tokens_that_fit(tower):
    state = encode_names(["cat", "dog " * TOKENS, "cow"], None, tower, None)
    assert [len(caption.labels) for caption in state.captions] == [1, 1, 1]
    assert state.captions[1].states.shape[1] == TOKENS
    assert state.captions[1].weights.sum() == pytest.approx(1, abs=1e-5)


def test_names_without_tokens_and_repeated_ones(tower):
    names, labels = ["", "dog", "dog_(animal)", " "], torch.tensor([0, 1, 2, 3])
    state = encode_names(names, labels, tower, None)
    assert len(state) == 4
    [caption] = state.captions
    assert caption.text == "dog"
    assert caption.labels.tolist() == [1, 2]
    assert encode_names([], None, tower, None).captions == []
    assert encode_names([""], None, tower, None).captions == []


def test_a_list_of_names_and_labels_stays():
    labels = torch.tensor([0, 0])
    assert names_and_labels(("a", "b"), labels) == (["a", "b"], labels)


def test_encoding_leaves_the_mode_and_no_gradient(tower):
    tower.train()
    state = encode_names(["dog"], None, tower, None)
    again = encode_names(["dog"], None, tower, None)
    assert tower.training
    tower.eval()
    assert not state.captions[0].states.requires_grad
    torch.testing.assert_close(state.captions[0].states, again.captions[0].states)  # no dropout
