"""Texts that are written token by token: the likeliest ones by greedy and by beam search."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

NextToken: TypeAlias = Callable[[Tensor], Tensor]
"""(N, T) int64, N texts of T tokens -> (N, V) log-probabilities of the token after each."""


class Written(NamedTuple):
    """A text."""

    tokens: list[int]
    """Without the start and the end."""
    log_probability: float
    """Of the tokens and, if the text is complete, its end."""
    is_complete: bool
    """Whether it has an end; False if it was cut at the limit."""

    def score(self, length_penalty: float) -> float:
        """The log-probability divided by the number of tokens to this power."""
        number = len(self.tokens) + self.is_complete
        return self.log_probability / max(number, 1) ** length_penalty


def write(
    next_token: NextToken,
    start: int,
    end: int,
    max_tokens: int,
    beam_size: int = 1,
    length_penalty: float = 0.0,
    device: torch.device | str = "cpu",
) -> Written:
    """The likeliest text that a beam search finds; with one beam, the search is greedy.

    The ``beam_size`` likeliest texts are continued by every token, and the likeliest ``beam_size``
    results are kept; those that end are set aside. The search stops when so many texts have ended,
    or at the limit. A text without an end is the result only if none has one.

    Args:
        next_token: the model.
        start: the first token of all texts.
        end: the token after the last one.
        max_tokens: the most tokens of a text, without start and end, at least 1.
        beam_size: texts that are kept, at least 1.
        length_penalty: see `Written.score`, which decides between complete texts: 0 prefers short
            ones, 1 long ones.
        device: of the tokens.
    """
    texts = torch.full((1, 1), start, dtype=torch.int64, device=device)
    scores = torch.zeros(1, device=device)
    complete: list[Written] = []
    for length in range(max_tokens + 1):
        candidates = scores[:, None] + next_token(texts).float()  # (N, V)
        best, places = candidates.flatten().topk(min(beam_size, candidates.numel()))
        best, places = best[best.isfinite()], places[best.isfinite()]
        row, token = places // candidates.shape[1], places % candidates.shape[1]
        ends = token == end
        for text, score in zip(texts[row[ends]].tolist(), best[ends].tolist(), strict=True):
            complete.append(Written(text[1:], score, True))
        if len(complete) >= beam_size or bool(ends.all()) or length == max_tokens:
            break
        texts = torch.cat([texts[row[~ends]], token[~ends, None]], dim=1)
        scores = best[~ends]
    if complete:
        return max(complete, key=lambda written: written.score(length_penalty))
    return Written(texts[0, 1:].tolist(), float(scores[0]), False)
