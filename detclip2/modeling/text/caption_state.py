"""A vocabulary as captions that fit the token limit, encoded once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from detclip2.modeling.text.token_batch import TokenBatch
from detclip2.modeling.text.token_map import (
    Caption,
    Span,
    caption_of_names,
    clean_name,
    mean_weights,
    pack,
    token_map,
)
from detclip2.modeling.text.token_tower import TokenTower
from detclip2.utils.errors import UserError


@runtime_checkable
class PromptedVocabulary(Protocol):
    """The part of `Vocabulary` that a model reads which encodes names together."""

    prompts: Sequence[Sequence[Sequence[str]]]
    """For each label its rows, and for each row its prompts."""


@runtime_checkable
class CaptionedVocabulary(Protocol):
    """The part of `CaptionPhrases` that a model reads which encodes captions."""

    caption: str
    spans: Sequence[Sequence[Span]]
    """For each of C phrases its [begin, end) pairs of characters of the caption."""


NamedVocabulary: TypeAlias = Sequence[str] | PromptedVocabulary | CaptionedVocabulary
"""C names, a `Vocabulary`, or `CaptionPhrases`."""


@dataclass
class EncodedCaption:
    """A caption, and the columns of its scores: one for each label that it has a name of."""

    text: str
    states: Tensor
    """(1, T, width) states of its tokens, before fusion."""
    weights: Tensor
    """(T, P) for each column the weights of tokens, which sum to 1: 1 / n for each of n tokens."""
    labels: Tensor
    """(P,) int64 in [0, C), the label of each column."""

    def repeated(self, batch_size: int) -> TokenBatch:
        """The caption as the text of each of B images."""
        states = self.states.expand(batch_size, -1, -1)
        mask = torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
        return TokenBatch(states, mask, [], [])


class CaptionState:
    """A vocabulary of C labels, prepared for inference.

    Args:
        captions: hold all names.
        num_labels: C.
    """

    def __init__(self, captions: list[EncodedCaption], num_labels: int) -> None:
        self.captions = captions
        self.num_labels = num_labels

    def __len__(self) -> int:
        """C, the number of labels."""
        return self.num_labels


@torch.no_grad()
def encode_names(
    names: Sequence[str], label_of_name: Tensor | None, tower: TokenTower, most: int | None
) -> CaptionState:
    """Write names into as few captions as fit, and encode these.

    A name that occurs several times is in the captions once. A name without tokens is in none, and
    one with unknown tokens alone has no scores: its label, unless it has other names, is never
    detected.

    Args:
        names: R names.
        label_of_name: (R,) int64 in [0, C), the label of each name; None: name c is label c.
        tower: encodes captions.
        most: names of a caption; None: as many as fit.
    """
    labels = range(len(names)) if label_of_name is None else label_of_name.tolist()
    labels_of: dict[str, dict[int, None]] = {}
    for name, label in zip(names, labels, strict=True):
        labels_of.setdefault(clean_name(name), {})[label] = None
    distinct = list(labels_of)
    lengths = tower.num_tokens(distinct)
    real = [i for i, length in enumerate(lengths) if length > 0]
    captions = []
    for part in pack([lengths[i] for i in real], tower.max_own_tokens, most):
        own = [distinct[real[i]] for i in part]
        columns = [(m, label) for m, name in enumerate(own) for label in labels_of[name]]
        captions.append(_encode(caption_of_names(own), columns, tower))
    return CaptionState(captions, max(labels, default=-1) + 1)


@torch.no_grad()
def encode_caption(vocabulary: CaptionedVocabulary, tower: TokenTower) -> CaptionState:
    """Encode a caption; each of its C phrases is a label.

    Args:
        vocabulary: the caption, and the spans of at least one phrase.
        tower: encodes captions.

    Raises:
        UserError: the caption has more tokens than the tower reads.
    """
    [length] = tower.num_tokens([vocabulary.caption])
    if length > tower.max_own_tokens:
        raise UserError(
            f"the caption {vocabulary.caption[:80]!r}... has {length} tokens, and this model reads "
            f"at most {tower.max_own_tokens} at once: shorten it, or give its phrases as names"
        )
    count = len(vocabulary.spans)
    spans = [[(begin, end) for begin, end in pairs] for pairs in vocabulary.spans]
    caption = Caption(vocabulary.caption, spans)
    return CaptionState([_encode(caption, [(m, m) for m in range(count)], tower)], count)


def _encode(caption: Caption, columns: list[tuple[int, int]], tower: TokenTower) -> EncodedCaption:
    """A caption with (phrase, label) pairs."""
    was_training = tower.training
    tower.eval()
    try:
        tokens = tower.tokenize([caption.text])
        states = tower.encode(tokens)
    finally:
        tower.train(was_training)
    tokens_of = token_map(caption.spans, tokens["offset_mapping"][0])
    # A phrase of unknown tokens alone would have the scores of any other one.
    known = tokens["input_ids"][0] != tower.unknown_token
    tokens_of &= (tokens_of & known).any(dim=1, keepdim=True)
    phrase, label = torch.tensor(columns, device=states.device).unbind(1)
    weights = mean_weights(tokens_of)[:, phrase].to(states.dtype)
    return EncodedCaption(caption.text, states, weights, label)


def names_and_labels(
    vocabulary: Any, label_of_row: Tensor | None = None
) -> tuple[list[str], Tensor | None]:
    """R names, and the label of each; None if name c is label c.

    Each prompt of a `Vocabulary` is a name of its label, also where a model that encodes phrases
    apart would average them: GLIP has no embeddings to average, so a label has the detections of
    each of its names.

    Raises:
        UserError: the vocabulary has embeddings only.
    """
    if isinstance(vocabulary, PromptedVocabulary):
        pairs = [
            (prompt, label)
            for label, rows in enumerate(vocabulary.prompts)
            for row in rows
            for prompt in row
        ]
        return [name for name, _ in pairs], torch.tensor([label for _, label in pairs])
    if isinstance(vocabulary, Tensor):
        raise UserError(
            "this model reads the names of a vocabulary, not embeddings: give it names, or a "
            "vocabulary with names"
        )
    return list(vocabulary), label_of_row
