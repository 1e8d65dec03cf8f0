"""Image-text pairs become samples."""

from collections.abc import Callable, Sequence

import numpy as np
from detectron2.data import transforms as T

from detclip2.data.mappers.base import Mapper, Sample
from detclip2.data.records import Record, decode_caption, name_of
from detclip2.data.sample import SkipSample, clean_phrase, unique_phrases
from detclip2.data.skips import SkipCounter


class CaptionMapper(Mapper):
    """Image-text pairs: the whole caption and its noun phrases, and no boxes.

    Args:
        augmentations: Detectron2 augmentations; the paper trains pairs at 320 x 320 (Resize).
        max_phrases: the first so many phrases are kept (the paper leaves it open).
        noun_phrases: caption -> its noun phrases, for records that do not bring ``phrases``;
            ``detclip2.data.text.noun_phrases.extract_noun_phrases`` by default.
        include_caption: whether the whole caption is a phrase too (sec. 3.1 says so, sec. 3.2 is
            silent; hence a switch).
        counter: see :class:`Mapper`.
    """

    source = "caption"

    def __init__(
        self,
        augmentations: Sequence[T.Augmentation] = (),
        max_phrases: int = 32,
        noun_phrases: Callable[[str], list[str]] | None = None,
        include_caption: bool = True,
        counter: SkipCounter | None = None,
    ):
        super().__init__(augmentations, max_phrases, counter)
        self.noun_phrases = noun_phrases or extract_noun_phrases
        self.include_caption = include_caption

    def __call__(self, record: Record, rng: np.random.Generator | None = None) -> Sample:
        """See :meth:`Mapper.__call__`."""
        rng = np.random.default_rng() if rng is None else rng
        # Text first: it is cheap, and spares the reading of an image without a usable caption.
        phrases = self._phrases(record, rng)
        view = self._view(record, rng)
        return self._pack(record, view, phrases, len(phrases))

    def _phrases(self, record: Record, rng: np.random.Generator) -> list[str]:
        captions = record.get("captions") or [record.get("caption", "")]
        chosen = captions[int(rng.integers(len(captions)))]
        caption = clean_phrase(decode_caption(chosen, record))
        if not caption:
            raise SkipSample("caption-empty", name_of(record))
        ready = record.get("phrases") if len(captions) == 1 else None
        nouns = unique_phrases(self.noun_phrases(caption) if ready is None else list(ready))
        # Without a noun phrase ("and so on") there is nothing in the image to point at.
        if not nouns:
            raise SkipSample("caption-without-phrase", f"{name_of(record)}: {caption[:80]!r}")
        return unique_phrases([caption, *nouns] if self.include_caption else nouns)[
            : self.max_phrases
        ]


def extract_noun_phrases(caption: str) -> list[str]:
    """The project's noun phrases, imported when they are first needed."""
    from detclip2.data.text.noun_phrases import extract_noun_phrases as extract

    return extract(caption)
