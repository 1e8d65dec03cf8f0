"""The mapper of image-text pairs."""

from collections.abc import Callable, Sequence

import numpy as np
from detectron2.data import transforms as T

from detclip2.data.mappers.base import Mapper, Sample
from detclip2.data.mappers.records import Record, decode_caption, given_phrases, name_of
from detclip2.data.sample import TEXT_KEYS, SkipSample
from detclip2.data.skips import SkipCounter
from detclip2.data.text.clean import clean_phrase, unique_phrases
from detclip2.data.text.spans import spans_of_phrases


class CaptionMapper(Mapper):
    """Makes samples of image-text pairs: the caption and its noun phrases, and no boxes.

    Args:
        augmentations: Detectron2 augmentations; the paper resizes image-text pairs to 320 x 320.
        max_phrases: number of phrases to keep, the first ones (the paper does not state it).
        noun_phrases: caption -> its noun phrases, for records without ``phrases``;
            ``detclip2.data.text.noun_phrases.extract_noun_phrases`` by default.
        include_caption: whether the whole caption is a phrase too (sec. 3.1 says so; sec. 3.2 does
            not mention it).
        counter: see `Mapper`.
        keep: see `Mapper`. The caption is the one that was drawn, cleaned.
    """

    supervision = "caption"
    keepable = ("caption", "phrase_spans", *TEXT_KEYS)

    def __init__(
        self,
        augmentations: Sequence[T.Augmentation] = (),
        max_phrases: int = 32,
        noun_phrases: Callable[[str], list[str]] | None = None,
        include_caption: bool = True,
        counter: SkipCounter | None = None,
        keep: Sequence[str] = (),
    ):
        super().__init__(augmentations, max_phrases, counter, keep)
        self.noun_phrases = noun_phrases or extract_noun_phrases
        self.include_caption = include_caption

    def __call__(self, record: Record, rng: np.random.Generator | None = None) -> Sample:
        """See `Mapper.__call__`."""
        rng = np.random.default_rng() if rng is None else rng
        # Text first: it is cheap, and images without a valid caption need not be read.
        caption, phrases = self._phrases(record, rng)
        view = self._view(record, rng)
        sample = self._pack(record, view, phrases, len(phrases))
        if "caption" in self.keep:
            sample["caption"] = caption
        if "phrase_spans" in self.keep:
            sample["phrase_spans"] = spans_of_phrases(caption, phrases)
        return sample

    def _phrases(self, record: Record, rng: np.random.Generator) -> tuple[str, list[str]]:
        """The caption and the phrases of the sample."""
        captions = record.get("captions") or [record.get("caption", "")]
        chosen = captions[int(rng.integers(len(captions)))]
        caption = clean_phrase(decode_caption(chosen, record))
        if not caption:
            raise SkipSample("caption-empty", name_of(record))
        ready = given_phrases(record, record) if len(captions) == 1 else None
        nouns = unique_phrases(self.noun_phrases(caption) if ready is None else ready)
        # A caption without a noun phrase ("and so on") names nothing in the image.
        if not nouns:
            raise SkipSample("caption-without-phrase", f"{name_of(record)}: {caption[:80]!r}")
        if self.include_caption:
            own = caption.casefold()
            nouns = [caption, *(noun for noun in nouns if noun.casefold() != own)]
        return caption, nouns[: self.max_phrases]


def extract_noun_phrases(caption: str) -> list[str]:
    """The project's noun phrases of a caption; the import waits until the first call."""
    from detclip2.data.text.noun_phrases import extract_noun_phrases as extract

    return extract(caption)
