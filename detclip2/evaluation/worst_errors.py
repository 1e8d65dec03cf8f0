"""The errors of a model, missed boxes and wrong detections: as an HTML page, and for FiftyOne."""

import html
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from pycocotools import mask as masks

from detclip2.data.io.coco_json import read_coco_json
from detclip2.data.io.image import read_image
from detclip2.evaluation.federated import Federated
from detclip2.utils.files import write_json, write_whole
from detclip2.utils.paths import path_in
from detclip2.visualization.detections import font_for

Entry = dict[str, Any]

COUNTED_NAME = "detections.json"
MIN_IOU = 0.5
MAX_DRAWN = 20  # wrong detections of an image; early models have hundreds
MIN_EDGE = 640  # px, of the longer edge of a drawn image, for readable text
FOUND, MISSED, WRONG = "#1e7b45", "#c45a00", "#c81e1e"
STYLE = (
    "body{font-family:sans-serif;margin:2em}"
    "main{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,36em),1fr));gap:2em}"
    "figure{margin:0}img{width:100%}table{border-collapse:collapse;margin-bottom:2em}"
    "th,td{text-align:right;padding:.2em 1em;border-bottom:1px solid #ddd}"
    "th:first-child,td:first-child{text-align:left}"
)


@dataclass(frozen=True)
class ImageErrors:
    """Errors of one image: right detections, missed boxes and wrong detections."""

    image: Entry
    found: list[Entry]
    missed: list[Entry]
    wrong: list[Entry]

    @property
    def weight(self) -> float:
        """1 for each missed box, plus the scores of the wrong detections."""
        return len(self.missed) + sum(one["score"] for one in self.wrong)


def errors_of(content: Entry, detections: list[Entry], score_threshold: float) -> list[ImageErrors]:
    """The errors of each image, the image with the most first.

    As in COCO's protocol, detections are matched by descending score, each to the box of its
    category with the highest IoU of at least 0.5; in crowd regions no detection is wrong. Nor is
    one of a category that is unknown in its image, or not exhaustive (`Federated`).

    Args:
        content: annotations in COCO's format.
        detections: COCO's list of results: ``image_id``, ``category_id``, ``bbox``, ``score``.
        score_threshold: detections with lower scores are ignored.
    """
    truths, found = defaultdict(list), defaultdict(list)
    for one in content["annotations"]:
        truths[one["image_id"]].append(one)
    for one in detections:
        if one["score"] >= score_threshold:
            found[one["image_id"]].append(one)
    federated = Federated(content)
    errors = []
    for image in content["images"]:
        of_image = _match(image, truths[image["id"]], found[image["id"]])
        categories = [one["category_id"] for one in of_image.wrong]
        wrong = [
            one
            for one, known in zip(
                of_image.wrong, federated.known(image["id"], categories), strict=True
            )
            if known and not federated.is_partial(image["id"], one["category_id"])
        ]
        errors.append(replace(of_image, wrong=wrong))
    return sorted(errors, key=lambda one: -one.weight)


def write_worst_errors(
    annotations: Path,
    detections: Path,
    image_root: Path,
    folder: Path,
    score_threshold: float = 0.3,
    count: int = 24,
    results: Mapping[str, Any] | None = None,
) -> Path:
    """Draw the images with the most errors, and write the page that shows them.

    Beside it, `COUNTED_NAME` has the detections that are found or wrong, of all images, in COCO's
    format of results. Other tools match them alike without the rules of crowds and partly
    labelled data.

    Args:
        annotations: json in COCO's format.
        detections: results of a model on it, as COCOEvaluator writes them.
        image_root: the folder that ``file_name`` is relative to.
        folder: folder for ``index.html``, the images and `COUNTED_NAME`.
        score_threshold: see `errors_of`.
        count: the most images to draw.
        results: AP in percent by name, as COCOEvaluator returns it, for the summary.

    Returns:
        The path of the page.
    """
    content = read_coco_json(annotations)
    found = json.loads(detections.read_text("utf-8")) if detections.is_file() else []
    names = {category["id"]: category["name"] for category in content["categories"]}
    figures = []
    folder.mkdir(parents=True, exist_ok=True)
    all_errors = errors_of(content, found, score_threshold)
    counted = [one for errors in all_errors for one in (*errors.found, *errors.wrong)]
    write_json(folder / COUNTED_NAME, counted)
    for number, errors in enumerate(all_errors[:count], 1):
        if not errors.weight:
            break
        image = path_in(image_root, errors.image["file_name"])
        drawn = draw_errors(read_image(image), errors, names)
        drawn.save(folder / f"{number:02d}.jpg", quality=88)
        caption = html.escape(_caption(errors))
        figures.append(
            f'<figure><img src="{number:02d}.jpg" alt="{caption}"><figcaption>{caption}'
            "</figcaption></figure>"
        )
    legend = (
        f'<p><b style="color:{FOUND}">found</b>, <b style="color:{MISSED}">missed</b>, '
        f'<b style="color:{WRONG}">wrong</b>, of the detections with a score of '
        f"{score_threshold} or more and an IoU of {MIN_IOU}; the most errors first</p>"
    )
    body = "\n".join(figures) or "<p>There is no error.</p>"
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" '
        f'content="width=device-width"><title>Worst errors</title><style>{STYLE}</style>'
        f"<h1>Worst errors</h1>{legend}\n{_summary(all_errors, names, results or {})}\n"
        f"<main>{body}</main></html>\n"
    )
    path = folder / "index.html"
    # A file name need not be UTF-8.
    write_whole(path, lambda file: file.write(page.encode("utf-8", "backslashreplace")))
    return path


def _caption(errors: ImageErrors) -> str:
    counts = f"{len(errors.found)} found, {len(errors.missed)} missed, {len(errors.wrong)} wrong"
    more = f" (the best {MAX_DRAWN} are drawn)" if len(errors.wrong) > MAX_DRAWN else ""
    return f"{errors.image['file_name']}: {counts}{more}"


def _summary(
    all_errors: Sequence[ImageErrors], names: Mapping[Any, str], results: Mapping[str, Any]
) -> str:
    """A table of AP, and of how many boxes are found, missed and wrong, by category."""
    kinds = ("found", "missed", "wrong")
    counts = {
        kind: Counter(one["category_id"] for errors in all_errors for one in getattr(errors, kind))
        for kind in kinds
    }

    def row(name: str, ap: Any, numbers: Iterable[int]) -> str:
        is_number = isinstance(ap, float) and math.isfinite(ap)
        cells = [html.escape(name), f"{ap:.1f}" if is_number else "-", *map(str, numbers)]
        return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"

    rows = [row("all", results.get("AP"), (counts[kind].total() for kind in kinds))]
    rows += [
        row(name, results.get(f"AP-{name}"), (counts[kind][category] for kind in kinds))
        for category, name in sorted(names.items(), key=lambda pair: pair[1])
    ]
    head = "".join(f"<th>{title}</th>" for title in ("category", "AP, percent", *kinds))
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>"


def _match(image: Entry, truths: list[Entry], detections: list[Entry]) -> ImageErrors:
    found, wrong, taken = [], [], set()
    for one in sorted(detections, key=lambda one: -one["score"]):
        same = [t for t in truths if t["category_id"] == one["category_id"]]
        crowds = [bool(t.get("iscrowd")) for t in same]
        overlaps = _overlaps(one, same, crowds)
        free = [
            (overlap, t)
            for overlap, t, crowd in zip(overlaps, same, crowds, strict=True)
            if not crowd and t["id"] not in taken and overlap >= MIN_IOU
        ]
        if free:
            taken.add(max(free, key=lambda pair: pair[0])[1]["id"])
            found.append(one)
        elif not any(o >= MIN_IOU for o, crowd in zip(overlaps, crowds, strict=True) if crowd):
            wrong.append(one)
    missed = [t for t in truths if t["id"] not in taken and not t.get("iscrowd")]
    return ImageErrors(image, found, missed, wrong)


def _overlaps(detection: Entry, truths: list[Entry], crowds: list[bool]) -> list[float]:
    if not truths:
        return []
    boxes = np.array([truth["bbox"] for truth in truths], dtype=np.float64)
    own = np.array([detection["bbox"]], dtype=np.float64)
    return masks.iou(own, boxes, [int(crowd) for crowd in crowds])[0].tolist()


def draw_errors(image: np.ndarray, errors: ImageErrors, names: dict[int, str]) -> Image.Image:
    """The image with found, missed and wrong boxes, each with its name; found ones lie on top.

    Small images are enlarged to `MIN_EDGE`; lines and text scale with the image.

    Args:
        image: (H, W, 3) uint8 RGB.
        errors: errors of the image.
        names: category id -> name.
    """
    drawn = Image.fromarray(image)
    factor = max(1.0, MIN_EDGE / max(drawn.size))
    drawn = drawn.resize((round(drawn.width * factor), round(drawn.height * factor)))
    canvas = ImageDraw.Draw(drawn)
    scale = max(drawn.size) / MIN_EDGE
    font = ImageFont.truetype(font_for("".join(names.values())), round(14 * scale))
    line = round(3 * scale)
    wrong = errors.wrong[:MAX_DRAWN]  # the best of them
    layers = ((wrong, WRONG), (errors.missed, MISSED), (errors.found, FOUND))
    boxes = [(one, color) for entries, color in layers for one in reversed(entries)]
    for one, color in boxes:
        x, y, width, height = (factor * v for v in one["bbox"])
        canvas.rectangle((x, y, x + width, y + height), outline=color, width=line)
    for one, color in boxes:  # no line goes through a label
        x, y = factor * one["bbox"][0], factor * one["bbox"][1]
        score = f" {one['score']:.2f}" if "score" in one else ""
        text = names[one["category_id"]] + score
        left, top, right, bottom = canvas.textbbox((0, 0), text, font=font)
        # Above the box, but inside the image.
        x = max(0.0, min(x, drawn.width - (right - left) - 2 * line))
        y = max(0.0, y - (bottom - top) - 2 * line)
        canvas.rectangle((x, y, x + right - left + 2 * line, y + bottom - top + 2 * line), color)
        canvas.text((x + line - left, y + line - top), text, fill="white", font=font)
    return drawn
