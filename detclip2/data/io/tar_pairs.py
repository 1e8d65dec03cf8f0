"""Image-text pairs of a tar shard: which members belong together, and what is not read.

Training (`detclip2.data.io.shards`) and ``detclip2 phrases`` read shards by this module alone, so
that they find the same captions. It does not import torch.
"""

import tarfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from detclip2.data.io.tar import files_of_tar
from detclip2.utils.json_text import parse_json

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff")
PHRASES_SUFFIX = "phrases.json"
_SUFFIXES = (*IMAGE_SUFFIXES, "txt", "json")

MAX_HELD = 2**28
"""Most bytes of incomplete pairs in memory, for tars that are not sorted by name."""

Count = Callable[[str, str], Any]
"""Counts a skip: its kind (`detclip2.data.skips.KINDS`) and a message."""

_Files = dict[str, bytes]  # suffix -> content


class Pair(NamedTuple):
    """A caption of a shard, with its image."""

    key: str
    """The path of its members in the tar, without the suffix."""
    caption: Any
    """Bytes of a ``.txt``, or the ``caption`` of a ``.json``: a text, or a list of them."""
    caption_name: str
    """Suffix of the member that has the caption: txt or json."""
    phrases: Any
    """As the shard gives them; None if it does not."""
    image: bytes | None
    """The content of the image file; None if there is none."""


def read_members(stream: Any, url: str, count: Count) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """The files of a tar with their contents, up to any damage, which is counted."""

    def skip(sentence: str) -> None:
        count("member-unusable", f"{url}: {sentence}")

    try:
        yield from files_of_tar(stream, skip)
    except Exception as error:  # of the tar, its compression, or the stream
        count("shard-unreadable", f"{url}: {error.args[0] if error.args else error}")


def split_name(name: str) -> tuple[str, str] | None:
    """The key and the suffix, in lower case, of a member; None if it is not of a pair.

    The suffix begins at the last dot, so keys may have dots: ``photo.v1.000.jpg``. (In WebDataset
    it begins at the first one; names without further dots are the same in both.)
    """
    base = name[name.rfind("/") + 1 :]
    suffix = base.rpartition(".")[2].lower()
    if base.lower().endswith(f".{PHRASES_SUFFIX}"):
        suffix = PHRASES_SUFFIX
    elif suffix not in _SUFFIXES:
        return None
    # Hidden files are of the system that made the tar, such as macOS' "._000.jpg".
    return None if base.startswith(".") else (name[: -len(suffix) - 1], suffix)


def read_pairs(stream: Any, url: str, count: Count) -> Iterator[Pair]:
    """The captions of a shard with their images, in the order of the tar.

    Args:
        stream: the open tar, which may be compressed; it is read once, without seeking.
        url: name of the tar in messages.
        count: counts damage, members that are not read, and pairs without a caption.
    """
    for key, files in _grouped(_named(stream, url, count), url, count):
        pair = _pair(key, files, f"{url}/{key}", count)
        if pair is not None:
            yield pair


def _named(stream: Any, url: str, count: Count) -> Iterator[tuple[str, str, bytes]]:
    """Key, suffix and content of each member that may belong to a pair."""
    for member, content in read_members(stream, url, count):
        name = split_name(member.name)
        if name is None:
            count("member-unread", f"{url}/{member.name}: neither an image nor a .txt or .json")
        else:
            yield (*name, content)


def _grouped(
    members: Iterable[tuple[str, str, bytes]], url: str, count: Count
) -> Iterator[tuple[str, _Files]]:
    """The members by key.

    In a sorted tar, the members of a key follow each other, and one key is in memory. Otherwise
    keys are held until their members have come: incomplete ones, and all of them once a member has
    come late, since another one may (all images, then all texts, then all phrases).
    """
    held, last, is_sorted = _Held(), "", True
    for key, suffix, content in members:
        files = held.files.get(key, {})
        if key != last:
            is_sorted = is_sorted and not files
            if is_sorted and _is_whole(held.files.get(last, {})):
                yield held.pop(last)
        if suffix in files:
            if not _is_whole(files):
                count("member-unread", f"{url}/{key}.{suffix}: a second member of this name")
                continue
            yield held.pop(key)  # the next pair has the same name, as in tars that were joined
        held.add(key, suffix, content)
        last = key
        while held.size > MAX_HELD and len(held.files) > 1:
            oldest, files = held.pop(next(iter(held.files)))
            if _is_whole(files):
                yield oldest, files
            else:
                message = f"its members are over {MAX_HELD >> 20} MB apart: sort the tar by name"
                count("record-malformed", f"{url}/{oldest}: {message}")
    yield from held.files.items()


class _Held:
    """Members by key, in the order of the tar, and the size of their contents in bytes."""

    def __init__(self) -> None:
        self.files: dict[str, _Files] = {}
        self.size = 0

    def add(self, key: str, suffix: str, content: bytes) -> None:
        """Hold a member."""
        self.files.setdefault(key, {})[suffix] = content
        self.size += len(content)

    def pop(self, key: str) -> tuple[str, _Files]:
        """The key and its members, which are not held any more."""
        files = self.files.pop(key)
        self.size -= sum(map(len, files.values()))
        return key, files


def _is_whole(files: _Files) -> bool:
    """Whether there are an image and a file that may have the caption."""
    return ("txt" in files or "json" in files) and bool(_images(files))


def _images(files: _Files) -> list[str]:
    return [suffix for suffix in IMAGE_SUFFIXES if suffix in files]


def _pair(key: str, files: _Files, where: str, count: Count) -> Pair | None:
    """The pair of the members of a key; None if there is no caption, which is counted."""
    images = _images(files)
    for suffix in images[1:]:
        count("member-unread", f"{where}.{suffix}: a second image, beside .{images[0]}")
    caption_name = "txt" if "txt" in files else "json"
    try:
        details = parse_json(files.get("json", b"{}"))
        phrases = details.get("phrases")
        if PHRASES_SUFFIX in files:
            phrases = parse_json(files[PHRASES_SUFFIX])
        if caption_name == "json" and "caption" not in details:
            raise ValueError("there is neither a .txt nor a .json with a caption")
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        count("record-malformed", f"{where}: {error}")
        return None
    caption = files["txt"] if caption_name == "txt" else details["caption"]
    image = files[images[0]] if images else None
    return Pair(key, caption, caption_name, phrases, image)
