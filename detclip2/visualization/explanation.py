"""The paper's qualitative figure: a caption, its image, and a heat map for each noun phrase."""

import cv2
import numpy as np
import torch
from detectron2.structures import Boxes
from PIL import Image

from detclip2.inference.explain import Explanation
from detclip2.visualization.detections import draw_instances
from detclip2.visualization.text_panel import draw_text

PANEL = 448  # px, the longer side of each image
MIN_WIDTH = 224  # px, for the title of a narrow image
COLUMNS = 4
GAP = 8  # px, white


def draw_explanation(explanation: Explanation) -> np.ndarray:
    """Draw the caption, the image with all boxes, and one panel for each phrase.

    A panel has the heat map of its phrase over the image, from blue, 0, to red, its own highest
    value. The title gives that value too, to distinguish weak maps from strong ones.

    Returns:
        (H, W, 3) uint8 RGB: panels of one size, four in a row.
    """
    height, width = explanation.image.shape[:2]
    factor = PANEL / max(height, width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    image = np.asarray(Image.fromarray(explanation.image).resize(size))
    instances = explanation.instances()
    scale = torch.tensor([size[0] / width, size[1] / height]).repeat(2)
    instances.pred_boxes = Boxes(instances.pred_boxes.tensor * scale)
    panels = [_panel(draw_instances(image, instances), "all phrases")]
    for i, phrase in enumerate(explanation.phrases):
        heat = explanation.heat[i]
        overlay = draw_instances(_overlay(image, heat), instances[i : i + 1])
        panels.append(_panel(overlay, f"{phrase} (at most {heat.max():.2f})"))
    columns = min(COLUMNS, len(panels))
    grid = _grid(panels, columns)
    return np.vstack([draw_text([explanation.caption], grid.shape[1], 18), grid])


def _overlay(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """A heat map (h, w), of any size and not negative, half transparent over the image."""
    height, width = image.shape[:2]
    share = cv2.resize(heat / max(float(heat.max()), 1e-12), (width, height))
    levels = np.round(255 * share).astype(np.uint8)
    colors = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB)
    return cv2.addWeighted(image, 0.5, colors, 0.5, 0)


def _panel(image: np.ndarray, title: str) -> np.ndarray:
    """An image below its title."""
    width = max(MIN_WIDTH, image.shape[1])
    left = (width - image.shape[1]) // 2
    margins = ((0, 0), (left, width - image.shape[1] - left), (0, 0))
    return np.vstack([draw_text([title], width), np.pad(image, margins, constant_values=255)])


def _grid(panels: list[np.ndarray], columns: int) -> np.ndarray:
    """Panels of one width in rows, on white, with gaps around them."""
    rows = []
    for start in range(0, len(panels), columns):
        row = panels[start : start + columns]
        height = max(len(panel) for panel in row)
        # Titles may have several lines: images are aligned at the bottom.
        row = [
            np.pad(panel, ((height - len(panel), GAP), (GAP, 0), (0, 0)), constant_values=255)
            for panel in row
        ]
        missing = columns - len(row)
        row += [np.full_like(row[0], 255)] * missing
        rows.append(np.hstack(row))
    return np.pad(np.vstack(rows), ((0, 0), (0, GAP), (0, 0)), constant_values=255)
