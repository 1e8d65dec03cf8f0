"""What a call of the predictor computes before its model runs, for callers that do it apart."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from detclip2.inference.vocabulary import Vocabulary


class PreparedVocabulary(NamedTuple):
    """A vocabulary that a predictor has encoded, for any number of its calls."""

    vocabulary: Vocabulary
    state: Any
    """The model's, of ``prepare_vocabulary``."""


@dataclass(frozen=True)
class ReadyImage:
    """An image as a model sees it; `OpenVocabularyPredictor.ready` makes it, also in a thread."""

    image: torch.Tensor
    """(3, h, w) uint8 RGB, resized."""
    height: int
    """Of the original, px, as the boxes."""
    width: int
