"""Greedy and beam search against all texts of a tiny vocabulary."""

import itertools
import math

import pytest
import torch

from detclip2.modeling.text.generation import Written, write

START, END, SIZE = 0, 1, 4


def language(seed):
    """A model whose next token depends on the whole text before it."""
    table = torch.randn(5000, SIZE, generator=torch.Generator().manual_seed(seed)).double()

    def next_token(texts):
        places = torch.zeros(len(texts), dtype=torch.int64)
        for column in texts.T:
            places = (places * SIZE + column + 1) % 4999
        logits = table[places].clone()
        logits[:, START] = -torch.inf
        return logits.log_softmax(dim=1)

    return next_token


def all_complete(next_token, max_tokens):
    """Each text with an end, and its log-probability, one token after another."""
    for length in range(max_tokens + 1):
        for own in itertools.product(range(2, SIZE), repeat=length):
            tokens, total = [START], 0.0
            for token in (*own, END):
                total += next_token(torch.tensor([tokens]))[0, token].item()
                tokens.append(token)
            yield Written(list(own), total, True)


def greedy(next_token, max_tokens):
    tokens, total = [START], 0.0
    while len(tokens) <= max_tokens + 1:
        scores = next_token(torch.tensor([tokens]))[0]
        best = int(scores.argmax())
        if best == END:
            return tokens[1:], total + scores[best].item(), True
        if len(tokens) > max_tokens:
            break
        total += scores[best].item()
        tokens.append(best)
    return tokens[1:], total, False


@pytest.mark.parametrize("seed", range(20))
def test_one_beam_is_greedy(seed):
    model = language(seed)
    tokens, total, is_complete = greedy(model, max_tokens=5)
    written = write(model, START, END, max_tokens=5)
    assert (written.tokens, written.is_complete) == (tokens, is_complete)
    assert written.log_probability == pytest.approx(total, abs=1e-5)


@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
@pytest.mark.parametrize("seed", range(10))
def test_a_wide_beam_is_an_exhaustive_search(seed, length_penalty):
    model = language(seed)
    every = list(all_complete(model, max_tokens=4))
    best = max(every, key=lambda written: written.score(length_penalty))
    written = write(model, START, END, 4, beam_size=500, length_penalty=length_penalty)
    assert written.tokens == best.tokens
    assert written.log_probability == pytest.approx(best.log_probability, abs=1e-5)


def test_more_beams_are_seldom_worse():
    scores = {}
    for beam_size in (1, 4):
        found = [write(language(seed), START, END, 6, beam_size) for seed in range(40)]
        complete = [w.log_probability for w in found if w.is_complete]
        scores[beam_size] = len(complete), sum(complete) / len(complete)
    assert scores[4] > scores[1]


def test_a_text_that_never_ends_is_cut():
    def forever(texts):
        scores = torch.full((len(texts), SIZE), -torch.inf)
        scores[:, 3] = math.log(0.5)
        return scores

    for beam_size in (1, 3):
        written = write(forever, START, END, 5, beam_size)
        assert written == ([3] * 5, pytest.approx(5 * math.log(0.5)), False)


def test_the_empty_text():
    def silent(texts):
        scores = torch.full((len(texts), SIZE), -20.0)
        scores[:, END] = 0.0
        return scores

    written = write(silent, START, END, 5, beam_size=2)
    assert written == ([], 0.0, True)
    assert written.score(1.0) == 0.0


def test_length_penalty():
    """Two tokens and an end at 0.4 each beat an end at 0.3 only per token."""

    def two_ways(texts):
        rows = []
        for text in texts.tolist():
            ends = 0.3 if len(text) == 1 else 0.4 if len(text) == 3 else 0.01
            rows.append([1e-9, ends, 0.4 if len(text) < 3 else 0.01, 1e-9])
        return torch.tensor(rows).log()

    assert write(two_ways, START, END, 4, 4, length_penalty=0.0).tokens == []
    assert write(two_ways, START, END, 4, 4, length_penalty=1.0).tokens == [2, 2]
