"""Images wherever they are: files, members of tars, addresses."""

import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np
from PIL import Image

from detclip2.data.io.image import read_image
from detclip2.data.io.tar import MAX_FILE_BYTES, CheckedTarInfo, is_compressed
from detclip2.data.io.url import fetch, is_url
from detclip2.utils.errors import UserError

Count = Callable[[str, str], object]
"""Counts a skip: its kind (`detclip2.data.skips.KINDS`) and a sentence."""


class ImageItem(NamedTuple):
    """An image, and where its content is."""

    name: str
    """Its name in results: relative to the folder that was given, ``a.tar/member`` or a URL."""
    path: str
    """The file, the tar that has it, or the URL."""
    offset: int = -1
    """Where it begins in the tar, bytes; -1: it is no member of a tar."""
    size: int = 0
    """Its length in the tar, bytes."""

    @property
    def identity(self) -> str:
        """Equal for items of one image."""
        where = self.path if is_url(self.path) else os.path.abspath(self.path)
        return where if self.offset < 0 else f"{where}\0{self.offset}"

    @property
    def shown(self) -> str:
        """The image in messages."""
        return self.path if self.offset < 0 else self.name

    def read(self) -> np.ndarray:
        """The image.

        Returns:
            (H, W, 3) uint8 RGB, see `read_image`.

        Raises:
            UserError: it cannot be read.
        """
        if self.offset >= 0:
            return read_image(self._member(), self.name)
        if is_url(self.path):
            return read_image(fetch(self.path), self.path)
        return read_image(self.path)

    def _member(self) -> bytes:
        try:
            with open(self.path, "rb") as file:
                file.seek(self.offset)
                content = file.read(self.size)
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read: {error.strerror}") from None
        if len(content) < self.size:
            raise UserError(f"{self.name}: the tar ends in the middle of this image")
        return content


def is_image_name(name: str) -> bool:
    """Whether a name has the suffix of a format that Pillow reads."""
    suffix = PurePosixPath(name).suffix.lower()
    return Image.registered_extensions().get(suffix) in Image.OPEN


def items_of_tar(path: str, count: Count) -> Iterator[ImageItem]:
    """The images of a tar by their names, in order; their content is not read.

    Args:
        path: a tar that is not compressed, so that each image can be read by itself.
        count: counts members that cannot be used, and damage.

    Raises:
        UserError: the tar cannot be opened, or is compressed.
    """
    base = os.path.basename(path)
    try:
        with tarfile.open(path, "r:", tarinfo=CheckedTarInfo) as tar:
            for member in tar:
                tar.members = []  # type: ignore[attr-defined]  # free memory
                if not is_image_name(member.name) or _is_hidden(member.name):
                    continue
                if not member.isreg() or member.issparse():
                    count("member-unusable", f"{path}: {member.name} is no regular file")
                elif member.size > MAX_FILE_BYTES:
                    count("member-unusable", f"{path}: {member.name} has {member.size:,} bytes")
                else:
                    yield ImageItem(f"{base}/{member.name}", path, member.offset_data, member.size)
    except tarfile.ReadError as error:
        if is_compressed(path):
            raise UserError(f"{path}: this tar is compressed; unpack it (gunzip) first") from None
        count("shard-unreadable", f"{path}: {error}")
    except (tarfile.TarError, EOFError, ValueError) as error:
        count("shard-unreadable", f"{path}: {error}")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None


def _is_hidden(name: str) -> bool:
    return PurePosixPath(name).name.startswith(".")
