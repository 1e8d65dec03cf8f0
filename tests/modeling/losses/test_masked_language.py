"""Masked language modelling: BERT's masks, its head and its loss."""

import pytest
import torch
from torch.nn import functional as F
from transformers import BertConfig
from transformers.models.bert.modeling_bert import BertLMPredictionHead

from detclip2.modeling.losses.masked_language import NOT_MASKED, MaskedLanguage
from detclip2.modeling.text.token_batch import TokenBatch
from detclip2.utils.errors import UserError
from tests.helpers.processes import run_processes
from tests.helpers.tiny_glip import TEXT, text_tower

WORDS = "the small dog sits to the left of a red fire engine and a very old tree"


@pytest.fixture(scope="module")
def tower():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return text_tower("<mask>").eval()


def masked(tower, samples, **arguments):
    """The tokens before, the tokens that the text model gets, and the batch."""
    masking = MaskedLanguage(TEXT, len(tower.word_embeddings), **arguments)
    seen = []
    hook = tower.model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"]), with_kwargs=True
    )
    texts = []

    def mask(tokens, positive, of_tower):
        texts.append(tokens["input_ids"].clone())
        return masking.mask(tokens, positive, of_tower)

    try:
        batch = TokenBatch.from_samples(samples, tower, masking=mask)
    finally:
        hook.remove()
    return texts[0], seen[0], batch


def sentence(text=WORDS, phrase=(4, 13)):
    return {
        "phrases": [text[slice(*phrase)]],
        "num_positives": 1,
        "caption": text,
        "phrase_spans": [[phrase]],
    }


def test_shares_of_masked_random_and_kept_tokens(tower):
    torch.manual_seed(0)
    before, after, batch = masked(tower, [sentence()] * 600)
    own = (before > 2) & batch.mask  # 0, 1 and 2 are padding, start and end
    chosen = batch.targets != NOT_MASKED
    number = chosen.sum().item()
    assert number > 1000
    assert not (chosen & ~own).any()
    assert number / own.sum().item() == pytest.approx(0.15, abs=0.02)
    assert torch.equal(batch.targets[chosen], before[chosen])
    assert torch.equal(before[~chosen], after[~chosen])
    assert (after[chosen] == tower.mask_token).sum().item() / number == pytest.approx(0.8, abs=0.03)
    assert (after == before)[chosen].sum().item() / number == pytest.approx(0.1, abs=0.03)
    random = after[chosen & (after != before) & (after != tower.mask_token)]
    assert random.unique().numel() > 0.9 * len(random)  # of 8,001 words


def test_of_lists_the_positives_are_masked_or_all_names(tower):
    names = {"phrases": ["red apple", "fire engine", "tree"], "num_positives": 1}
    for positives_only in (True, False):
        _, _, batch = masked(tower, [names], probability=1.0, positives_only=positives_only)
        chosen = batch.targets[0] != NOT_MASKED
        negatives = batch.tokens_of[0][1:].any(dim=0)
        assert chosen[batch.tokens_of[0][0]].all()
        assert chosen[negatives].all() == (not positives_only)
        assert not chosen[[0, -1]].any()


def test_masks_depend_on_the_generator_of_torch_alone(tower):
    """Which the training loop seeds in each iteration, so that a resumed run equals another."""
    results = []
    for seed in (3, 4, 3):
        torch.manual_seed(seed)
        results.append(masked(tower, [sentence()] * 4)[1])
    assert torch.equal(results[0], results[2])
    assert not torch.equal(results[0], results[1])


def test_phrases_keep_their_tokens(tower):
    """The other losses read the masked caption."""
    _, _, batch = masked(tower, [sentence()], probability=1.0)
    plain = TokenBatch.from_samples([sentence()], tower)
    assert torch.equal(batch.tokens_of[0], plain.tokens_of[0])
    assert torch.equal(batch.mask, plain.mask)
    assert not torch.allclose(batch.embeddings, plain.embeddings)
    assert plain.targets is None


def test_the_output_layer_is_that_of_bert():
    torch.manual_seed(0)
    config = BertConfig(vocab_size=50, hidden_size=TEXT)
    theirs, ours = BertLMPredictionHead(config), MaskedLanguage(TEXT, 50)
    embeddings, states = torch.randn(50, TEXT), torch.randn(2, 3, TEXT)
    with torch.no_grad():
        theirs.decoder.weight.copy_(embeddings)
        theirs.bias.normal_()
        theirs.decoder.bias = theirs.bias
        ours.bias.copy_(theirs.bias)
        ours.transform[0].load_state_dict(theirs.transform.dense.state_dict())
        ours.transform[2].load_state_dict(theirs.transform.LayerNorm.state_dict())
    torch.testing.assert_close(ours.logits(states, embeddings), theirs(states))


def batch_of(rank, shares):
    generator = torch.Generator().manual_seed(6)
    states = torch.randn(sum(shares), 4, TEXT, generator=generator)
    embeddings = torch.randn(9, TEXT, generator=generator)
    targets = torch.randint(9, (sum(shares), 4), generator=generator)
    targets[torch.rand(targets.shape, generator=generator) < 0.6] = NOT_MASKED
    targets[-1] = NOT_MASKED  # a process without a masked token
    own = slice(sum(shares[:rank]), sum(shares[: rank + 1]))
    return states[own], targets[own], embeddings.requires_grad_()


def run(rank, world_size, shares):
    torch.manual_seed(0)
    masking = MaskedLanguage(TEXT, 9, weight=0.5)
    states, targets, embeddings = batch_of(rank, shares)
    [loss] = masking(states, targets, embeddings).values()
    loss.backward()
    return [loss.detach(), embeddings.grad, masking.transform[0].weight.grad]


@pytest.mark.parametrize("shares", [[6], [4, 2], [3, 2, 1]])
@pytest.mark.processes
def test_the_loss_is_the_mean_over_the_masked_tokens_of_all_processes(shares):
    results = run_processes(run, len(shares), shares)
    torch.manual_seed(0)
    masking = MaskedLanguage(TEXT, 9)
    states, targets, embeddings = batch_of(0, [6])
    logits = masking.logits(states, embeddings)
    expected = 0.5 * F.cross_entropy(logits.flatten(0, 1), targets.flatten())
    expected.backward()
    expected = [expected.detach(), embeddings.grad, masking.transform[0].weight.grad]
    for i, value in enumerate(expected):
        mean = torch.stack([result[i] for result in results]).mean(dim=0)
        torch.testing.assert_close(mean, value)


def test_parts_of_a_batch_have_its_divisor():
    masking = MaskedLanguage(TEXT, 9)
    states, targets, embeddings = batch_of(0, [6])
    [whole] = masking(states, targets, embeddings).values()
    count = masking.count(targets)
    parts = [
        masking(states[part], targets[part], embeddings, count)["loss_mlm"]
        for part in (slice(0, 2), slice(2, 5), slice(5, 6))
    ]
    torch.testing.assert_close(sum(parts), whole)
    assert parts[2] == 0


def test_without_a_masked_token_the_loss_is_zero():
    masking = MaskedLanguage(TEXT, 9)
    states = torch.randn(2, 3, TEXT, requires_grad=True)
    embeddings = torch.randn(9, TEXT, requires_grad=True)
    [loss] = masking(states, torch.full((2, 3), NOT_MASKED), embeddings).values()
    loss.backward()
    assert loss == 0
    for x in (states, embeddings, *masking.parameters()):
        assert x.grad is not None
        assert not x.grad.any()


def test_a_text_tower_that_does_not_fit_is_refused(tower):
    with pytest.raises(UserError, match="no mask token"):
        masked(text_tower(), [sentence()])
    masking = MaskedLanguage(TEXT, 8000)
    with pytest.raises(UserError, match=r"vocabulary_size is 8000, but .* has 8001"):
        TokenBatch.from_samples([sentence()], tower, masking=masking.mask)
