"""HTML page of the images with the most errors of a model: missed boxes and wrong detections."""

import html
import json
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from pycocotools import mask as masks

from detclip2.data.io.coco_json import read_coco_json
from detclip2.data.io.image import read_image
from detclip2.evaluation.federated import Federated
from detclip2.utils.files import write_whole
from detclip2.utils.paths import path_in
from detclip2.visualization.detections import font_for

Entry = dict[str, Any]

MIN_IOU = 0.5
MAX_DRAWN = 30  # wrong detections of an image; early models have hundreds
FOUND, MISSED, WRONG = "#2e8b57", "#ff8c00", "#d62728"
STYLE = "body{font-family:sans-serif;margin:2em}figure{margin:0 0 2em}img{max-width:100%}"


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
) -> Path:
    """Draw the images with the most errors, and write the page that shows them.

    Args:
        annotations: json in COCO's format.
        detections: results of a model on it, as COCOEvaluator writes them.
        image_root: the folder that ``file_name`` is relative to.
        folder: folder for ``index.html`` and the images.
        score_threshold: see `errors_of`.
        count: the most images to draw.

    Returns:
        The path of the page.
    """
    content = read_coco_json(annotations)
    results = json.loads(detections.read_text("utf-8")) if detections.is_file() else []
    names = {category["id"]: category["name"] for category in content["categories"]}
    figures = []
    folder.mkdir(parents=True, exist_ok=True)
    for number, errors in enumerate(errors_of(content, results, score_threshold)[:count], 1):
        if not errors.weight:
            break
        image = path_in(image_root, errors.image["file_name"])
        drawn = draw_errors(read_image(image), errors, names)
        drawn.save(folder / f"{number:02d}.jpg", quality=88)
        caption = (
            f"{errors.image['file_name']}: {len(errors.found)} found, {len(errors.missed)} missed, "
            f"{len(errors.wrong)} wrong"
        )
        figures.append(
            f'<figure><img src="{number:02d}.jpg" alt=""><figcaption>{html.escape(caption)}'
            "</figcaption></figure>"
        )
    legend = (
        f'<p><b style="color:{FOUND}">found</b>, <b style="color:{MISSED}">missed</b>, '
        f'<b style="color:{WRONG}">wrong</b>, of the detections with a score of '
        f"{score_threshold} or more and an IoU of {MIN_IOU}; the most errors first</p>"
    )
    body = "\n".join(figures) or "<p>There is no error.</p>"
    page = (
        f'<!doctype html><meta charset="utf-8"><title>Worst errors</title><style>{STYLE}</style>'
        f"<h1>Worst errors</h1>{legend}\n{body}\n"
    )
    path = folder / "index.html"
    # A file name need not be UTF-8.
    write_whole(path, lambda file: file.write(page.encode("utf-8", "backslashreplace")))
    return path


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
    """The image with found, missed and wrong boxes, at least 640 px wide.

    Args:
        image: (H, W, 3) uint8 RGB.
        errors: errors of the image.
        names: category id -> name.
    """
    drawn = Image.fromarray(image)
    factor = max(1.0, 640 / drawn.width)  # small images are enlarged for readable text
    drawn = drawn.resize((round(drawn.width * factor), round(drawn.height * factor)))
    canvas = ImageDraw.Draw(drawn)
    font = ImageFont.truetype(font_for("".join(names.values())), 13)
    wrong = errors.wrong[:MAX_DRAWN]  # the best of them
    layers = ((errors.found, FOUND), (errors.missed, MISSED), (wrong, WRONG))
    for entries, color in layers:
        for one in entries:
            x, y, width, height = (factor * v for v in one["bbox"])
            canvas.rectangle((x, y, x + width, y + height), outline=color, width=2)
            if color == FOUND:
                continue
            score = f" {one['score']:.2f}" if "score" in one else ""
            text = names[one["category_id"]] + score
            canvas.rectangle(canvas.textbbox((x + 3, y + 2), text, font=font), fill="white")
            canvas.text((x + 3, y + 2), text, fill=color, font=font)
    return drawn
