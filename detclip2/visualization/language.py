"""The figure of a question or a caption: the image with the boxes of its phrases, and the text."""

import numpy as np

from detclip2.inference.language import GroundedAnswer, GroundedText
from detclip2.visualization.detections import draw_instances
from detclip2.visualization.explanation import MIN_WIDTH
from detclip2.visualization.text_panel import draw_text

ANSWERS_SHOWN = 3


def draw_grounded(found: GroundedText) -> np.ndarray:
    """Draw the boxes of the phrases, and above them the text; below a question, its answers.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    image = draw_instances(found.image, found.instances)
    missing = max(0, MIN_WIDTH - image.shape[1])
    image = np.pad(image, ((0, 0), (0, missing), (0, 0)), constant_values=255)
    parts = [draw_text([found.text], image.shape[1], 18), image]
    if isinstance(found, GroundedAnswer):
        best = [*zip(found.answers, found.probabilities, strict=True)][:ANSWERS_SHOWN]
        lines = [f"{answer}: {probability:.2f}" for answer, probability in best]
        parts.append(draw_text(lines, image.shape[1], 18))
    return np.vstack(parts)
