"""GLIPv2 (arXiv 2206.05836): GLIP with losses and heads for language, masks and answers."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor

from detclip2.modeling.batching import PIXELS_AT_ONCE, same_size_groups
from detclip2.modeling.heads.answer_head import AnswerHead
from detclip2.modeling.heads.caption_head import CaptionHead
from detclip2.modeling.heads.outputs import HeadOutputs
from detclip2.modeling.losses.masked_language import MaskedLanguage
from detclip2.modeling.losses.region_word_contrast import BoxedRegions, RegionWordContrast
from detclip2.modeling.meta_arch.mask_glip import MaskGLIP
from detclip2.modeling.protocol import Losses, Sample
from detclip2.modeling.supervision import supervision_of
from detclip2.modeling.text.generation import NextToken
from detclip2.modeling.text.masked_words import MaskedWords
from detclip2.modeling.text.token_batch import TokenBatch
from detclip2.utils.errors import UserError


@META_ARCH_REGISTRY.register()
class GLIPv2(MaskGLIP):
    """One set of weights for localisation and understanding.

    L = L_loc + L_intra + L_inter + L_mlm (sec. 3.2): the first two are GLIP's losses, the others
    those of its parts. Without its optional parts it is GLIP.

    Args:
        region_word_contrast: L_inter, regions and words of different images; None: no such loss.
        masked_language: L_mlm, words that are masked in captions; None: no such loss.
        answer_head: fused questions to answers; None: the model answers none.
        caption_head: writes captions, with the output layer of ``masked_language``; None: the model
            writes none.
        **glip: the arguments of `GLIP`, and of `MaskGLIP`, which has the masks.

    Raises:
        UserError: a head is given without what it needs.
    """

    def __init__(
        self,
        *,
        region_word_contrast: RegionWordContrast | None = None,
        masked_language: MaskedLanguage | None = None,
        answer_head: AnswerHead | None = None,
        caption_head: CaptionHead | None = None,
        **glip: Any,
    ) -> None:
        super().__init__(**glip)
        self.region_word_contrast = region_word_contrast
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

    def encode_text(self, samples: Sequence[Sample]) -> TokenBatch:
        """One caption for each sample; in training on boxes, some of its words are masked."""
        masking = None
        if self.training and self.masked_language is not None and self._has_boxes(samples):
            masking = self.masked_language.mask
        shuffle = self.training and self.shuffle
        return TokenBatch.from_samples(samples, self.text_encoder, shuffle, masking)

    def image_losses(
        self,
        outputs: HeadOutputs,
        text: TokenBatch,
        samples: Sequence[Sample],
        counts: Any = None,
    ) -> Losses:
        """L_loc and L_intra, as in GLIP, and L_mlm, on the same masked captions.

        Or the loss of answers, or of captions to write.
        """
        states = self.fused_states(outputs, text)
        kind = supervision_of(samples)
        if kind == "vqa":
            return self._part("answer_head").losses(states, samples, counts)
        if kind == "captioning":
            counts = self.loss_counts(outputs, text, samples) if counts is None else counts
            head = self._part("caption_head")
            return head.losses(self.word_logits, states, text.targets, counts)
        of_boxes, masked = counts or (None, None)
        losses = super().image_losses(outputs, text, samples, of_boxes)
        if self.masked_language is not None and text.targets is not None:
            embeddings = self.text_encoder.word_embeddings
            losses |= self.masked_language(states, text.targets, embeddings, masked)
        return losses

    def loss_counts(self, outputs: HeadOutputs, text: TokenBatch, samples: Sequence[Sample]) -> Any:
        """Those of GLIP, and the number of masked tokens, over all processes.

        Of questions their number, and of captions to write that of their tokens.
        """
        kind = supervision_of(samples)
        if kind == "vqa":
            return len(samples)
        masked = None if text.targets is None else MaskedLanguage.count(text.targets)
        if kind == "captioning":
            return masked
        return super().loss_counts(outputs, text, samples), masked

    def has_contrast(self, samples: Sequence[Sample]) -> bool:
        """Whether there is L_inter, on data with boxes."""
        return self.region_word_contrast is not None and self._has_boxes(samples)

    def contrast_regions(
        self, outputs: HeadOutputs, text: TokenBatch, samples: Sequence[Sample]
    ) -> BoxedRegions:
        """Positive anchors of each image, before fusion."""
        targets = self.box_losses.assign(outputs, text, samples)
        return self._contrast.regions(outputs, targets, text)

    def contrast_losses(self, regions: BoxedRegions, text: TokenBatch) -> Losses:
        """L_inter: each region over the words of all images, and each word over their regions."""
        return self._contrast.losses(regions, text)

    @property
    def _contrast(self) -> RegionWordContrast:
        assert self.region_word_contrast is not None
        return self.region_word_contrast

    def _has_boxes(self, samples: Sequence[Sample]) -> bool:
        return not self.train_only and supervision_of(samples) in self.box_losses.supervisions

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

        def run(group: list[Sample]) -> list[dict[str, Any]]:
            text = self.encode_text(group)
            outputs = self.encode_images(self.preprocess_image(group), text)
            best = head.best(self.fused_states(outputs, text))
            lengths = tower.num_tokens([sample["question"] for sample in group])
            return [
                {**answers, "is_whole": length <= tower.max_own_tokens}
                for answers, length in zip(best, lengths, strict=True)
            ]

        return self._by_size(samples, run)

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

        def run(group: list[Sample]) -> list[dict[str, Any]]:
            # Images do not attend to captions: what each block reads of one is computed once.
            read = self.head.locations(self.pyramid(self.preprocess_image(group)))
            return [
                head.write(self._next_token([x[b : b + 1] for x in read]), tower, beam_size)
                for b in range(len(group))
            ]

        return self._by_size(samples, run)

    def _next_token(self, locations: list[Tensor]) -> NextToken:
        """The probabilities of words in the caption of one image, from `GLIPHead.locations`."""

        def next_token(texts: Tensor) -> Tensor:
            mask = torch.ones_like(texts)
            tokens = {"input_ids": texts, "attention_mask": mask}
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

        def run(group: list[Sample]) -> list[list[str]]:
            masked = MaskedWords.from_samples(group, self.text_encoder)
            images = self.preprocess_image(group)
            if blank:
                images.tensor.zero_()
            states = self.fused_states(self.encode_images(images, masked.text), masked.text)
            return masked.words(self.word_logits(states).argmax(dim=-1))

        self._part("masked_language")
        return self._by_size(samples, run)

    def _by_size(
        self, samples: Sequence[Sample], run: Callable[[list[Sample]], list[Any]]
    ) -> list[Any]:
        """The results of ``run``, called for samples of one padded size at a time."""
        found: dict[int, Any] = {}
        limit = PIXELS_AT_ONCE.get(self.device.type)
        for members in same_size_groups(samples, self.backbone.size_divisibility, limit):
            found.update(zip(members, run([samples[i] for i in members]), strict=True))
        return [found[i] for i in range(len(samples))]
