"""Precision and recall of noun phrase extraction on the gold phrases.

    python scripts/score_noun_phrases.py [--backend rules] [--cc3m cc3m_val.tsv] [--show]

Prints a table (markdown): by split and source, exact match of the phrase and match of its last
word. The CC3M captions are not part of the project: without --cc3m only COCO's are scored.
"""

import argparse
import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from detclip2.data.text.noun_phrases import extract_noun_phrases

GOLD = (
    Path(__file__).resolve().parent.parent / "tests" / "data" / "text" / "gold_noun_phrases.jsonl"
)


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


def main() -> None:
    """Score, and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--gold", type=Path, default=GOLD)
    parser.add_argument(
        "--cc3m", type=Path, help="CC3M's validation tsv (its first 300 lines suffice)"
    )
    parser.add_argument("--backend", choices=("auto", "spacy", "rules"), default="rules")
    parser.add_argument("--show", action="store_true", help="print the dev captions that differ")
    args = parser.parse_args()

    rows = args.cc3m.read_text("utf-8").splitlines() if args.cc3m else []
    results = defaultdict(list)
    captions = []
    for line in args.gold.read_text("utf-8").splitlines():
        item = json.loads(line)
        if "row" in item and not rows:
            continue
        caption = item.get("caption") or rows[item["row"] - 1].split("\t")[0]
        captions.append(caption)
        found = extract_noun_phrases(caption, args.backend)
        for source in (item["source"], "all"):
            results[item["split"], source].append((item["phrases"], found))
        # Only this split: the others are for measuring, not for development.
        if args.show and item["split"] == "dev" and found != item["phrases"]:
            print(f"{caption}\n  gold  {item['phrases']}\n  found {found}")

    print("| split | source | captions | gold | precision | recall | head P | head R |")
    print("|---|---|---|---|---|---|---|---|")
    for (split, source), pairs in sorted(results.items()):
        exact, head = score_phrases(pairs), score_phrases(pairs, heads_only=True)
        print(
            f"| {split} | {source} | {len(pairs)} | {exact.gold} | {exact.precision:.3f} "
            f"| {exact.recall:.3f} | {head.precision:.3f} | {head.recall:.3f} |"
        )

    start, repeats = time.process_time(), 10
    for _ in range(repeats):
        for caption in captions:
            extract_noun_phrases(caption, args.backend)
    rate = repeats * len(captions) / (time.process_time() - start)
    words = sum(len(caption.split()) for caption in captions) / len(captions)
    print(f"\n{rate:,.0f} captions a second on one core ({words:.1f} words each)")


if __name__ == "__main__":
    main()
