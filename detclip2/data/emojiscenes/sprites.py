"""Sprites: images of single emoji from a colour font or artwork, at several sizes."""

import functools
import io
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from detclip2.data.emojiscenes.artwork import Artwork
from detclip2.utils.errors import UserError

FONT_NAME = "NotoColorEmoji.ttf"
FONT_FOLDERS = (
    "/usr/share/fonts",
    "/usr/local/share/fonts",
    "~/.local/share/fonts",
    "~/.fonts",
    "/Library/Fonts",
    "~/Library/Fonts",
    "/opt/homebrew/share/fonts",
)
# The only size of Noto's colour glyphs, which are bitmaps; FreeType refuses others.
STRIKE = 109


def find_emoji_font(path: str | Path | None = None) -> Path:
    """The colour emoji font: `path`, or $DETCLIP2_EMOJI_FONT, or the system's.

    Raises:
        UserError: there is none; the message explains how to install it.
    """
    named = path or os.environ.get("DETCLIP2_EMOJI_FONT")
    if named:
        if Path(named).is_file():
            return Path(named)
        raise UserError(f"{named}: there is no such font file; expected {FONT_NAME}")
    for folder in FONT_FOLDERS:
        for found in sorted(Path(folder).expanduser().rglob(FONT_NAME)):
            return found
    if (found_by_fontconfig := _ask_fontconfig()) is not None:
        return found_by_fontconfig
    raise UserError(
        f"EmojiScenes needs the font {FONT_NAME}, which was not found; "
        "install it with `apt-get install fonts-noto-color-emoji`, "
        "or give its path in the environment variable DETCLIP2_EMOJI_FONT"
    )


def _ask_fontconfig() -> Path | None:
    try:
        answer = subprocess.run(
            ["fc-list", ":family=Noto Color Emoji", "file"],
            capture_output=True, text=True, timeout=20, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    files = [Path(line.strip().rstrip(":").strip()) for line in answer.stdout.splitlines()]
    return next((file for file in sorted(files) if file.name == FONT_NAME), None)


@functools.lru_cache(maxsize=4)
def _load_font(path: Path) -> ImageFont.FreeTypeFont:
    try:
        # Basic layout: every category is one code point, so no shaping library is needed.
        # From bytes: for a path that is not a font, Pillow opens the system's file of that name.
        data = io.BytesIO(path.read_bytes())
        return ImageFont.truetype(data, STRIKE, layout_engine=ImageFont.Layout.BASIC)
    except OSError as error:
        raise UserError(
            f"{path}: is not a colour emoji font with glyphs of {STRIKE} px ({error})"
        ) from error


def draw_glyph(text: str, font: Path) -> np.ndarray:
    """An emoji, cropped to its visible part: (H, W, 4) uint8, RGBA, straight alpha.

    Raises:
        UserError: the font has no glyph for it.
    """
    face = _load_font(font)
    canvas = Image.new("RGBA", (160, 160))
    ImageDraw.Draw(canvas).text((12, 12), text, font=face, embedded_color=True)
    box = canvas.getchannel("A").getbbox()
    if box is None:
        raise UserError(f"{font}: has no picture of {text!r}; a newer Noto Color Emoji is needed")
    return np.asarray(canvas.crop(box))


@dataclass(frozen=True)
class Sprite:
    """An emoji at several sizes.

    `levels[i]` is (H / 2**i, W / 2**i, 4) uint8, RGBA with colour premultiplied by alpha, so that
    interpolation does not bleed the colour of transparent pixels. `height` and `width` are those of
    the glyph, in pixels of level 0; each level has a transparent border of `BORDER` pixels.
    """

    levels: tuple[np.ndarray, ...]
    height: int
    width: int

    BORDER = 2

    def level_for(self, scale: float) -> int:
        """Index of the level to draw at `scale`: the smallest that is not enlarged, if any."""
        return int(np.clip(np.floor(-np.log2(max(scale, 1e-6))), 0, len(self.levels) - 1))


def make_sprite(text: str, font: Path, levels: int = 4, artwork: Artwork | None = None) -> Sprite:
    """Draw `text` and halve it repeatedly; images of artwork get the size of the font's glyph."""
    drawn = draw_glyph(text, font)
    height, width = drawn.shape[:2]
    if artwork is not None:
        drawn = artwork.picture(text, height, width)
    glyph = drawn.astype(np.float32)
    glyph[..., :3] *= glyph[..., 3:] / 255.0
    sizes = [glyph]
    while len(sizes) < levels:
        h, w = sizes[-1].shape[:2]
        # Odd sizes get a transparent row or column, so that levels are exact halves.
        even = np.pad(sizes[-1], ((0, h % 2), (0, w % 2), (0, 0)))
        sizes.append(even.reshape(-(-h // 2), 2, -(-w // 2), 2, 4).mean(axis=(1, 3)))
    border = ((Sprite.BORDER,) * 2, (Sprite.BORDER,) * 2, (0, 0))
    padded = tuple(np.pad(np.rint(size).astype(np.uint8), border) for size in sizes)
    return Sprite(padded, height, width)


class SpriteSheet:
    """The sprites of a font or of artwork, drawn on first access and cached.

    Sprites of artwork have the size of the font's glyphs, so that layouts are the same. A sheet
    pickles as its paths, so that loader workers can have it.

    Args:
        font: see `find_emoji_font`.
        artwork: folder of an `Artwork`; None for the font's glyphs.
    """

    def __init__(self, font: str | Path | None = None, artwork: str | Path | None = None):
        self.font = find_emoji_font(font)
        self.artwork = Artwork(artwork) if artwork else None
        self._sprites: dict[str, Sprite] = {}

    def __getitem__(self, text: str) -> Sprite:
        sprite = self._sprites.get(text)
        if sprite is None:
            sprite = self._sprites[text] = make_sprite(text, self.font, artwork=self.artwork)
        return sprite

    def __getstate__(self) -> dict:
        return {"font": self.font, "artwork": self.artwork, "_sprites": {}}


def warp_sprite(
    sprite: Sprite, scale: float, angle: float, mirror: bool, center: tuple[float, float]
) -> tuple[np.ndarray, int, int]:
    """Scale, turn and perhaps mirror a sprite, about `center` (x, y) in pixels.

    `scale` is relative to level 0, `angle` in degrees. Returns the patch (h, w, 4) uint8,
    premultiplied RGBA, and the column and row of its top left corner in the scene.
    """
    level = sprite.level_for(scale)
    image = sprite.levels[level]
    zoom = scale * 2**level
    cosine, sine = np.cos(np.radians(angle)) * zoom, np.sin(np.radians(angle)) * zoom
    linear = np.array([[-cosine if mirror else cosine, -sine], [-sine if mirror else sine, cosine]])
    middle = np.array([sprite.width, sprite.height]) / 2**level / 2 + Sprite.BORDER - 0.5
    half = np.abs(linear) @ (middle + 1.0)
    left, top = np.floor(np.asarray(center) - half).astype(int)
    width, height = np.ceil(2 * half).astype(int) + 2
    shift = np.asarray(center) - 0.5 - (left, top) - linear @ middle
    patch = cv2.warpAffine(
        image, np.column_stack([linear, shift]), (int(width), int(height)), flags=cv2.INTER_LINEAR
    )
    return patch, int(left), int(top)
