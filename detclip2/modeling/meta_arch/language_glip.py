"""GLIP with tasks of language: masked words, answers to questions, captions."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from detclip2.modeling.heads.answer_head import AnswerHead
from detclip2.modeling.heads.caption_head import CaptionHead
from detclip2.modeling.losses.masked_language import MaskedLanguage
from detclip2.modeling.meta_arch.mask_glip import MaskGLIP
from detclip2.modeling.protocol import Sample
from detclip2.modeling.text.generation import NextToken
from detclip2.modeling.text.masked_words import MaskedWords
from detclip2.utils.errors import UserError


class LanguageGLIP(MaskGLIP):
    """The tasks of language of `GLIPv2`, in evaluation. All read the tokens after the fusions.

    Args:
        masked_language: predicts masked words of captions; None: the model predicts none.
        answer_head: fused questions to answers; None: the model answers none.
        caption_head: writes captions, with the output layer of ``masked_language``; None: the model
            writes none.
        **glip: the arguments of `GLIP` and `MaskGLIP`.

    Raises:
        UserError: a head is given without what it needs.
    """

    def __init__(
        self,
        *,
        masked_language: MaskedLanguage | None = None,
        answer_head: AnswerHead | None = None,
        caption_head: CaptionHead | None = None,
        **glip: Any,
    ) -> None:
        super().__init__(**glip)
        self.masked_language = masked_language
        self.answer_head = answer_head
        self.caption_head = caption_head
        if caption_head is not None:
            self._part("masked_language")
        if (answer_head or caption_head) and not self.head.reads_text:
            raise UserError("model.head.fuse is False: answers and captions would see no image")

    def _part(self, name: str) -> Any:
        """An optional part.

        Raises:
            UserError: the model does not have it.
        """
        if (part := getattr(self, name)) is None:
            raise UserError(f"the model has no {name}: this needs one, as model.{name} of a config")
        return part

    def forward(self, samples: list[Sample]) -> Any:
        """As GLIP; in evaluation, what the samples ask for by their keys.

        - ``masked_spans``: {"words": list of str, "words_without_image": list of str}, one word for
          each span, from ``image`` and ``caption``.
        - ``supervision`` "vqa" or "captioning": what `answer` and `caption` return.
        """
        if self.training or not samples:
            return super().forward(samples)
        if "masked_spans" in samples[0]:
            seen, blind = self.fill_masks(samples), self.fill_masks(samples, blank=True)
            return [
                {"words": words, "words_without_image": guessed}
                for words, guessed in zip(seen, blind, strict=True)
            ]
        tasks = {"vqa": self.answer, "captioning": self.caption}
        return tasks.get(samples[0].get("supervision", ""), super().forward)(samples)

    def word_logits(self, states: Tensor) -> Tensor:
        """(..., width) fused states -> (..., V) logits of words."""
        words = self._part("masked_language")
        return words.logits(states, self.text_encoder.word_embeddings)

    @torch.no_grad()
    def answer(self, samples: Sequence[Sample]) -> list[dict[str, Any]]:
        """Answer questions.

        Args:
            samples: each has ``image``, ``question`` and the supervision "vqa".

        Returns:
            For each sample ``answers``, best first, ``probabilities``, and ``is_whole``, False for
            a question that was cut.

        Raises:
            UserError: the model has no `answer_head`.
        """
        head, tower = self._part("answer_head"), self.text_encoder

        def run(members: list[int]) -> list[dict[str, Any]]:
            group = [samples[i] for i in members]
            text = self.encode_text(group)
            outputs = self.encode_images(self.preprocess_image(group), text)
            best = head.best(self.fused_states(outputs, text))
            lengths = tower.num_tokens([sample["question"] for sample in group])
            return [
                {**answers, "is_whole": length <= tower.max_own_tokens}
                for answers, length in zip(best, lengths, strict=True)
            ]

        return self.by_size(samples, run)

    @torch.no_grad()
    def caption(
        self, samples: Sequence[Sample], beam_size: int | None = None
    ) -> list[dict[str, Any]]:
        """Write captions.

        Args:
            samples: each has ``image``.
            beam_size: None: that of `caption_head`.

        Returns:
            For each sample ``caption``, ``log_probability`` and ``is_complete``.

        Raises:
            UserError: the model has no `caption_head`.
        """
        head, tower = self._part("caption_head"), self.text_encoder

        def run(members: list[int]) -> list[dict[str, Any]]:
            group = [samples[i] for i in members]
            # Images do not attend to captions: what each block reads of one is computed once.
            read = self.head.locations(self.pyramid(self.preprocess_image(group)))
            return [
                head.write(self._next_token([x[b : b + 1] for x in read]), tower, beam_size)
                for b in range(len(group))
            ]

        return self.by_size(samples, run)

    def _next_token(self, locations: list[Tensor]) -> NextToken:
        """The probabilities of words in the caption of one image, from `GLIPHead.locations`."""

        def next_token(texts: Tensor) -> Tensor:
            mask, special = torch.ones_like(texts), torch.zeros_like(texts)
            special[:, 0] = 1  # the start
            tokens = {"input_ids": texts, "attention_mask": mask, "special_tokens_mask": special}
            states = self.text_encoder.encode(tokens, is_causal=True)
            read = [x.expand(len(texts), -1, -1) for x in locations]
            fused = self.head.read(read, states, mask.bool())
            return self.word_logits(fused[:, -1]).float().log_softmax(dim=1)

        return next_token

    @torch.no_grad()
    def fill_masks(self, samples: Sequence[Sample], blank: bool = False) -> list[list[str]]:
        """Predict masked words of captions, from the other words and the image.

        Args:
            samples: each has ``image``, ``caption``, and ``masked_spans``, [begin, end) pairs of
                characters of the caption.
            blank: whether to see an image of the mean colour instead.

        Returns:
            For each sample a text for each span, of as many tokens as the masked word has.

        Raises:
            UserError: the model has no `masked_language`, or its tokenizer no mask token.
        """

        def run(members: list[int]) -> list[list[str]]:
            group = [samples[i] for i in members]
            masked = MaskedWords.from_samples(group, self.text_encoder)
            images = self.preprocess_image(group)
            if blank:
                images.tensor.zero_()
            states = self.fused_states(self.encode_images(images, masked.text), masked.text)
            return masked.words(self.word_logits(states).argmax(dim=-1))

        self._part("masked_language")
        return self.by_size(samples, run)
