"""Precision and recall of extracted noun phrases against gold phrases."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class PhraseScore:
    """Counts over captions (micro): of gold phrases, of found phrases, and of those that match."""

    gold: int
    found: int
    matched: int

    @property
    def precision(self) -> float:
        """Matched share of the found phrases, 0..1; 1 where nothing was found."""
        return self.matched / self.found if self.found else 1.0

    @property
    def recall(self) -> float:
        """Matched share of the gold phrases, 0..1; 1 where there are none."""
        return self.matched / self.gold if self.gold else 1.0

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        total = self.gold + self.found
        return 2 * self.matched / total if total else 1.0


def score_phrases(
    pairs: Iterable[tuple[Sequence[str], Sequence[str]]], heads_only: bool = False
) -> PhraseScore:
    """Score (gold, found) phrases, one pair a caption.

    Args:
        pairs: the phrases of a caption match as multisets of strings.
        heads_only: compare the last word of each phrase only.
    """
    gold_count = found_count = matched = 0
    for gold, found in pairs:
        key = (lambda phrase: phrase.rsplit(" ", 1)[-1]) if heads_only else str
        gold_keys, found_keys = Counter(map(key, gold)), Counter(map(key, found))
        gold_count += gold_keys.total()
        found_count += found_keys.total()
        matched += (gold_keys & found_keys).total()
    return PhraseScore(gold_count, found_count, matched)
