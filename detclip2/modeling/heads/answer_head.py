"""Answers to questions: a classifier of the fused start token (GLIPv2, arXiv 2206.05836)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detclip2.utils.errors import UserError


class AnswerHead(nn.Module):
    """Chooses from a list of answers by the state of the start token after the fusions.

    The paper has a classifier there and does not describe it; this one, of two layers, and its loss
    are those of ViLT (arXiv 2102.03334, sec. 4.2): the binary cross entropy of all answers with
    their scores, summed over answers. A question none of whose answers is in the list makes all
    answers less probable.

    Args:
        answers: A of them, all different; a model answers nothing else.
        text_width: channels of a token.
        weight: of the loss.

    Raises:
        UserError: there is no answer, or one is there twice.
    """

    def __init__(self, answers: Sequence[str], text_width: int = 768, weight: float = 1.0) -> None:
        super().__init__()
        self.answers = tuple(map(str, answers))
        self.index = {answer: i for i, answer in enumerate(self.answers)}
        if not self.answers or len(self.index) < len(self.answers):
            problem = "an answer is there twice" if self.answers else "there is no answer"
            raise UserError(f"model.answer_head.answers: {problem}")
        self.weight = weight
        self.layers = nn.Sequential(
            nn.Linear(text_width, 2 * text_width),
            nn.LayerNorm(2 * text_width),
            nn.GELU(),
            nn.Linear(2 * text_width, len(self.answers)),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T, text_width) fused tokens -> (B, A) logits of answers."""
        return self.layers(tokens[:, 0])

    def losses(
        self, tokens: Tensor, samples: Sequence[Mapping[str, Any]], count: int | None = None
    ) -> dict[str, Tensor]:
        """``loss_answer``, weighted: summed over answers, in the mean over images.

        Args:
            tokens: (B, T, text_width) fused tokens of the questions.
            samples: B of them, each with ``answers``: answer -> its score, 0 to 1.
            count: images of the batch, if the samples are a part of one.
        """
        logits = self(tokens).float()
        targets = torch.zeros_like(logits)
        for row, sample in zip(targets, samples, strict=True):
            for answer, score in sample["answers"].items():
                if answer in self.index and score > 0:  # not NaN
                    row[self.index[answer]] = min(score, 1.0)
        total = F.binary_cross_entropy_with_logits(logits, targets, reduction="sum")
        return {"loss_answer": self.weight * total / (count or len(samples))}

    def best(self, tokens: Tensor, number: int = 5) -> list[dict[str, Any]]:
        """The best answers of each of B images, best first, at most so many.

        Returns:
            ``answers``, and ``probabilities``, each 0 to 1: several answers may be right.
        """
        probabilities = self(tokens).float().sigmoid()
        values, indices = probabilities.topk(min(number, len(self.answers)))
        return [
            {"answers": [self.answers[i] for i in of_image], "probabilities": own}
            for of_image, own in zip(indices.tolist(), values.tolist(), strict=True)
        ]
