"""Image-text pairs from WebDataset tar shards on the disk, each read by itself.

`detclip2.data.io.shard_stream` reads shards in order, from anywhere.
"""

import itertools
import logging
import time
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any, NoReturn
from urllib.parse import urlparse

from detectron2.utils import comm
from webdataset.shardlists import expand_urls

from detclip2.data.io.lines import LazyRecords
from detclip2.data.io.tar_index import PairIndex, pair_index
from detclip2.data.io.tar_pairs import read_pair
from detclip2.data.sample import SkipSample
from detclip2.data.skips import SkipCounter
from detclip2.utils.errors import UserError

logger = logging.getLogger(__name__)


class ImageTextShards(LazyRecords[dict[str, Any]]):
    """Caption records of tar shards on the disk, in WebDataset's layout.

    A shard has, for each key, an image (``000.jpg``, ``.png``, ``.webp`` ...) and a caption
    (``000.txt``, or ``caption`` in ``000.json``); phrases that were extracted beforehand are a list
    ``phrases`` in ``000.json``, or ``000.phrases.json``. Suffixes may be in upper case, keys may
    have dots, and the members of a key need not follow each other
    (`detclip2.data.io.tar_pairs`). A missing shard, the rest of a damaged one, and members of no
    pair are skipped and counted.

    The headers of a shard are read once, into an index of the places of its pairs, which is kept in
    a file beside it (`detclip2.data.io.tar_index`). Processes share this work. An index takes 12
    bytes a pair in memory, and a pair is then one read, in any order.

    Args:
        urls: a path, or a list; braces are expanded ("cc3m/{00000..00331}.tar").
        counter: counts skipped data.

    Raises:
        UserError: a shard is not on the disk or is compressed, or there is no pair. Access to a
            pair that is damaged, or whose caption is, raises SkipSample.
    """

    def __init__(self, urls: str | Sequence[str], counter: SkipCounter | None = None) -> None:
        self.urls = expanded(urls)
        paths = [_local(url) for url in self.urls]
        counter = counter or SkipCounter("image-text shards")
        found = _indices(paths, counter)
        counter.log()
        self.unreadable = [path for path, index in zip(paths, found, strict=True) if not index]
        """Shards without a pair."""
        self._shards = [(path, index) for path, index in zip(paths, found, strict=True) if index]
        self._ends = [*itertools.accumulate(len(index) for _, index in self._shards)]
        if not self._shards:
            raise UserError(f"no image-text shard can be read, such as {self.urls[0]}")

    def __len__(self) -> int:
        return self._ends[-1]

    @property
    def nbytes(self) -> int:
        """The size of the indices in memory."""
        return sum(index.nbytes for _, index in self._shards)

    def _record(self, index: int) -> dict[str, Any]:
        shard = bisect_right(self._ends, index)
        path, pairs = self._shards[shard]
        number = index - (self._ends[shard - 1] if shard else 0)
        try:
            content = pairs.read(path, number)
        except (OSError, EOFError) as error:
            raise SkipSample("shard-unreadable", f"{path}, pair {number}: {error}") from error
        if (pair := read_pair(content, path, _skip)) and pair.image is not None:
            return pair.record(path)
        raise SkipSample("shard-unreadable", f"{path}, pair {number} is not where its index says")


def expanded(urls: str | Sequence[str]) -> list[str]:
    """Paths or URLs of shards, with their braces expanded.

    Raises:
        UserError: there is none.
    """
    listed = [urls] if isinstance(urls, str) else list(urls)
    if found := [url for pattern in listed for url in expand_urls(str(pattern))]:
        return found
    raise UserError("image-text shards: the list of URLs is empty")


def _local(url: str) -> str:
    if urlparse(url).scheme not in ("", "file"):
        raise UserError(
            f"{url} is not on the disk: name ImageTextStream in the config in place of "
            "ImageTextShards; it reads shards in order"
        )
    return url.removeprefix("file:")


def _indices(paths: Sequence[str], counter: SkipCounter) -> list[PairIndex | None]:
    """The index of each shard; None for one that cannot be read."""
    # Each process starts at its share and then goes round, so that it finds most files of the
    # others, on a disk of its own as on a shared one.
    share = comm.get_rank() * len(paths) // comm.get_world_size()
    found: list[PairIndex | None] = [None] * len(paths)
    said_at = time.monotonic()
    for done, number in enumerate([*range(share, len(paths)), *range(share)]):
        path = paths[number]
        if time.monotonic() - said_at > 60:
            said_at = time.monotonic()
            logger.info("%d of %d tar shards are indexed", done, len(paths))
        try:
            found[number] = index = pair_index(path)
        except OSError as error:
            counter.add("shard-unreadable", f"{path}: {error.strerror}")
            continue
        for kind, (times, message) in index.skipped.items():
            counter.add(kind, message, times)
    return found


def _skip(kind: str, message: str) -> NoReturn:
    raise SkipSample(kind, message)
