"""Drawing of detections in images, with supervision's annotators."""

from functools import lru_cache
from math import sqrt
from pathlib import Path

import matplotlib
import numpy as np
import supervision as sv
from detectron2.structures import Instances
from matplotlib.ft2font import FT2Font
from PIL import Image

from detclip2.inference.results import to_supervision

MOST_SPREAD = 500
"""Most labels that are moved apart."""

_COLORS = sv.ColorPalette.DEFAULT
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
# Black or white on each colour, by contrast (ITU-R BT.601 luma).
_TEXT_COLORS = sv.ColorPalette(
    [
        sv.Color.BLACK if 0.299 * c.r + 0.587 * c.g + 0.114 * c.b > 140 else sv.Color.WHITE
        for c in _COLORS.colors
    ]
)


def draw_instances(image: np.ndarray, instances: Instances) -> np.ndarray:
    """Draw boxes with label and score, one colour a label; lines and text scale with the image.

    Args:
        image: (H, W, 3) uint8 RGB; it is not modified.
        instances: ``pred_boxes`` XYXY px of that image, ``scores``, ``pred_classes``, ``labels``.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    if len(instances) == 0:
        return image.copy()
    worst_first = instances.scores.argsort()  # so that the best is drawn over the others
    instances = instances[worst_first]
    detections = to_supervision(instances)
    texts = [
        f"{' '.join(label.split())} {score:.2f}"
        for label, score in zip(instances.labels, instances.scores.tolist(), strict=True)
    ]
    scale = sqrt(image.shape[0] * image.shape[1]) / 640
    boxes = sv.BoxAnnotator(color=_COLORS, thickness=max(1, round(2 * scale)))
    labels = sv.RichLabelAnnotator(
        color=_COLORS,
        text_color=_TEXT_COLORS,
        font_path=font_for("".join(sorted({*"0123456789.", *"".join(texts)}))),
        font_size=max(8, round(15 * scale)),
        text_padding=max(1, round(4 * scale)),
        # Moves labels apart and into the image. Thousands cannot be, and trying takes minutes.
        smart_position=len(instances) <= MOST_SPREAD,
    )
    # A Pillow image, because supervision reads arrays as OpenCV's BGR.
    drawn = boxes.annotate(Image.fromarray(image), detections)
    return np.asarray(labels.annotate(drawn, detections, texts))


@lru_cache(maxsize=256)  # frames of a video differ in their labels
def font_for(characters: str) -> str:
    """The file of the font that covers most of the characters.

    DejaVu Sans, which comes with matplotlib, covers Latin, Greek, Cyrillic and more; for the rest
    the fonts of the system are searched. A character in none of them is drawn as an empty box.
    """
    default = str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")
    wanted = {ord(character) for character in characters}
    best, most = default, _coverage(default, wanted)
    if most < len(wanted):
        for folder in _FONT_FOLDERS:
            for path in sorted(Path(folder).expanduser().rglob("*.[to]t[fc]")):
                if (coverage := _coverage(str(path), wanted)) > most:
                    best, most = str(path), coverage
    return best


def _coverage(path: str, wanted: set[int]) -> int:
    try:
        font = FT2Font(path)
    except (OSError, RuntimeError):  # FreeType cannot read every file in a font folder
        return 0
    # A bitmap font, e.g. of colour emoji, does not scale.
    return len(wanted & font.get_charmap().keys()) if font.scalable else 0
