"""Image-text pairs from WebDataset tar shards: caption records, and samples that can be resumed.

`detclip2.data.datasets.captions` defines caption records, and reads lists of image-text pairs.
"""

import copy
import itertools
import random
import urllib.request
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import IO, Any, cast
from urllib.parse import urlparse

import fsspec
import numpy as np
import webdataset as wds
from detectron2.utils import comm
from torch.utils.data import IterableDataset, get_worker_info
from webdataset.shardlists import expand_urls

from detclip2.data.io.tar_pairs import read_pairs
from detclip2.data.mappers import Mapper
from detclip2.data.sample import SkipSample
from detclip2.data.skips import SkipCounter
from detclip2.data.sources import StreamingRecords
from detclip2.utils.errors import UserError

LOOKAHEAD = 100
SCHEMES = ("s3", "gs", "gcs", "az", "abfs", "abfss", "adl", "hdfs", "webhdfs", "hf", "oss", "ftp",
           "sftp", "ssh", "memory")  # fmt: skip
"""Schemes of URLs that fsspec opens. Others of fsspec's combine files, or run what they read."""
_TIMEOUT = 60  # seconds without an answer


class ImageTextShards(StreamingRecords):
    """Caption records from tar shards in WebDataset's layout.

    A shard has, for each key, an image (``000.jpg``, ``.png``, ``.webp`` ...) and a caption
    (``000.txt``, or ``caption`` in ``000.json``); phrases that were extracted beforehand are a list
    ``phrases`` in ``000.json``, or ``000.phrases.json``. Suffixes may be in upper case, keys may
    have dots, and the members of a key need not follow each other (`tar_pairs`). A missing shard,
    the rest of a damaged one, and members of no pair are skipped and counted.

    The order depends on the seed and the part of the data; each worker of each process has a part.
    With `resampled`, a part draws shards with replacement, without end; otherwise the shuffled
    shards are split among the parts and read once. Records then pass through a shuffle buffer.

    Args:
        urls: a path or URL, or a list; braces are expanded ("cc3m/{00000..00331}.tar").
        seed: seed of the order.
        resampled: endless with replacement (training), or one pass (tools).
        shuffle_buffer: size of the buffer, in records; 0 keeps the order of the shards' content.
        counter: counts skipped data.
        opener: opens a URL; None: local files, http(s), and `SCHEMES` of fsspec.
            ``webdataset.gopen`` also runs commands: ``pipe:aws s3 cp s3://bucket/a.tar -``.

    Raises:
        UserError: `urls` names no shard; while iterating, if no shard can be read.
    """

    kind = "tar shards"

    def __init__(
        self,
        urls: str | Sequence[str],
        seed: int = 0,
        resampled: bool = True,
        shuffle_buffer: int = 1000,
        counter: SkipCounter | None = None,
        opener: Callable[[str], IO[bytes]] | None = None,
    ):
        super().__init__()
        listed = [urls] if isinstance(urls, str) else list(urls)
        self.urls = [url for pattern in listed for url in expand_urls(str(pattern))]
        if not self.urls:
            raise UserError("image-text shards: the list of URLs is empty")
        self.seed = seed
        self.resampled = resampled
        self.shuffle_buffer = shuffle_buffer
        self.counter = counter or SkipCounter("image-text shards")
        self.opener = opener or _open
        # Worker processes do not know the rank of their parent.
        self.rank, self.world_size = comm.get_rank(), comm.get_world_size()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker_id, num_workers = _worker()
        return self.part(self.rank * num_workers + worker_id, self.world_size * num_workers)

    def samples(self, mapper: Mapper, batch_size: int, seed: int, position: int) -> "ShardSamples":
        """See `StreamingRecords.samples`."""
        return ShardSamples(self, mapper, batch_size, seed, position)

    def part(
        self, index: int, parts: int, seed: int | None = None
    ) -> Generator[dict[str, Any], None, None]:
        """The records of part `index` of `parts`, in order; `seed` replaces the shards' own."""
        seed = self.seed if seed is None else seed
        records = self._records(self._shards(index, parts, seed))
        if self.shuffle_buffer > 0:
            buffer_seed = np.random.SeedSequence([seed, index, 1]).generate_state(1)[0]
            rng = random.Random(int(buffer_seed))
            initial = min(self.shuffle_buffer, 100)
            records = wds.shuffle(self.shuffle_buffer, initial=initial, rng=rng)(records)
        return records

    def _shards(self, index: int, parts: int, seed: int) -> Iterator[str]:
        if self.resampled:
            rng = np.random.default_rng([seed, index])
            while True:
                yield self.urls[int(rng.integers(len(self.urls)))]
        order = np.random.default_rng(seed).permutation(len(self.urls))
        yield from (self.urls[i] for i in order[index::parts])

    def _records(self, shards: Iterator[str]) -> Generator[dict[str, Any], None, None]:
        # Without a limit, an endless source without a readable shard would loop forever.
        empty_in_a_row, limit = 0, 4 * len(self.urls) + 16
        for url in shards:
            empty_in_a_row += 1
            for record in self._read_shard(url):
                empty_in_a_row = 0
                yield record
            if self.resampled and empty_in_a_row >= limit:
                raise UserError(f"no image-text shard can be read, such as {url}")

    def _read_shard(self, url: str) -> Iterator[dict[str, Any]]:
        """The records of one shard, up to any damage."""
        try:
            stream = self.opener(url)
        except Exception as error:  # of any library that opens URLs
            self._count_unreadable(url, error)
            return
        for pair in read_pairs(stream, url, self.counter.add):
            where = f"{url}/{pair.key}"
            if pair.image is None:
                self.counter.add("record-malformed", f"{where}: the caption has no image")
                continue
            record = {
                "file_name": where,
                "image_id": pair.key,
                "image_bytes": pair.image,
                ("captions" if isinstance(pair.caption, list) else "caption"): pair.caption,
            }
            yield record if pair.phrases is None else {**record, "phrases": pair.phrases}
        try:
            stream.close()
        except Exception as error:  # a pipe reports a failed command here
            self._count_unreadable(url, error)

    def _count_unreadable(self, url: str, error: Exception) -> None:
        reason = error.args[0] if error.args else error
        self.counter.add("shard-unreadable", f"{url}: {reason}")


class ShardSamples(IterableDataset):
    """The endless samples of a process from tar shards, starting at any position.

    A stream has one sample for each record of its part of the shards. A record that the mapper
    skips is counted and replaced by one of the next `LOOKAHEAD` records (the last one that can be
    used, so that a batch seldom has an image twice). A position is thus a number of records, and
    seeking reads tars but decodes no image.

    With the same seed and numbers of processes and workers, the samples after `position` are those
    of an uninterrupted run.

    Args:
        shards: the records; ``resampled`` must be True.
        mapper: (record, random generator) -> sample.
        batch_size: samples in a batch of this process; worker processes make whole batches.
        seed: seed of the order and of the augmentations.
        position: number of batches that this process has drawn before.

    Raises:
        UserError: `shards` are not resampled; while iterating, if `LOOKAHEAD` + 1 records in a row
            give no sample.
    """

    def __init__(
        self,
        shards: ImageTextShards,
        mapper: Mapper,
        batch_size: int,
        seed: int = 0,
        position: int = 0,
    ):
        super().__init__()
        if not shards.resampled:
            raise UserError("training never ends: image-text shards need resampled=True")
        self.shards = copy.copy(shards)
        self.shards.counter = mapper.counter  # one report for the source
        self.mapper = mapper
        self.batch_size = batch_size
        self.seed = seed
        self.position = position

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker_id, num_workers = _worker()
        # The data loader takes batches from its workers in turn, starting with the first; after
        # `position` batches, it is the turn of another one.
        turn = (worker_id + self.position) % num_workers
        start = self.batch_size * ((self.position + num_workers - 1 - turn) // num_workers)
        part = self.shards.rank * num_workers + turn
        parts = self.shards.world_size * num_workers
        records = itertools.islice(self.shards.part(part, parts, self.seed), start, None)
        window = deque(itertools.islice(records, LOOKAHEAD + 1))
        for number in itertools.count(start):
            yield self._sample(window, np.random.default_rng([self.seed, part, number]))
            window.popleft()
            window.append(next(records))

    def _sample(self, window: deque[dict[str, Any]], rng: np.random.Generator) -> dict[str, Any]:
        for record in (window[0], *reversed(window)):
            try:
                return self.mapper(record, rng)
            except SkipSample as skip:
                if record is window[0]:  # the others are counted when it is their turn
                    self.mapper.counter.add(skip.kind, skip.message)
        raise UserError(
            f"{len(window)} records in a row gave no sample; {self.mapper.counter.report()}"
        )


def _worker() -> tuple[int, int]:
    """The index of this data loader's worker, and the number of workers."""
    info = get_worker_info()
    return (info.id, info.num_workers) if info else (0, 1)


def _open(url: str) -> IO[bytes]:
    """Open a shard, by means that run no command: a name in a list is data.

    Raises:
        ValueError: fsspec's ways of combining files, or a URL that would run a command.
    """
    scheme = urlparse(url).scheme
    if scheme in ("", "file"):
        return open(url.removeprefix("file:"), "rb")
    if scheme in ("http", "https"):
        request = urllib.request.urlopen(url, timeout=_TIMEOUT)  # noqa: S310 (scheme is checked)
        return cast(IO[bytes], request)
    if scheme not in SCHEMES or "::" in url:
        raise ValueError(
            f"a URL has one of {', '.join(SCHEMES)}; for others, such as pipe:, give `opener`, "
            "for example webdataset.gopen"
        )
    return cast(IO[bytes], fsspec.open(url, "rb").open())
