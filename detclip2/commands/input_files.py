"""The images and videos that paths of the command line name, and what folders hold besides."""

import os
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from detclip2.data.io.video import is_video

SHOWN = 3
_CAMERA = (".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".raf", ".rw2", ".pef", ".srw")
_HEIC = (".heic", ".heif", ".hif")
# Suffixes of images that Pillow does not read by itself -> what they are, and the remedy.
_REMEDIES = {
    **dict.fromkeys(_HEIC, ("HEIC", "`pip install pillow-heif` to read them")),
    ".avif": ("AVIF", "`pip install 'pillow>=11.3'` to read them"),
    ".jxl": ("JPEG XL", "`pip install pillow-jxl-plugin`, or convert them to PNG"),
    **dict.fromkeys((".svg", ".svgz", ".pdf", ".ai"), ("vector", "convert them to PNG")),
    **dict.fromkeys(_CAMERA, ("camera's raw", "convert them to JPEG or PNG")),
}


class InputFiles(NamedTuple):
    """The files that paths name."""

    files: list[Path]
    """Files to read."""
    errors: list[str]
    """A sentence for each folder that cannot be read or has neither images nor videos."""
    passed_over: list[str]
    """A line for each kind of thing in a folder that is not read."""


def input_files(paths: Iterable[Path], output: Path) -> InputFiles:
    """The files to read, and what is passed over.

    A path that is no folder is a file to read, whatever its name; of a folder, the images and
    videos in it by their suffixes, in the order of their names.

    Args:
        paths: files and folders.
        output: the folder that is written to, which is not listed where it is in one of them.
    """
    inputs = InputFiles([], [], [])
    for path in paths:
        if not os.path.isdir(path):  # Path.is_dir raises for a name that is too long
            inputs.files.append(path)
            continue
        try:
            entries = [entry for entry in sorted(path.iterdir()) if not _same(entry, output)]
        except OSError as error:
            inputs.errors.append(f"{path}: this folder cannot be read: {error.strerror}")
            continue
        reasons = [_why_passed_over(entry) for entry in entries]
        found = [entry for entry, why in zip(entries, reasons, strict=True) if not why]
        if not found:
            inputs.errors.append(f"{path}: there is no image or video in this folder")
        inputs.files.extend(found)
        inputs.passed_over.extend(_lines(path, entries, reasons))
    return inputs


def _same(entry: Path, other: Path) -> bool:
    return entry.absolute() == other.absolute()


def _why_passed_over(entry: Path) -> str:
    """What an entry of a folder is, and the remedy if there is one; "" if it is to be read."""
    suffix = entry.suffix.lower()
    if os.path.isdir(entry):
        return "sub-folder(s): name them, or their files, to read them"
    if entry.name.startswith("."):
        return "hidden file(s)"
    if is_video(entry) or Image.registered_extensions().get(suffix) in Image.OPEN:
        return ""
    if suffix in _HEIC and find_spec("pillow_heif"):
        return ""
    if suffix in _REMEDIES:
        return "{} image(s): {}".format(*_REMEDIES[suffix])
    return "file(s) that are neither images nor videos by their names"


def _lines(folder: Path, entries: list[Path], reasons: list[str]) -> list[str]:
    """A line for each kind of what is passed over, with its number and first names."""
    names: dict[str, list[str]] = {}
    for entry, why in zip(entries, reasons, strict=True):
        if why:
            names.setdefault(why, []).append(entry.name)
    return [
        f"passed over in {folder}: {len(of_kind)} {why} ({', '.join(of_kind[:SHOWN])}"
        f"{', ...' if len(of_kind) > SHOWN else ''})"
        for why, of_kind in names.items()
    ]
