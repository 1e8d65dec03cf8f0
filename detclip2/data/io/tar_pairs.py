"""Image-text pairs of a tar shard: which members belong together, and what is not read.

Training (`detclip2.data.io.shards`, `detclip2.data.io.shard_stream`) and ``detclip2 phrases`` read
shards by this module alone, so that they find the same captions. It does not import torch.
"""

import tarfile
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, Generic, NamedTuple, TypeVar

from detclip2.data.io.tar import files_in_memory, files_of_tar, ranges_of_tar
from detclip2.utils.json_text import parse_json

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff")
PHRASES_SUFFIX = "phrases.json"
_SUFFIXES = (*IMAGE_SUFFIXES, "txt", "json")

MAX_HELD = 2**28
"""Most bytes of incomplete pairs in memory, for tars that are not sorted by name."""

Count = Callable[[str, str], Any]
"""Counts a skip: its kind (`detclip2.data.skips.KINDS`) and a message."""

Content = TypeVar("Content", bytes, range)
"""The content of a member, or where its bytes are in the tar."""
_Files = dict[str, Content]  # by suffix


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

    def record(self, url: str) -> dict[str, Any]:
        """The caption record of a pair with an image (`detclip2.data.datasets.captions`).

        Args:
            url: of the shard, for messages.
        """
        record = {
            "file_name": f"{url}/{self.key}",
            "image_id": self.key,
            "image_bytes": self.image,
            ("captions" if isinstance(self.caption, list) else "caption"): self.caption,
        }
        return record if self.phrases is None else {**record, "phrases": self.phrases}


def read_members(stream: Any, url: str, count: Count) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """The files of a tar with their contents, up to any damage, which is counted."""
    return _up_to_damage(files_of_tar(stream, _skip_member(url, count)), url, count)


def _skip_member(url: str, count: Count) -> Callable[[str], None]:
    def skip(sentence: str) -> None:
        count("member-unusable", f"{url}: {sentence}")

    return skip


def _up_to_damage(
    members: Iterator[tuple[tarfile.TarInfo, Content]], url: str, count: Count
) -> Iterator[tuple[tarfile.TarInfo, Content]]:
    try:
        yield from members
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
    for key, files in _pairs(read_members(stream, url, count), url, count):
        pair = _pair(key, files, f"{url}/{key}", count)
        if pair is not None:
            yield pair


def read_pair(content: bytes, path: str, count: Count) -> Pair | None:
    """A pair from the bytes of `pair_ranges`, joined; None if they are something else.

    Args:
        content: the bytes.
        path: name of the tar in messages.
        count: counts damage, and a pair without a caption.
    """
    members = _up_to_damage(files_in_memory(content, _skip_member(path, count)), path, count)
    keys: set[str] = set()
    files: _Files[bytes] = {}
    for key, suffix, data in _named(members, path, count):
        keys.add(key)
        files[suffix] = data
    return _pair(key, files, f"{path}/{key}", count) if len(keys) == 1 else None


def pair_ranges(path: str, count: Count) -> Iterator[list[range]]:
    """The bytes of the members of each pair of a shard, without their contents; see `read_pairs`.

    A pair has an image and a file that may have the caption.

    Args:
        path: a tar on the disk, not compressed.
        count: counts damage, members that are not read, and members of no pair.
    """
    members = _up_to_damage(ranges_of_tar(path, _skip_member(path, count)), path, count)
    for key, files in _pairs(members, path, count):
        if _is_whole(files):
            yield list(files.values())
        else:
            missing = "caption has no image" if _images(files) == [] else "image has no caption"
            count("record-malformed", f"{path}/{key}: the {missing}")


def _pairs(
    members: Iterable[tuple[tarfile.TarInfo, Content]], url: str, count: Count
) -> Iterator[tuple[str, _Files[Content]]]:
    """Key and files of each pair, complete or not, with one image at most."""
    for key, files in _grouped(_named(members, url, count), url, count):
        first, *others = _images(files) or [""]
        for suffix in others:
            count("member-unread", f"{url}/{key}.{suffix}: a second image, beside .{first}")
        yield key, {suffix: files[suffix] for suffix in files if suffix not in others}


def _named(
    members: Iterable[tuple[tarfile.TarInfo, Content]], url: str, count: Count
) -> Iterator[tuple[str, str, Content]]:
    """Key, suffix and content of each member that may belong to a pair."""
    for member, content in members:
        if name := split_name(member.name):
            key, suffix = name
            yield key, suffix, content
        else:
            count("member-unread", f"{url}/{member.name}: neither an image nor a .txt or .json")


def _grouped(
    members: Iterable[tuple[str, str, Content]], url: str, count: Count
) -> Iterator[tuple[str, _Files[Content]]]:
    """The members by key.

    In a sorted tar, the members of a key follow each other, and one key is in memory. Otherwise
    keys are held until their members have come: incomplete ones, and all of them once a member has
    come late, since another one may (all images, then all texts, then all phrases).
    """
    held, last, is_sorted = _Held[Content](), "", True
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


class _Held(Generic[Content]):
    """Members by key, in the order of the tar, and the size of their contents in bytes."""

    def __init__(self) -> None:
        self.files: dict[str, _Files[Content]] = {}
        self.size = 0

    def add(self, key: str, suffix: str, content: Content) -> None:
        """Hold a member."""
        self.files.setdefault(key, {})[suffix] = content
        self.size += len(content)

    def pop(self, key: str) -> tuple[str, _Files[Content]]:
        """The key and its members, which are not held any more."""
        files = self.files.pop(key)
        self.size -= sum(map(len, files.values()))
        return key, files


def _is_whole(files: Collection[str]) -> bool:
    """Whether there are an image and a file that may have the caption."""
    return ("txt" in files or "json" in files) and bool(_images(files))


def _images(files: Collection[str]) -> list[str]:
    return [suffix for suffix in IMAGE_SUFFIXES if suffix in files]


def _pair(key: str, files: _Files[bytes], where: str, count: Count) -> Pair | None:
    """The pair of the members of a key; None if there is no caption, which is counted."""
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
    image = next((files[suffix] for suffix in _images(files)), None)
    return Pair(key, caption, caption_name, phrases, image)
