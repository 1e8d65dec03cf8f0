"""The mapper of grounding records."""

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.data import transforms as T

from detclip2.data.mappers.base import Mapper, Sample, draw
from detclip2.data.mappers.records import Record, decode_caption, given_phrases, name_of
from detclip2.data.sample import TEXT_KEYS, SkipSample
from detclip2.data.skips import SkipCounter
from detclip2.data.text.clean import clean_phrase, unique_phrases
from detclip2.data.text.concepts import ConceptDictionary
from detclip2.data.text.spans import join_spans, read_spans, readable, spans_of_phrases

# Negative captions of GLIP: the share of samples without any, and the most of a sample.
NO_CAPTIONS, MOST_CAPTIONS = 0.4, 20


class GroundingMapper(Mapper):
    """Makes samples of grounding records: phrases with boxes, and negatives from a dictionary.

    A box of several phrases becomes one instance of each. A phrase with a box that is invalid or a
    crowd region is listed in ``not_exhaustive``.

    Args:
        augmentations: Detectron2 augmentations. A flip makes "left" wrong: use none, or accept
            it as the field does.
        max_phrases: positives and negatives together, 100 in the paper.
        negatives: a ConceptDictionary, or a list of phrases for one; None for no negatives.
            A negative is never a positive or a phrase of the caption.
        other_captions: captions to draw negatives from for a model that reads captions whole, as
            GLIP does for captions of the web: none in 40 % of the samples, 20 in 30 %, and 0 to 19
            in the others. A sample then keeps its "phrase_spans".
        exhaustive: whether each phrase has a box wherever it is in the image. If not, as for boxes
            of a teacher, no region is a negative for the positives.
        counter: see `Mapper`.
        keep: see `Mapper`. The caption is that of the record, with a space for each control
            character, so that spans stay valid. Spans are the annotations' ``tokens_positive``; for
            a phrase without any, its literal occurrences in the caption.
    """

    supervision = "grounding"
    keepable = ("caption", "phrase_spans", "gt_masks", *TEXT_KEYS)

    def __init__(
        self,
        augmentations: Sequence[T.Augmentation] = (),
        max_phrases: int = 100,
        negatives: ConceptDictionary | Sequence[str] | None = None,
        other_captions: Sequence[str] | None = None,
        exhaustive: bool = True,
        counter: SkipCounter | None = None,
        keep: Sequence[str] = (),
    ):
        if other_captions is not None:
            keep = [*keep, "phrase_spans"]
        super().__init__(augmentations, max_phrases, counter, keep)
        self.other_captions = other_captions
        self.exhaustive = exhaustive
        if negatives is not None and not isinstance(negatives, ConceptDictionary):
            negatives = ConceptDictionary.from_names(negatives)
        self.negatives = negatives

    def __call__(self, record: Record, rng: np.random.Generator | None = None) -> Sample:
        """See `Mapper.__call__`."""
        rng = np.random.default_rng() if rng is None else rng
        if not any(given_phrases(a, record) for a in record.get("annotations", ())):
            raise SkipSample("caption-without-phrase", f"{name_of(record)}: no phrase has a box")
        view = self._view(record, rng)
        boxed, unboxed = self._boxes(record, view)
        spelling: dict[str, str] = {}  # "A Dog" and "a dog" are one phrase, as first written

        def phrases_of(annotation: Any) -> list[str]:
            phrases = unique_phrases(given_phrases(annotation, record) or [])
            return [spelling.setdefault(phrase.casefold(), phrase) for phrase in phrases]

        labelled = [(phrases_of(annotation), moved) for annotation, moved in boxed]
        incomplete = {p for annotation in unboxed for p in phrases_of(annotation)}
        positives, instances = self._label(record, view, labelled, sorted(incomplete), rng)
        if not positives:
            raise SkipSample("caption-without-phrase", f"{name_of(record)}: no phrase has a box")
        negatives: list[str] = []
        if self.negatives is not None:
            for annotation in record["annotations"]:
                phrases_of(annotation)
            caption = clean_phrase(decode_caption(record.get("caption", ""), record))
            negatives = self.negatives.sample_negatives(
                rng, self.max_phrases - len(positives), exclude=[*spelling.values(), caption]
            )
        not_exhaustive = [
            i for i, phrase in enumerate(positives) if phrase in incomplete or not self.exhaustive
        ]
        sample = self._pack(
            record, view, positives + negatives, len(positives), not_exhaustive=not_exhaustive
        )
        sample = {**sample, "instances": instances, **self._caption(record, positives)}
        if self.other_captions is not None:
            sample["other_captions"] = self._draw_captions(sample["caption"], rng)
        return sample

    def _caption(self, record: Record, positives: list[str]) -> Sample:
        """The caption and the spans of the positive phrases in it, if `keep` asks for them."""
        if "caption" not in self.keep:
            return {}
        caption = readable(decode_caption(record.get("caption", ""), record))
        if "phrase_spans" not in self.keep:
            return {"caption": caption}
        marked: set[tuple[int, int]] = set()
        for annotation in record["annotations"]:
            valid, invalid = read_spans(annotation.get("tokens_positive"), caption)
            if invalid:
                self.counter.add("span-outside", f"{name_of(record)}: {invalid[0]}", len(invalid))
            marked.update(join_spans(caption, valid))
        spans_of = spans_of_phrases(caption, positives, sorted(marked))
        return {"caption": caption, "phrase_spans": spans_of}

    def _draw_captions(self, own: str, rng: np.random.Generator) -> list[str]:
        """Captions of other images; those that are not valid or equal the own one are skipped."""
        assert self.other_captions is not None
        chance, number = rng.random(), 0
        if chance >= NO_CAPTIONS:
            full = chance < NO_CAPTIONS + (1 - NO_CAPTIONS) / 2
            number = MOST_CAPTIONS if full else int(rng.integers(MOST_CAPTIONS))
        found = []
        for i in draw(rng, len(self.other_captions), number):
            with contextlib.suppress(SkipSample):
                caption = readable(self.other_captions[i])
                if caption.strip() and caption != own:
                    found.append(caption)
        return found
