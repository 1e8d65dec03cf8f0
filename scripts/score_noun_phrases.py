"""Precision and recall of the noun phrase extraction on the gold phrases.

    python scripts/score_noun_phrases.py [--backend rules] [--cc3m cc3m_val.tsv] [--show]

Prints a table (markdown): by split and source, exact match of the phrase and match of its last
word. The CC3M captions are not part of the project: without --cc3m only COCO's are scored.
"""

import argparse
import json
import time
from collections import defaultdict
from pathlib import Path

from detclip2.data.text.noun_phrases import extract_noun_phrases
from detclip2.data.text.noun_phrases.scoring import score_phrases

GOLD = (
    Path(__file__).resolve().parent.parent / "tests" / "data" / "text" / "gold_noun_phrases.jsonl"
)


def main() -> None:
    """Score, and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--gold", type=Path, default=GOLD)
    parser.add_argument("--cc3m", type=Path, help="CC3M's validation tsv (its first 300 lines do)")
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
        # Only those: the other splits are for measuring, and nobody should learn from them.
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
