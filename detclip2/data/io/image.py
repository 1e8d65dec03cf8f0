"""Images from files, bytes, Pillow, arrays and tensors, as (H, W, 3) uint8 RGB arrays.

PyTorch is not imported here: `detclip2.export.runner` reads images without it.
"""

import io
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeGuard

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from detclip2.data.io.video import is_video
from detclip2.utils.errors import UserError

if TYPE_CHECKING:
    import torch

ImageSource: TypeAlias = "str | PathLike[str] | bytes | np.ndarray | Image.Image | torch.Tensor"

# Pillow warns above 89 megapixels and refuses above 179. Aerial images can be larger, so this limit
# replaces Pillow's: 400 megapixels are 1.2 GB as an array, which fits a common machine.
MAX_PIXELS = 400_000_000

# PostScript, which Pillow gives to Ghostscript, and Windows metafiles, for the system to draw.
_PROGRAMS = ("EPS", "WMF")
# "mif1" and "msf1" are of HEIF in general: most are HEIC.
_HEIC_BRANDS = {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"}
_AVIF_BRANDS = {b"avif", b"avis"}
_TRANSPARENT_MODES = {"RGBA", "RGBa", "LA", "La", "PA"}
_PLAIN_MODES = {"1", "L", "LA", "P", "RGB", "RGBA"}  # `read_image` takes all of their values
_TURNED = range(5, 9)  # EXIF orientations that swap width and height
_pillow_limit_lock = threading.Lock()


def read_image(
    source: ImageSource, name: str | None = None, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """Read an image from a file, its bytes, or pixels in memory.

    - Files and bytes: every format of Pillow but EPS and WMF, which are programs, and HEIC if
      pillow-heif is installed. The first frame of an animation.
    - Pillow images, also from files: any mode. The EXIF orientation is applied, so the image and
      the boxes found in it are as a viewer shows them.
    - Arrays (H, W), (H, W, 1), (H, W, 3) or (H, W, 4): RGB, not OpenCV's BGR.
    - Tensors (H, W), (1, H, W), (3, H, W) or (4, H, W): RGB, on any device.

    Values are 0..255 for integers, 0..1 for floats, and the full range for uint16, whose upper 8
    bits are kept. Transparent pixels are blended with white, because their own colour is arbitrary.
    Colour profiles are not applied, as in Detectron2.

    Args:
        source: the image.
        name: name of the image in messages; the file's name by default.
        max_pixels: limit of a file or of bytes, at most `MAX_PIXELS`; checked before decoding.

    Returns:
        (H, W, 3) uint8 RGB, contiguous; H and W are at least 1.

    Raises:
        UserError: the file is missing, a folder, empty, truncated, not an image, or of a format
            that needs another library; the image has too many pixels, or a shape, type or value
            range that is not listed above.
    """
    if _is_tensor(source):
        return _from_tensor(source, name or "the image tensor")
    if isinstance(source, np.ndarray):
        return _from_array(source, name or "the image array")
    if isinstance(source, Image.Image):
        return _from_pillow(source, name or "the Pillow image")
    if isinstance(source, bytes | bytearray | memoryview):
        return _from_bytes(bytes(source), name or "the image bytes", max_pixels)
    if isinstance(source, str | PathLike):
        path = Path(source)
        if is_video(path):
            raise UserError(f"{path}: this is a video, where an image is expected.")
        return _from_bytes(_file_bytes(path), name or str(path), max_pixels)
    raise UserError(
        f"{name or 'The image'} is a {type(source).__name__}; expected a path, bytes, a numpy "
        "array (H, W, 3), a Pillow image or a tensor (3, H, W)."
    )


def _file_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: this image does not exist.") from None
    except IsADirectoryError:
        raise UserError(f"{path}: this is a folder, not an image.") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: this image cannot be read: {reason}.") from None


def _from_bytes(data: bytes, name: str, max_pixels: int) -> np.ndarray:
    with _opened(data, name, max_pixels) as image:
        return _from_pillow(image, name, max_pixels)


def _opened(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The image with its header read."""
    if not data:
        raise UserError(f"{name}: this image is empty (0 bytes).")
    library = _needed_library(data, name)
    try:
        with _own_pillow_limit(max_pixels):
            image = Image.open(io.BytesIO(data))
    except Image.DecompressionBombError as error:
        what = str(error).partition(" exceeds")[0]  # Pillow names twice the limit
        raise UserError(f"{name}: {what}; {_too_large(max_pixels)}") from None
    except UnidentifiedImageError:
        if library:
            raise UserError(f"{name}: {library}.") from None
        raise UserError(f"{name}: this is not an image, or its head is damaged.") from None
    except Exception as error:  # Pillow's parsers raise almost anything for a damaged header
        raise UserError(f"{name}: this image is damaged: {error}.") from None
    if image.format in _PROGRAMS:
        image.close()
        raise UserError(
            f"{name}: this {image.format} file is a program that draws, which is not run. Turn "
            "it into PNG first."
        )
    return image


def _needed_library(data: bytes, name: str) -> str:
    """What to install if Pillow cannot open an image of this format; "" for most formats.

    HEIC and AVIF are boxes of ISO 14496-12: after 4 bytes comes "ftyp", and then the brand.
    """
    if data[4:8] != b"ftyp" or data[8:12] not in _HEIC_BRANDS | _AVIF_BRANDS:
        return ""
    if data[8:12] in _AVIF_BRANDS:
        return "this is an AVIF image; Pillow reads them from version 11.3: pip install -U pillow"
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return "this is a HEIC image, which pillow-heif reads: pip install 'detclip2[heif]'"
    register_heif_opener()
    return "this is a damaged HEIC image"


def _from_pillow(image: Image.Image, name: str, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    width, height = image.size
    is_tiff = image.format == "TIFF"
    _check_size(height, width, name, max_pixels)
    try:
        image.load()
    except Exception as error:  # Pillow's decoders raise almost anything for damaged data
        raise UserError(f"{name}: this image is truncated or damaged: {error}.") from None
    image = _upright(image)
    if image.mode.startswith(("I", "F")):  # 16-bit greyscale is "I;16" or "I"; "F" is 0..1
        pixels = np.asarray(image)
        # Of 32 bits, other formats have 16 that are used; a TIFF may have 8.
        if image.mode == "I" and not (is_tiff and pixels.max() <= 255):
            pixels = _narrowed(pixels, np.uint16, name)
        return _from_array(pixels, name)
    if image.mode in _TRANSPARENT_MODES or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    try:
        # `convert` would copy an RGB image, which takes a tenth of the time of decoding.
        return np.array(image if image.mode == "RGB" else image.convert("RGB"))
    except ValueError:
        raise UserError(f"{name}: colour mode {image.mode} cannot be turned into RGB.") from None


class Header(NamedTuple):
    """The size of an image file, px."""

    size: tuple[int, int]
    """Width and height as a viewer shows the image, and as `read_image` returns it."""
    stored: tuple[int, int]
    """Width and height before the EXIF orientation is applied: those of the sensor."""


def check_image(path: str | PathLike[str]) -> Header:
    """Check that `read_image` can read a file, in a fraction of its time.

    JPEGs are decoded at an eighth of their size, and the checksums of PNGs are compared, which
    finds files that are truncated or damaged. Other files are decoded.

    Raises:
        UserError: see `read_image`.
    """
    name, data = str(path), _file_bytes(Path(path))
    with _opened(data, name) as image:
        _check_size(image.height, image.width, name)
        size = image.width, image.height
        try:
            # The EXIF of a PNG may be at its end: Pillow decodes the whole image to read it.
            has_exif = b"eXIf" in data or b"Raw profile type exif" in data
            if image.format == "PNG" and image.mode in _PLAIN_MODES and not has_exif:
                image.verify()
                return Header(size, size)
            turned = _orientation(image) in _TURNED
            if image.format == "JPEG":
                image.draft("RGB", (1, 1))
                image.load()
                return Header(size[::-1] if turned else size, size)
            height, width = _from_pillow(image, name).shape[:2]
        except UserError:
            raise
        except Exception as error:  # Pillow's decoders raise almost anything for damaged data
            raise UserError(f"{name}: this image is truncated or damaged: {error}.") from None
    return Header((width, height), (height, width) if turned else (width, height))


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged EXIF does not mean damaged pixels
        return 1


def _upright(image: Image.Image) -> Image.Image:
    try:
        # Most images are upright; Pillow would copy them.
        return image if _orientation(image) == 1 else ImageOps.exif_transpose(image)
    except Exception:  # of damaged EXIF, as above
        return image


def _is_tensor(source: Any) -> "TypeGuard[torch.Tensor]":
    """Whether it is a tensor of PyTorch, which is then imported already."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(source, torch.Tensor)


def _from_tensor(tensor: "torch.Tensor", name: str) -> np.ndarray:
    if tensor.ndim == 4:
        raise UserError(f"{name} is a batch {tuple(tensor.shape)}; pass list(batch) instead.")
    if tensor.ndim == 3:
        if tensor.shape[0] not in (1, 3, 4):
            raise UserError(f"{name} has shape {tuple(tensor.shape)}; expected (3, H, W), RGB.")
        tensor = tensor.permute(1, 2, 0)
    if tensor.is_floating_point() and tensor.element_size() < 4:
        tensor = tensor.float()  # numpy has no bfloat16
    return _from_array(tensor.detach().cpu().numpy(), name)


def _from_array(array: np.ndarray, name: str) -> np.ndarray:
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
        raise UserError(f"{name} has shape {array.shape}; expected (H, W, 3), RGB.")
    _check_size(array.shape[0], array.shape[1], name)
    array = _as_uint8(array, name)
    if array.shape[2] == 4:
        return _from_pillow(Image.fromarray(np.ascontiguousarray(array), "RGBA"), name)
    if array.shape[2] == 1:
        array = np.repeat(array, 3, axis=2)
    return np.array(array, order="C")


def _as_uint8(array: np.ndarray, name: str) -> np.ndarray:
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind == "u" and array.dtype.itemsize == 2:  # of either byte order
        return (array >> 8).astype(np.uint8)
    if array.dtype == bool:
        return array.astype(np.uint8) * 255
    if np.issubdtype(array.dtype, np.integer):
        return _narrowed(array, np.uint8, name)
    if np.issubdtype(array.dtype, np.floating):
        # Resampling overshoots slightly. NaN fails this form of the test too.
        if not (array.min() >= -1e-3 and array.max() <= 1 + 1e-3):
            raise UserError(
                f"{name} holds floats outside 0..1 or NaN; turn 0..255 into uint8 first."
            )
        return np.rint(array.clip(0, 1) * 255).astype(np.uint8)
    raise UserError(f"{name} has dtype {array.dtype}; expected uint8, or floats in 0..1.")


def _narrowed(array: np.ndarray, dtype: type[np.unsignedinteger], name: str) -> np.ndarray:
    """The same integers in a narrower type; UserError if they do not fit."""
    if array.min() < 0 or array.max() > np.iinfo(dtype).max:
        raise UserError(
            f"{name} holds {array.dtype} values {array.min()}..{array.max()}; expected "
            f"0..{np.iinfo(dtype).max}."
        )
    return array.astype(dtype)


def _check_size(height: int, width: int, name: str, max_pixels: int = MAX_PIXELS) -> None:
    if height == 0 or width == 0:
        raise UserError(f"{name} is {width} x {height} pixels: there is nothing to see in it.")
    if height * width > max_pixels:
        raise UserError(f"{name} is {width} x {height} pixels; {_too_large(max_pixels)}")


def _too_large(max_pixels: int) -> str:
    limit = f"the limit is {max_pixels / 10**6:g} megapixels"
    return f"{limit}. Cut it into tiles or scale it down first."


@contextmanager
def _own_pillow_limit(max_pixels: int) -> Iterator[None]:
    """Replace Pillow's limit by another while a file is opened.

    Our limit is checked before pixels are decoded, but an ICO decodes the image inside of it
    already here. Pillow warns above its limit and refuses twice as much. It is a global variable,
    so it is changed under a lock and then restored.
    """
    with _pillow_limit_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        before = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = max_pixels
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before
