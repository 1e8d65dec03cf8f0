"""The images and videos that arguments of the command line name, and what folders hold besides."""

import glob
import os
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple, TypeAlias

from detclip2.data.io.image_item import ImageItem, is_image_name, items_of_tar
from detclip2.data.io.live_video import LiveVideo, is_live
from detclip2.data.io.url import is_url
from detclip2.data.io.video import is_video
from detclip2.data.skips import KINDS
from detclip2.utils.errors import UserError

SHOWN = 3
HELP = (
    "an image, a video, a folder with all that is below it, a pattern ('scans/**/*.png'), a .tar, "
    "a .txt list of them with one a line, or the address of an image"
)
Input: TypeAlias = ImageItem | Path | LiveVideo
"""An image, the file of a video, or a video without end."""

_LISTS = (".txt", ".lst")
_COMPRESSED_TARS = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
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
    """What arguments name."""

    files: list[Input]
    """What is to be read."""
    errors: list[str]
    """A sentence for each argument that cannot be read, or has neither images nor videos."""
    passed_over: list[str]
    """A line for each kind of thing in a folder or tar that is not read."""


def input_files(arguments: Iterable[str | os.PathLike[str]], output: Path) -> InputFiles:
    """What arguments name, as one list; see `InputLister`."""
    lister = InputLister(output)
    files = [*lister.items(arguments)]
    return InputFiles(files, lister.errors, lister.passed_over())


class InputLister:
    """Lists what arguments name, one after the other, and counts what is passed over.

    A path that is neither a folder, a tar nor a list is a file to read, whatever its name. Of a
    folder, the images and videos in and below it count by their suffixes, in the order of their
    names; of a tar, the images. An image's name in results is relative to the folder that is the
    only argument, else it begins as the argument does.

    Args:
        output: the folder that is written to, which is not listed where it is in one of them.
    """

    def __init__(self, output: Path) -> None:
        self.output = os.path.abspath(output)
        self.errors: list[str] = []
        """A sentence for each argument that cannot be read, or has neither images nor videos."""
        self._passed_over: dict[tuple[str, str], tuple[int, list[str]]] = {}

    def items(self, arguments: Iterable[str | os.PathLike[str]]) -> Iterator[Input]:
        """What the arguments name."""
        texts = [os.fspath(argument) for argument in arguments]
        alone = len(texts) == 1
        for text in texts:
            yield from self._argument(text, alone)

    def passed_over(self) -> list[str]:
        """A line for each kind of what was passed over so far, with its number and first names."""
        return [
            f"passed over in {where}: {number} {why} ({', '.join(names)}"
            f"{', ...' if number > SHOWN else ''})"
            for (where, why), (number, names) in self._passed_over.items()
        ]

    def _argument(self, text: str, alone: bool = False) -> Iterator[Input]:
        suffix = os.path.splitext(text)[1].lower()
        if is_live(text) or (is_url(text) and is_video(text)):
            yield LiveVideo(text)
        elif is_url(text):
            yield ImageItem(text, text)
        elif os.path.isdir(text):  # Path.is_dir raises for a name that is too long
            yield from self._folder(text, alone)
        elif glob.has_magic(text) and not os.path.lexists(text):
            yield from self._pattern(text)
        elif _is_tar(text):
            yield from self._tar(text)
        elif suffix in _LISTS:
            yield from self._list_file(text)
        elif is_video(text):
            yield Path(text)
        else:
            yield ImageItem(text, text)

    def _folder(self, root: str, alone: bool) -> Iterator[Input]:
        found = False

        def fail(error: OSError) -> None:
            self.errors.append(f"{error.filename}: this folder cannot be read: {error.strerror}")

        before = len(self.errors)
        for folder, below, files in os.walk(root, onerror=fail):
            kept = []
            for name in sorted(below):
                path = os.path.join(folder, name)
                if os.path.abspath(path) == self.output:
                    continue
                if why := _why_folder_passed_over(path):
                    self.pass_over(root, why, os.path.relpath(path, root))
                else:
                    kept.append(name)
            below[:] = kept
            for name in sorted(files):
                path = os.path.join(folder, name)
                inside = os.path.relpath(path, root)
                if why := _why_passed_over(path):
                    self.pass_over(root, why, inside)
                    continue
                found = True
                yield Path(path) if is_video(path) else ImageItem(inside if alone else path, path)
        if not found and len(self.errors) == before:
            self.errors.append(f"{root}: there is no image or video in this folder")

    def _tar(self, path: str) -> Iterator[Input]:
        found = False

        def count(kind: str, message: str) -> None:
            self.pass_over(path, KINDS[kind], message.removeprefix(f"{path}: "))

        try:
            for item in items_of_tar(path, count):
                found = True
                yield item
        except UserError as error:
            self.errors.append(str(error))
        else:
            if not found:
                self.errors.append(f"{path}: there is no image in this tar")

    def _list_file(self, path: str) -> Iterator[Input]:
        """The lines of a list; names in it are relative to its folder."""
        folder, found = os.path.dirname(path), False
        try:
            # Names need not be UTF-8.
            with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
                for line in file:
                    if name := line.rstrip("\r\n").strip():
                        found = True
                        yield from self._listed(name, folder)
        except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
            reason = getattr(error, "strerror", None) or error
            self.errors.append(f"{path}: this list cannot be read: {reason}")
            return
        if not found:
            self.errors.append(f"{path}: this list is empty")

    def _listed(self, name: str, folder: str) -> Iterator[Input]:
        if is_url(name) or is_live(name):
            yield from self._argument(name)
            return
        path, suffix = os.path.join(folder, name), os.path.splitext(name)[1].lower()
        is_pattern = glob.has_magic(name) and not os.path.lexists(path)
        if suffix in _LISTS:
            self.errors.append(f"{path}: a list in a list is not read")
        elif is_pattern or _is_tar(name) or _is_folder(name, path):
            yield from self._argument(path)
        else:
            yield Path(path) if is_video(path) else ImageItem(name, path)

    def _pattern(self, pattern: str) -> Iterator[Input]:
        found = sorted(glob.glob(pattern, recursive=True))
        if not found:
            self.errors.append(f"{pattern}: no file fits this pattern")
        # "**" matches folders too: what it finds in them is found by itself.
        for path in [path for path in found if not os.path.isdir(path)] or found:
            is_container = os.path.isdir(path) or path.lower().endswith(".tar")
            if is_container or not (why := _why_passed_over(path)):
                yield from self._argument(path)
            else:
                self.pass_over(pattern, why, path)

    def pass_over(self, where: str, why: str, name: str) -> None:
        """Count a thing that is not read: where it is, what it is, and its name."""
        number, names = self._passed_over.get((where, why), (0, []))
        self._passed_over[where, why] = (
            number + 1,
            ([*names, name] if len(names) < SHOWN else names),
        )


def _is_tar(name: str) -> bool:
    return name.lower().endswith((".tar", *_COMPRESSED_TARS))


def _is_folder(name: str, path: str) -> bool:
    """Whether a line of a list is a folder; the disk is not asked for names of images."""
    return not is_image_name(name) and os.path.isdir(path)


def _why_folder_passed_over(path: str) -> str:
    if os.path.basename(path).startswith("."):
        return "hidden folder(s)"
    return "link(s) to folders: name them to read them" if os.path.islink(path) else ""


def _why_passed_over(path: str) -> str:
    """What a file of a folder is, and the remedy if there is one; "" if it is to be read."""
    suffix = os.path.splitext(path)[1].lower()
    if os.path.basename(path).startswith("."):
        return "hidden file(s)"
    if is_video(path) or is_image_name(path):
        return ""
    if suffix in _HEIC and find_spec("pillow_heif"):
        return ""
    if suffix in _REMEDIES:
        return "{} image(s): {}".format(*_REMEDIES[suffix])
    if suffix == ".tar":
        return "tar(s): name them to read the images in them"
    return "file(s) that are neither images nor videos by their names"
