"""Flickr30k Entities in its authors' layout: Sentences/*.txt, Annotations/*.xml, splits.

A line of ``Sentences/ID.txt`` is a caption with its phrases in brackets::

    [/EN#283585/people A young child] climbs [/EN#0/notvisual a set] of [/EN#283587/other stairs] .

A phrase has the number of its entity, the entity's types, and its words. ``Annotations/ID.xml`` has
the boxes of each entity; entities that are nowhere or everywhere in the image have none.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

from detclip2.data.io.coco_values import are_coordinates
from detclip2.data.mappers.phrase_grounding import Mention
from detclip2.data.text.clean import clean_phrase
from detclip2.data.text.spans import Span
from detclip2.utils.errors import UserError
from detclip2.utils.paths import is_outside

Box = tuple[float, float, float, float]

_PHRASE = re.compile(r"\[/EN#(?P<thing>\d+)(?P<types>(?:/[^\s/\]]+)*)\s+(?P<words>[^\]]*)\]")


def flickr30k_entities_records(
    folder: str, image_root: str, split: str = "test"
) -> list[dict[str, Any]]:
    """Grounding records, one for each caption that has a phrase with a box.

    ``mentions`` has every occurrence of a phrase with boxes, as the literature counts them, and
    ``mention_spans`` the place of each in the caption. Boxes are the numbers in the file, from
    which MDETR's evaluation does not subtract 1 either.

    Args:
        folder: has ``Annotations``, ``Sentences`` and the lists of the splits.
        image_root: the folder of the images, ``ID.jpg``.
        split: train, val, or test; any ``{split}.txt`` that lists ids, one a line.

    Raises:
        UserError: a file of the split is missing or not in the format. No file is skipped, since
            the recall on a part of a split cannot be compared.
    """
    root = Path(folder)
    ids = _read(root / f"{split}.txt").split()
    if not ids:
        raise UserError(f"{root / f'{split}.txt'} lists no image")
    records = []
    for identity in ids:
        if is_outside(identity):
            raise UserError(f"{root / f'{split}.txt'}: {identity!r} is no id of an image")
        (width, height), boxes = _boxes(root / "Annotations" / f"{identity}.xml")
        sentences = _sentences(root / "Sentences" / f"{identity}.txt")
        for number, (caption, phrases) in enumerate(sentences):
            boxed = [phrase for phrase in phrases if phrase.thing in boxes]
            mentions = [Mention(p.words, tuple(boxes[p.thing]), p.types) for p in boxed]
            if mentions:
                records.append(
                    {
                        "file_name": str(Path(image_root) / f"{identity}.jpg"),
                        "image_id": identity,
                        "sentence_id": number,
                        "height": height,
                        "width": width,
                        "caption": caption,
                        "mentions": mentions,
                        "mention_spans": [[phrase.span] for phrase in boxed],
                    }
                )
    return records


class _Phrase(NamedTuple):
    words: str
    thing: str
    """The number of its entity."""
    types: tuple[str, ...]
    span: Span


def _sentences(path: Path) -> Iterator[tuple[str, list[_Phrase]]]:
    """The captions of an image, each with its phrases."""
    for line in _read(path).splitlines():
        if not line.strip():  # blank lines are not numbered
            continue
        phrases, caption, end = [], "", 0
        for match in _PHRASE.finditer(line):
            caption += line[end : match.start()]
            end = match.end()
            if words := clean_phrase(match["words"]):
                begin = len(clean_phrase(caption + "x")) - 1
                types = tuple(match["types"].split("/")[1:])
                span = begin, begin + len(words)
                phrases.append(_Phrase(words, match["thing"], types, span))
            caption += match["words"]
        caption += line[end:]
        if "[/EN#" in caption:
            raise UserError(
                f"{path}: a phrase is not of the form [/EN#number/type words]: {line.strip()[:80]}"
            )
        yield clean_phrase(caption), phrases


def _boxes(path: Path) -> tuple[tuple[int, int], dict[str, list[Box]]]:
    """The (width, height) of an image, and number of an entity -> its boxes, XYXY px."""
    boxes: dict[str, list[Box]] = {}
    try:
        # Expat stops entities that multiply, since 2.4.1; ElementTree reads no other file.
        root = ElementTree.fromstring(_read(path))  # noqa: S314
        size = int(root.findtext("size/width", "")), int(root.findtext("size/height", ""))
        if min(size) < 1:
            raise ValueError(f"the size is {size}")
        for thing in root.iterfind("object"):
            corners = thing.find("bndbox")
            if corners is None:
                continue
            x1, y1, x2, y2 = (
                float(corners.findtext(edge, "")) for edge in ("xmin", "ymin", "xmax", "ymax")
            )
            if not are_coordinates((x1, y1, x2, y2)):
                raise ValueError(f"a box is {[x1, y1, x2, y2]}")
            for name in thing.iterfind("name"):  # a box may show several entities
                boxes.setdefault((name.text or "").strip(), []).append((x1, y1, x2, y2))
    except (ElementTree.ParseError, ValueError) as error:
        raise UserError(
            f"{path}: not an annotation of Flickr30k Entities (size/width and height, "
            f"object/name and bndbox/xmin, ymin, xmax, ymax): {error}"
        ) from error
    return size, boxes


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; it is part of Flickr30k Entities") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not text in UTF-8 ({error})") from error
