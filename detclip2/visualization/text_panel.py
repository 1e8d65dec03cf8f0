"""Text as an image, to place above or below other images."""

import textwrap
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from detclip2.visualization.detections import font_for

MARGIN = 6  # px


def draw_text(paragraphs: Sequence[str], width: int, font_size: int = 14) -> np.ndarray:
    """Draw paragraphs in black on white, each from its own line, as high as they need.

    Args:
        paragraphs: text in any script that a font of the system has.
        width: of the result, px; lines are broken to fit, but have at least 20 characters.
        font_size: px.

    Returns:
        (H, width, 3) uint8 RGB.
    """
    font = ImageFont.truetype(font_for("".join(sorted(set("".join(paragraphs))))), font_size)
    columns = max(20, int(width / font.getlength("n")) - 2)
    lines = [line for paragraph in paragraphs for line in textwrap.wrap(paragraph, columns)]
    line_height = font_size + 5
    panel = Image.new("RGB", (width, line_height * len(lines) + 8), "white")
    draw = ImageDraw.Draw(panel)
    for number, line in enumerate(lines):
        draw.text((MARGIN, 4 + number * line_height), line, font=font, fill="black")
    return np.asarray(panel)
