"""Image-text pairs from WebDataset tar shards anywhere, read in order.

`detclip2.data.io.shards` reads those on the disk in any order.
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

from detclip2.data.io.shards import expanded
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


class ImageTextStream(StreamingRecords):
    """Caption records of tar shards at URLs, or compressed; see `ImageTextShards` for their layout.

    Iterating reads each shard once, in order. Training draws shards with replacement, without end,
    another order for each worker of each process, and passes the records through a shuffle buffer.
    So a pair may come again before others have come, and a resumed run is exact with the same
    numbers of processes and workers only.

    Args:
        urls: a path or URL, or a list; braces are expanded ("gs://cc3m/{00000..00331}.tar").
        shuffle_buffer: size of the buffer, in records; 0 keeps the order of the shards' content.
        counter: counts skipped data.
        opener: opens a URL; None: local files, http(s), and `SCHEMES` of fsspec.
            ``webdataset.gopen`` also runs commands: ``pipe:aws s3 cp s3://bucket/a.tar -``.

    Raises:
        UserError: `urls` names no shard; while training reads, if no shard can be read.
    """

    kind = "streamed tar shards"

    def __init__(
        self,
        urls: str | Sequence[str],
        shuffle_buffer: int = 1000,
        counter: SkipCounter | None = None,
        opener: Callable[[str], IO[bytes]] | None = None,
    ):
        super().__init__()
        self.urls = expanded(urls)
        self.shuffle_buffer = shuffle_buffer
        self.counter = counter or SkipCounter("image-text shards")
        self.opener = opener or _open
        self.rank = comm.get_rank()  # worker processes do not know that of their parent

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return itertools.chain.from_iterable(map(self._read_shard, self.urls))

    def samples(self, mapper: Mapper, batch_size: int, seed: int, position: int) -> "StreamSamples":
        """See `StreamingRecords.samples`."""
        return StreamSamples(self, mapper, batch_size, seed, position)

    def part(self, index: int, seed: int) -> Generator[dict[str, Any], None, None]:
        """The endless records of a worker, by its number among those of all processes."""
        records = self._endless(np.random.default_rng([seed, index]))
        if self.shuffle_buffer > 0:
            buffer_seed = np.random.SeedSequence([seed, index, 1]).generate_state(1)[0]
            rng = random.Random(int(buffer_seed))
            initial = min(self.shuffle_buffer, 100)
            records = wds.shuffle(self.shuffle_buffer, initial=initial, rng=rng)(records)
        return records

    def _endless(self, rng: np.random.Generator) -> Generator[dict[str, Any], None, None]:
        # Without a limit, a source without a readable shard would loop forever.
        url, empty_in_a_row, limit = "", 0, 4 * len(self.urls) + 16
        while empty_in_a_row < limit:
            url = self.urls[int(rng.integers(len(self.urls)))]
            empty_in_a_row += 1
            for record in self._read_shard(url):
                empty_in_a_row = 0
                yield record
        raise UserError(f"no image-text shard can be read, such as {url}")

    def _read_shard(self, url: str) -> Iterator[dict[str, Any]]:
        """The records of one shard, up to any damage."""
        try:
            stream = self.opener(url)
        except Exception as error:  # of any library that opens URLs
            self._count_unreadable(url, error)
            return
        for pair in read_pairs(stream, url, self.counter.add):
            if pair.image is None:
                message = f"{url}/{pair.key}: the caption has no image"
                self.counter.add("record-malformed", message)
            else:
                yield pair.record(url)
        try:
            stream.close()
        except Exception as error:  # a pipe reports a failed command here
            self._count_unreadable(url, error)

    def _count_unreadable(self, url: str, error: Exception) -> None:
        reason = error.args[0] if error.args else error
        self.counter.add("shard-unreadable", f"{url}: {reason}")


class StreamSamples(IterableDataset):
    """The endless samples of a process from tar shards, starting at any position.

    A stream has one sample for each record of its part of the shards. A record that the mapper
    skips is counted and replaced by one of the next `LOOKAHEAD` records (the last one that can be
    used, so that a batch seldom has an image twice). A position is thus a number of records, and
    seeking reads tars but decodes no image.

    With the same seed and numbers of processes and workers, the samples after `position` are those
    of an uninterrupted run.

    Args:
        shards: the records.
        mapper: (record, random generator) -> sample.
        batch_size: samples in a batch of this process; worker processes make whole batches.
        seed: seed of the order and of the augmentations.
        position: number of batches that this process has drawn before.

    Raises:
        UserError: while iterating, if `LOOKAHEAD` + 1 records in a row give no sample.
    """

    def __init__(
        self,
        shards: ImageTextStream,
        mapper: Mapper,
        batch_size: int,
        seed: int = 0,
        position: int = 0,
    ):
        super().__init__()
        self.shards = copy.copy(shards)
        self.shards.counter = mapper.counter  # one report for the source
        self.mapper = mapper
        self.batch_size = batch_size
        self.seed = seed
        self.position = position

    def __iter__(self) -> Iterator[dict[str, Any]]:
        info = get_worker_info()
        worker_id, num_workers = (info.id, info.num_workers) if info else (0, 1)
        # The data loader takes batches from its workers in turn, starting with the first; after
        # `position` batches, it is the turn of another one.
        turn = (worker_id + self.position) % num_workers
        start = self.batch_size * ((self.position + num_workers - 1 - turn) // num_workers)
        part = self.shards.rank * num_workers + turn
        records = itertools.islice(self.shards.part(part, self.seed), start, None)
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
