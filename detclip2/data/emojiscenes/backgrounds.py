"""Backgrounds of scenes: colours, gradients, textures, and clutter without a category."""

import string

import cv2
import numpy as np


def draw_background(size: int, rng: np.random.Generator) -> np.ndarray:
    """A background (size, size, 3) uint8, RGB, of a random kind, in part with clutter."""
    kind = KINDS[rng.integers(len(KINDS))]
    image = kind(size, rng)
    if rng.random() < 0.6:
        _add_clutter(image, rng)
    return image


def _color(rng: np.random.Generator) -> np.ndarray:
    """A random colour (3,) float32, RGB 0..255; it may be pale, dark or vivid."""
    base = rng.uniform(0, 255)
    return np.clip(base + rng.uniform(-1, 1, 3) * rng.uniform(10, 120), 0, 255).astype(np.float32)


def _flat(size: int, rng: np.random.Generator) -> np.ndarray:
    return np.full((size, size, 3), _color(rng), np.uint8)


def _between(weight: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """An image that mixes two colours: the first where the weight (H, W) is 0, the second at 1."""
    table = np.linspace(first, second, 256).astype(np.uint8)[None]
    return cv2.LUT(cv2.merge([(weight * 255).astype(np.uint8)] * 3), table)


def _gradient(size: int, rng: np.random.Generator) -> np.ndarray:
    angle = rng.uniform(0, 2 * np.pi)
    line = np.linspace(-0.5, 0.5, size, dtype=np.float32)
    weight = np.cos(angle) * line[None] + np.sin(angle) * line[:, None]
    return _between(np.clip(weight / 1.42 + 0.5, 0, 1), _color(rng), _color(rng))


def _radial(size: int, rng: np.random.Generator) -> np.ndarray:
    line = np.linspace(0, 1, size, dtype=np.float32)
    x, y = rng.uniform(0, 1, 2)
    weight = np.hypot(line[None] - x, line[:, None] - y) / rng.uniform(0.7, 1.4)
    return _between(np.clip(weight, 0, 1), _color(rng), _color(rng))


def _noise(shape: tuple[int, int], size: int, rng: np.random.Generator) -> np.ndarray:
    """Smooth noise (size, size) uint8 from a coarse grid of random values."""
    coarse = rng.integers(0, 256, shape, dtype=np.uint8)
    return cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)


def _clouds(size: int, rng: np.random.Generator) -> np.ndarray:
    cells = int(rng.integers(2, 8))
    weight = 0.6 * _noise((cells, cells), size, rng) + 0.3 * _noise((4 * cells,) * 2, size, rng)
    return _between(weight.astype(np.float32) / 230.0, _color(rng), _color(rng))


def _blotches(size: int, rng: np.random.Generator) -> np.ndarray:
    cells = int(rng.integers(2, 6))
    coarse = rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
    return cv2.resize(coarse, (size, size), interpolation=cv2.INTER_LINEAR)


def _landscape(size: int, rng: np.random.Generator) -> np.ndarray:
    """A gradient above a wavy horizon, and clouds below it."""
    above, below = _gradient(size, rng), _clouds(size, rng)
    coarse = rng.uniform(-1, 1, (1, 6)).astype(np.float32)
    waves = cv2.resize(coarse, (size, 1), interpolation=cv2.INTER_CUBIC)
    horizon = size * (rng.uniform(0.25, 0.75) + rng.uniform(0, 0.12) * waves)
    return np.where((np.arange(size)[:, None] < horizon)[..., None], above, below)


def _stripes(size: int, rng: np.random.Generator) -> np.ndarray:
    angle, period = rng.uniform(0, np.pi), rng.uniform(0.04, 0.25) * size
    line = np.arange(size, dtype=np.float32)
    phase = (np.cos(angle) * line[None] + np.sin(angle) * line[:, None]) * (2 * np.pi / period)
    wave = np.sin(phase) * rng.uniform(0.5, 4) if rng.random() < 0.7 else np.sin(phase)
    if rng.random() < 0.4:
        wave = wave * np.sin(phase.T)
    near = _color(rng)
    far = np.clip(near + rng.uniform(-90, 90, 3), 0, 255)
    return _between(np.clip(0.5 + wave, 0, 1), near, far)


def _grain(size: int, rng: np.random.Generator) -> np.ndarray:
    """Fine texture, like paper, sand or cloth."""
    color = _color(rng)
    stretch = rng.integers(1, 9, 2)
    grain = rng.integers(0, 256, (size // stretch[0] + 1, size // stretch[1] + 1), dtype=np.uint8)
    fine = cv2.resize(grain, (size, size), interpolation=cv2.INTER_LINEAR)
    strength = rng.uniform(10, 60)
    table = np.clip(color + np.linspace(-strength, strength, 256)[:, None], 0, 255)
    return cv2.LUT(cv2.merge([fine] * 3), table.astype(np.uint8)[None])


KINDS = (_flat, _gradient, _radial, _clouds, _blotches, _landscape, _stripes, _grain)

_LETTERS = string.ascii_letters + string.digits


def _add_clutter(image: np.ndarray, rng: np.random.Generator) -> None:
    """Draw shapes and letters, which no phrase names, into `image` in place."""
    size = len(image)
    for _ in range(rng.integers(1, 12)):
        color = tuple(_color(rng).tolist())
        x, y = rng.integers(0, size, 2).tolist()
        here = np.array([x, y])
        reach = max(3, int(size * rng.uniform(0.02, 0.25)))
        thickness = -1 if rng.random() < 0.5 else int(rng.integers(1, 5))
        shape = rng.integers(5)
        if shape == 0:
            cv2.circle(image, (x, y), reach // 2, color, thickness, cv2.LINE_AA)
        elif shape == 1:
            end = (x + reach, y + int(reach * rng.uniform(0.2, 2)))
            cv2.rectangle(image, (x, y), end, color, thickness)
        elif shape == 2:
            points = rng.integers(-reach, reach + 1, (int(rng.integers(3, 6)), 2)) + here
            cv2.fillPoly(image, [points.astype(np.int32)], color, cv2.LINE_AA)
        elif shape == 3:
            points = rng.integers(-2 * reach, 2 * reach + 1, (int(rng.integers(2, 5)), 2)) + here
            line = [points.astype(np.int32)]
            cv2.polylines(image, line, False, color, int(rng.integers(1, 6)), cv2.LINE_AA)
        else:
            text = "".join(_LETTERS[i] for i in rng.integers(0, len(_LETTERS), rng.integers(1, 6)))
            face, scale = int(rng.integers(0, 8)), reach / 30
            cv2.putText(
                image, text, (x, y), face, scale, color, max(1, int(2 * scale)), cv2.LINE_AA
            )
