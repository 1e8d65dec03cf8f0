"""The paper's qualitative figure: a caption, its image, and a heat map for each noun phrase."""

import math

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
NOTHING = 0.1
"""A phrase whose map stays below is not in the image, as far as the model can see."""


def draw_explanation(explanation: Explanation) -> np.ndarray:
    """Draw the caption, the image with all boxes, and one panel for each phrase.

    A panel has the heat map of its phrase over the image. All maps share one scale, from blue, 0,
    to red, the highest value of all phrases; a bar below the caption shows it. A phrase that stays
    below `NOTHING` has a grey panel without a box. Titles give the highest value of each.

    Returns:
        (H, W, 3) uint8 RGB: panels of one size, at most four in a row, in rows of equal length.
    """
    height, width = explanation.image.shape[:2]
    factor = PANEL / max(height, width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    image = np.asarray(Image.fromarray(explanation.image).resize(size))
    instances = explanation.instances()
    scale = torch.tensor([size[0] / width, size[1] / height]).repeat(2)
    instances.pred_boxes = Boxes(instances.pred_boxes.tensor * scale)
    # Interpolation between places lowers peaks: the region may score more than the map shows.
    highest = np.maximum(explanation.heat.max(axis=(1, 2)), explanation.scores)
    is_found = highest >= NOTHING
    top = max(float(highest.max()), NOTHING)
    found = instances[torch.BoolTensor(is_found.tolist())]
    panels = [_panel(draw_instances(image, found), "all phrases")]
    for i, phrase in enumerate(explanation.phrases):
        if is_found[i]:
            overlay = _overlay(image, explanation.heat[i] / top)
            drawn = draw_instances(overlay, instances[i : i + 1])
            panels.append(_panel(drawn, f"{phrase}: up to {highest[i]:.2f}"))
        else:
            panels.append(_panel(_grey(image), f"{phrase}: nothing (up to {highest[i]:.2f})"))
    rows = math.ceil(len(panels) / COLUMNS)
    grid = _grid(panels, math.ceil(len(panels) / rows))
    caption = draw_text([explanation.caption], grid.shape[1], 18)
    return np.vstack([caption, draw_scale(top, grid.shape[1]), grid])


def draw_scale(top: float, width: int) -> np.ndarray:
    """The bar of colours, from 0 to the highest value, with its meaning behind it.

    Returns:
        (H, width, 3) uint8 RGB.
    """
    length, thickness = MIN_WIDTH - 2 * GAP, 12
    text = [f"similarity from 0 to {top:.2f}, the same in all maps; grey: below {NOTHING}"]
    right = draw_text(text, max(1, width - length - GAP))
    levels = np.linspace(0, 1, length, dtype=np.float32)[None].repeat(thickness, axis=0)
    above = (len(right) - thickness) // 2
    rows = (above, len(right) - thickness - above)
    bar = np.pad(_colors(levels), (rows, (GAP, 0), (0, 0)), constant_values=255)
    return np.hstack([bar, right])[:, :width]


def _overlay(image: np.ndarray, share: np.ndarray) -> np.ndarray:
    """A heat map (h, w) in [0, 1], of any size, over the image; hot places are less transparent."""
    height, width = image.shape[:2]
    share = cv2.resize(share, (width, height))
    opacity = 0.2 + 0.5 * share[..., None]
    return np.round((1 - opacity) * image + opacity * _colors(share)).astype(np.uint8)


def _colors(share: np.ndarray) -> np.ndarray:
    """Values (h, w) in [0, 1] as colours from blue to red."""
    levels = np.round(255 * share).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB)


def _grey(image: np.ndarray) -> np.ndarray:
    """The image without colours, paler."""
    grey = np.asarray(Image.fromarray(image).convert("L"))[..., None].repeat(3, axis=2)
    return cv2.addWeighted(grey, 0.5, np.full_like(grey, 255), 0.5, 0)


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
