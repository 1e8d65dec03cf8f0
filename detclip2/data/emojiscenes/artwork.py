"""Emoji in the styles of other artists: a folder of images instead of the font's glyphs."""

import functools
import hashlib
import importlib.util
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from detclip2.utils.errors import UserError

# Width of a rendered image, px: larger than all glyphs of the font, so that it is never enlarged.
RENDERED = 192
# The lowest alpha of visible pixels.
VISIBLE = 8


class Artwork:
    """Images of emoji by code point, from a folder of one of these kinds:

    - an icon set in Iconify's format, with ``icons.json`` and ``chars.json``, as the npm packages
      ``@iconify-json/twemoji``, ``@iconify-json/openmoji`` and ``@iconify-json/fluent-emoji-flat``;
    - files named by code point, ``1f34e.svg`` or ``.png``, in either case, as ``@twemoji/svg`` and
      ``openmoji/color/svg``.

    resvg renders vector graphics (``pip install 'detclip2[artwork]'``). An instance pickles as the
    folder's path, so that loader workers can have it.

    Args:
        folder: a folder of one of these kinds.

    Raises:
        UserError: it is not such a folder, or has vector graphics and resvg is not installed.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise UserError(
                f"{folder}: there is no such folder of artwork; one comes by `npm install "
                "@iconify-json/twemoji` and is then node_modules/@iconify-json/twemoji"
            )
        vectors = _is_iconify(self.folder) or any(
            path.suffix == ".svg" for path in _files(self.folder).values()
        )
        if vectors and importlib.util.find_spec("resvg_py") is None:
            raise UserError(
                f"{folder} has vector graphics, for which a renderer is needed: "
                "pip install 'detclip2[artwork]'"
            )
        if not self._known():
            raise UserError(
                f"{folder} has no pictures named by code point (1f34e.svg or .png), and no "
                "icons.json with chars.json of an Iconify set"
            )

    def __contains__(self, emoji: str) -> bool:
        return _key(emoji) in self._known()

    def picture(self, emoji: str, height: int, width: int) -> np.ndarray:
        """The emoji, scaled to fit and centred: (height, width, 4) uint8, straight RGBA.

        Raises:
            UserError: there is no image of it, or the image cannot be read.
        """
        if emoji not in self:
            raise UserError(f"{self.folder}: has no picture of {emoji!r}")
        try:
            drawn = self._draw(_key(emoji)).convert("RGBA")
        except (OSError, ValueError) as error:
            raise UserError(
                f"{self.folder}: the picture of {emoji!r} is broken: {error}"
            ) from error
        box = drawn.getchannel("A").point(lambda alpha: 255 * (alpha >= VISIBLE)).getbbox()
        if box is None:
            raise UserError(f"{self.folder}: the picture of {emoji!r} is empty")
        drawn = drawn.crop(box)
        scale = min(width / drawn.width, height / drawn.height)
        size = max(1, round(drawn.width * scale)), max(1, round(drawn.height * scale))
        canvas = Image.new("RGBA", (width, height))
        canvas.paste(drawn.resize(size), ((width - size[0]) // 2, (height - size[1]) // 2))
        return np.asarray(canvas)

    def fingerprint(self) -> str:
        """A hash of the folder's images, 16 hexadecimal digits."""
        digest = hashlib.sha256()
        files = (
            [self.folder / "icons.json", self.folder / "chars.json"]
            if _is_iconify(self.folder)
            else _files(self.folder).values()
        )
        for path in files:
            digest.update(path.name.encode() + path.read_bytes())
        return digest.hexdigest()[:16]

    def _known(self) -> frozenset[str]:
        """The code points that have an image."""
        if _is_iconify(self.folder):
            return frozenset(_icons(self.folder))
        return frozenset(_files(self.folder))

    def _draw(self, key: str) -> Image.Image:
        if _is_iconify(self.folder):
            return _render(_icons(self.folder)[key])
        path = _files(self.folder)[key]
        if path.suffix == ".svg":
            return _render(path.read_text(encoding="utf-8"))
        return Image.open(path)


def _key(emoji: str) -> str:
    """The code points in hexadecimal, without the variation selector for colour."""
    return "-".join(f"{ord(letter):x}" for letter in emoji if letter != "\ufe0f")


def _is_iconify(folder: Path) -> bool:
    return (folder / "icons.json").is_file() and (folder / "chars.json").is_file()


@functools.lru_cache(maxsize=4)
def _files(folder: Path) -> dict[str, Path]:
    """Code points -> file, in the order of file names."""
    found = sorted(path for path in folder.iterdir() if path.suffix in (".svg", ".png"))
    return {path.stem.lower().removesuffix("-fe0f"): path for path in found if _is_hex(path.stem)}


def _is_hex(text: str) -> bool:
    return all(part and set(part.lower()) <= set("0123456789abcdef") for part in text.split("-"))


@functools.lru_cache(maxsize=4)
def _icons(folder: Path) -> dict[str, str]:
    """Code points -> SVG, for a set in Iconify's format."""
    try:
        content = json.loads((folder / "icons.json").read_text(encoding="utf-8"))
        names = json.loads((folder / "chars.json").read_text(encoding="utf-8"))
        icons, aliases = content["icons"], content.get("aliases", {})
        found = {}
        for key, name in names.items():
            icon = icons.get(name) or icons.get(aliases.get(name, {}).get("parent"))
            if icon:
                size = [icon.get(edge) or content.get(edge) or 16 for edge in ("width", "height")]
                found[key.removesuffix("-fe0f")] = (
                    f'<svg xmlns="http://www.w3.org/2000/svg" '
                    f'xmlns:xlink="http://www.w3.org/1999/xlink" '
                    f'viewBox="0 0 {size[0]} {size[1]}">{icon["body"]}</svg>'
                )
        return found
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{folder}: is not an icon set of Iconify ({error!r})") from error


def _render(svg: str) -> Image.Image:
    import resvg_py

    data = resvg_py.svg_to_bytes(svg_string=svg, width=RENDERED, skip_system_fonts=True)
    return Image.open(io.BytesIO(bytes(data)))
