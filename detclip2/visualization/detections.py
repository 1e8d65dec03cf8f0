"""Drawing of detections in images: a box, a label and the mask, if there is one, of each place."""

import importlib.util
from collections.abc import Sequence
from functools import lru_cache
from math import sqrt
from pathlib import Path

import numpy as np
from detectron2.structures import Instances
from PIL import Image, ImageColor, ImageDraw, ImageFont

SAME_PLACE = 0.6
"""Detections whose boxes overlap more (intersection over union) are at one place. It is the models'
`nms_threshold`: two objects of one name overlap less."""
# Any two differ clearly (CIE76 distance at least 25), neighbours most of all; from "20 simple,
# distinct colors" of S. Trubetskoy.
COLORS = tuple(
    ImageColor.getrgb(code)
    for code in (
        *("#e6194b", "#3cb44b", "#ffe119", "#4363d8", "#f58231", "#911eb4", "#42d4f4", "#f032e6"),
        *("#bfef45", "#fabed4", "#469990", "#9a6324", "#800000", "#dcbeff", "#808000", "#000075"),
    )
)
# All that DejaVu Sans covers wholly: Latin with its additions.
_LATIN = 0x250
_SMALLEST_FONT = 10  # px
_TINT = 0.45  # of a mask's colour in its pixels
# Font folders of systems. matplotlib's own search would write a cache into the home folder.
_FONT_FOLDERS = (
    "/usr/share/fonts",
    "/usr/local/share/fonts",
    "~/.local/share/fonts",
    "~/.fonts",
    "/System/Library/Fonts",
    "/Library/Fonts",
    "C:/Windows/Fonts",
)


def draw_instances(image: np.ndarray, instances: Instances) -> np.ndarray:
    """Draw a box with label and score at each place, one colour a label, and tint the masks.

    Of several detections at one place (see `SAME_PLACE`) the best is drawn, with the number of the
    others: "cup 0.61 +2". Labels are at their boxes, where they hide no better one if there is such
    a place. Lines and text scale with the image.

    Args:
        image: (H, W, 3) uint8 RGB; it is not modified.
        instances: ``pred_boxes`` XYXY px of that image, ``scores``, ``pred_classes``, ``labels``,
            and optionally ``pred_masks`` (N, H, W) bool; ids of tracks, if there are ``track_ids``,
            are beside the labels: "cup 0.61 #3".

    Returns:
        (H, W, 3) uint8 RGB.
    """
    if len(instances) == 0:
        return image.copy()
    height, width = image.shape[:2]
    scale = sqrt(height * width) / 640
    boxes = instances.pred_boxes.tensor.numpy().astype(np.float64)
    places = places_of(boxes, instances.scores.numpy())
    texts = [
        f" {instances.scores[best]:.2f}{_track(instances, best)}"
        + (f" +{others}" if others else "")
        for best, others in places
    ]
    names = [" ".join(instances.labels[best].split()) for best, _ in places]
    characters = "".join(sorted({*"0123456789.+#…", *"".join(names)}))
    size = max(_SMALLEST_FONT, round(18 * scale))
    font = ImageFont.truetype(font_for(characters), size)
    padding = max(2, size // 5)
    texts = [
        shortened(name, width - 2 * padding, font, text)
        for name, text in zip(names, texts, strict=True)
    ]
    label_height = sum(font.getmetrics()) + padding
    sizes = [(font.getlength(text) + 2 * padding, label_height) for text in texts]
    corners = label_corners(boxes[[best for best, _ in places]], sizes, (height, width))
    order = range(len(places) - 1, -1, -1)  # the best is drawn over the others
    drawn = Image.fromarray(_tinted(image, instances, [places[i][0] for i in order]))
    canvas = ImageDraw.Draw(drawn)
    for i in order:
        best = places[i][0]
        color = _color(instances, best)
        x1, y1, x2, y2 = boxes[best]
        canvas.rectangle(
            (x1, y1, max(x1, x2), max(y1, y2)), outline=color, width=max(2, round(3 * scale))
        )
    for i in order:
        color = _color(instances, places[i][0])
        (x, y), (label_width, _) = corners[i], sizes[i]
        canvas.rectangle((x, y, x + label_width - 1, y + label_height - 1), fill=color)
        canvas.text((x + padding, y + padding // 2), texts[i], font=font, fill=_text_color(color))
    return np.asarray(drawn)


def places_of(boxes: np.ndarray, scores: np.ndarray) -> list[tuple[int, int]]:
    """Group detections by place.

    Args:
        boxes: (N, 4) XYXY px.
        scores: (N,).

    Returns:
        For each place the index of its best detection and the number of the others, best first.
    """
    remaining = np.argsort(-scores, kind="stable")
    places = []
    while len(remaining):
        best = remaining[0]
        elsewhere = _overlaps(boxes[best], boxes[remaining]) <= SAME_PLACE
        elsewhere[0] = False
        places.append((int(best), int((~elsewhere).sum()) - 1))
        remaining = remaining[elsewhere]
    return places


def label_corners(
    boxes: np.ndarray, sizes: Sequence[tuple[float, float]], image_size: tuple[int, int]
) -> list[tuple[int, int]]:
    """Upper left corners of labels, each at its box and in the image.

    A label is above its box, else inside at the top, below, or inside at the bottom, at the left or
    the right end: the first of these that covers no label before it, or else covers the least.

    Args:
        boxes: (N, 4) XYXY px, the most important first.
        sizes: N times the width and height of a label, px.
        image_size: height and width, px.
    """
    height, width = image_size
    placed = np.zeros((0, 4))
    for (x1, y1, x2, y2), (w, h) in zip(boxes, sizes, strict=True):
        free = [
            (x, y)
            for x in (x1, x2 - w)
            for y in (y1 - h, y1, y2, y2 - h)
            if y >= 0 and y + h <= height
        ]
        # The image may be smaller than the label.
        corners = np.array(free or [(x1, y1)]).clip(0, np.maximum(0, [width - w, height - h]))
        candidates = np.hstack([corners, corners + np.array([w, h])]).round()
        covered = _intersections(candidates[:, None], placed).sum(1)
        placed = np.vstack([placed, candidates[covered.argmin()]])
    return [(int(x), int(y)) for x, y in placed[:, :2]]


def shortened(name: str, width: float, font: ImageFont.FreeTypeFont, ending: str = "") -> str:
    """The name and its ending, with "…" where the name is cut to fit into a width in px."""
    if font.getlength(name + ending) <= width:
        return name + ending
    kept = len(name)
    while kept and font.getlength(f"{name[:kept]}…{ending}") > width:
        kept = min(kept - 1, int(kept * 0.9))
    return f"{name[:kept]}…{ending}"


def _tinted(image: np.ndarray, instances: Instances, chosen: Sequence[int]) -> np.ndarray:
    """The image with the masks of some detections, each over those before it."""
    if not instances.has("pred_masks"):
        return image
    tinted = image.copy()
    for index in chosen:
        inside = instances.pred_masks[index].numpy()
        color = np.array(_color(instances, index))
        tinted[inside] = ((1 - _TINT) * image[inside] + _TINT * color).astype(np.uint8)
    return tinted


def _intersections(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Areas of intersections of XYXY boxes, which broadcast."""
    sides = np.minimum(boxes[..., 2:], others[..., 2:]) - np.maximum(
        boxes[..., :2], others[..., :2]
    )
    return sides.clip(0).prod(-1)


def _overlaps(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(N,) intersection over union of a box with N others."""
    common = _intersections(box, others)
    areas = (others[:, 2:] - others[:, :2]).prod(1)
    return common / np.maximum((box[2:] - box[:2]).prod() + areas - common, 1e-9)


def _track(instances: Instances, index: int) -> str:
    track = int(instances.track_ids[index]) if instances.has("track_ids") else -1
    return f" #{track}" if track >= 0 else ""


def _color(instances: Instances, index: int) -> tuple[int, ...]:
    return COLORS[int(instances.pred_classes[index]) % len(COLORS)]


def _text_color(color: Sequence[int]) -> str:
    """Black or white, by contrast (ITU-R BT.601 luma)."""
    red, green, blue = color[:3]
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "white"


@lru_cache(maxsize=256)  # frames of a video differ in their labels
def font_for(characters: str) -> str:
    """The file of the font that covers most of the characters.

    DejaVu Sans, which comes with matplotlib, covers Latin, Greek, Cyrillic and more; for the rest
    the fonts of the system are searched. A character in none of them is drawn as an empty box.
    """
    default = str(_default_font())
    wanted = {ord(character) for character in characters}
    if all(code < _LATIN for code in wanted - {ord("…")}):
        return default  # matplotlib is not even imported
    best, most = default, _coverage(default, wanted)
    if most < len(wanted):
        for folder in _FONT_FOLDERS:
            for path in sorted(Path(folder).expanduser().rglob("*.[to]t[fc]")):
                if (coverage := _coverage(str(path), wanted)) > most:
                    best, most = str(path), coverage
    return best


def _default_font() -> Path:
    package = importlib.util.find_spec("matplotlib")
    assert package is not None
    assert package.origin is not None
    return Path(package.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"


def _coverage(path: str, wanted: set[int]) -> int:
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(path)
    except (OSError, RuntimeError):  # FreeType cannot read every file in a font folder
        return 0
    # A bitmap font, e.g. of colour emoji, does not scale.
    return len(wanted & font.get_charmap().keys()) if font.scalable else 0
