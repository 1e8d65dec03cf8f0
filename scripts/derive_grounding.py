r"""Derive grounding data from captions and boxes of the same images, by rule.

    python scripts/derive_grounding.py --output grounding_train.json \
        --instances instances_train2017.json --captions captions_train2017.json \
        [--dictionary concepts.jsonl] [--ambiguous all]

Writes an MDETR json, one image entry a caption, that ``mdetr_records`` reads. It is no human
annotation: ``info.rule_derived`` says so, and the rule is

1. the noun phrases of the caption are extracted;
2. a phrase belongs to a category of the image if it ends in its name, or a synonym from
   --dictionary, in singular or plural ("two large dogs": dog);
3. a plural belongs to all boxes of the category; a singular to the only one. A singular where
   there are several boxes is skipped, because it is not known which is meant
   (--ambiguous all takes them all).

Crowd regions keep ``iscrowd``: a mapper then knows that not all instances are boxed.
"""

import argparse
import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from detclip2.data.io.coco_json import read_json
from detclip2.data.text.concepts import Concept, ConceptDictionary, variants, words_of
from detclip2.data.text.noun_phrases import extract_noun_phrases
from detclip2.utils.errors import UserError

Box = dict[str, Any]


def category_dictionary(
    categories: list[dict[str, Any]], known: ConceptDictionary | None
) -> tuple[ConceptDictionary, dict[str, int]]:
    """The categories as concepts, with the synonyms that `known` has; and name -> category id."""
    concepts, ids = [], {}
    for category in categories:
        name = str(category.get("name") or "").replace("_", " ")
        if name and name.casefold() not in ids:
            ids[name.casefold()] = category["id"]
            entry = known.lookup(name) if known else None
            concepts.append(Concept(name, synonyms=entry.names if entry else ()))
    return ConceptDictionary(concepts), ids


def match_phrase(phrase: str, names: ConceptDictionary) -> tuple[Concept, bool] | None:
    """The category that a phrase ends in, by its longest name, and whether it is in the plural."""
    words = words_of(phrase)
    for start in range(len(words)):
        concept = names.lookup(" ".join(words[start:]))
        if concept is not None:
            spelled = {words_of(name) for name in concept.names}
            plural = any(form in spelled for form in variants(words[start:])[1:])
            own_plural = words[-1].endswith("s") and not words[-1].endswith(("ss", "us"))
            return concept, plural or own_plural
    return None


def ground_caption(
    caption: str,
    boxes: Mapping[int, list[Box]],
    names: ConceptDictionary,
    ids: Mapping[str, int],
    take_all: bool = False,
) -> Iterator[tuple[tuple[int, int], list[Box]]]:
    """Character spans [begin, end) of the caption's phrases that have boxes, with these.

    Args:
        caption: the text.
        boxes: category id -> annotations of the image.
        names: the categories.
        ids: name (in lower case) -> category id.
        take_all: whether a singular takes all boxes where there are several.
    """
    position = 0
    for phrase in extract_noun_phrases(caption):
        pattern = r"\W+".join(map(re.escape, re.findall(r"\w+", phrase)))
        found = re.compile(pattern, re.IGNORECASE).search(caption, position) if pattern else None
        match = match_phrase(phrase, names)
        if found is None or match is None:
            continue
        position = found.end()
        concept, plural = match
        candidates = boxes.get(ids[concept.name.casefold()], [])
        if candidates and (plural or take_all or len(candidates) == 1):
            yield found.span(), candidates


def derive(
    instances: dict[str, Any],
    captions: dict[str, Any],
    known: ConceptDictionary | None = None,
    take_all: bool = False,
) -> dict[str, Any]:
    """The MDETR json of an instances json and a captions json over the same images."""
    names, ids = category_dictionary(instances["categories"], known)
    images = {image["id"]: image for image in instances["images"]}
    boxes: dict[Any, dict[int, list[Box]]] = defaultdict(lambda: defaultdict(list))
    for annotation in instances["annotations"]:
        boxes[annotation["image_id"]][annotation["category_id"]].append(annotation)
    result: dict[str, Any] = {
        "info": {
            "description": "Grounding derived by rule from captions and boxes; not annotated",
            "rule_derived": True,
            "tool": "detclip2 scripts/derive_grounding.py",
            "ambiguous": "all" if take_all else "skipped",
        },
        "categories": [{"id": 1, "name": "object", "supercategory": "object"}],
        "images": [],
        "annotations": [],
    }
    for annotation in captions["annotations"]:
        image = images.get(annotation["image_id"])
        caption = annotation.get("caption")
        if image is None or not isinstance(caption, str):
            continue
        spans: dict[int, list[tuple[int, int]]] = defaultdict(list)
        grounded = {}
        for span, matched in ground_caption(caption, boxes[image["id"]], names, ids, take_all):
            for box in matched:
                spans[id(box)].append(span)
                grounded[id(box)] = box
        if not grounded:
            continue
        identity = len(result["images"]) + 1
        size = {key: image[key] for key in ("height", "width") if key in image}
        result["images"].append(
            {
                "id": identity,
                "file_name": image["file_name"],
                **size,
                "original_img_id": image["id"],
                "caption": caption,
            }
        )
        for key, box in grounded.items():
            result["annotations"].append(
                {
                    "id": len(result["annotations"]) + 1,
                    "image_id": identity,
                    "bbox": box["bbox"],
                    "iscrowd": box.get("iscrowd", 0),
                    "category_id": 1,
                    "tokens_positive": [list(span) for span in spans[key]],
                }
            )
    return result


def main(argv: list[str] | None = None) -> int:
    """Derive, write, and print counts and the most frequent phrases."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--instances", required=True, help="COCO instances json")
    parser.add_argument("--captions", required=True, help="COCO captions json")
    parser.add_argument("--output", type=Path, required=True, help="json to write")
    parser.add_argument("--dictionary", help="jsonl of detclip2 concepts, for synonyms")
    parser.add_argument("--ambiguous", choices=("leave", "all"), default="leave")
    args = parser.parse_args(argv)
    try:
        instances = read_json(args.instances, ("images", "annotations", "categories"))
        captions = read_json(args.captions, ("annotations",))
        known = ConceptDictionary.load(args.dictionary) if args.dictionary else None
    except UserError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    result = derive(instances, captions, known, args.ambiguous == "all")
    args.output.write_text(json.dumps(result), encoding="utf-8")
    text = {image["id"]: image["caption"] for image in result["images"]}
    phrases = Counter(
        text[a["image_id"]][begin:end].lower()
        for a in result["annotations"]
        for begin, end in a["tokens_positive"]
    )
    print(
        f"{args.output}: {len(text)} of {len(captions['annotations'])} captions, "
        f"{len(result['annotations'])} boxes, {len(phrases)} phrases (rule-derived)"
    )
    for phrase, count in phrases.most_common(10):
        print(f"  {count:6} {phrase}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
