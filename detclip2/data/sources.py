"""A source: a named stream of samples under ``dataloader.train``, made from records by a mapper.

`Source` accepts two kinds of records:

- a sequence (``len`` and an index), such as the records of a json file, or tar shards on the disk:
  every pass over it has its own order, and a resumed run is exact for any number of processes and
  workers;
- `StreamingRecords`, which are read in order, such as tar shards at URLs: they make samples from
  any position, and a resumed run is exact with the same number of processes and workers.

To add a kind of data, write a class or function that gives either, and name it in a config as
``records``.
"""

import itertools
import multiprocessing
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
from detectron2.data import build_detection_train_loader
from detectron2.utils import comm
from torch.utils.data import Dataset, IterableDataset, Sampler, get_worker_info

from detclip2.data.mappers import Mapper
from detclip2.data.sample import Sample, SkipSample
from detclip2.utils.errors import UserError, shown

Record = Mapping[str, Any]
Tokens = Callable[[Sequence[str]], np.ndarray]
# Another record replaces one that is skipped; after this many skips in a row the data is at fault.
MAX_ATTEMPTS = 100
_NO_RECORD = -1


class StreamingRecords(IterableDataset, ABC):
    """Records that can only be read in order; their number is not known.

    Iterating gives records (for tools); training takes `samples`.
    """

    kind: ClassVar[str] = "a stream of records"
    """The name of this kind of records in messages."""

    @abstractmethod
    def samples(self, mapper: Mapper, batch_size: int, seed: int, position: int) -> IterableDataset:
        """The endless samples of this process.

        Args:
            mapper: (record, random generator) -> sample; may raise SkipSample, which is counted in
                ``mapper.counter``.
            batch_size: samples in a batch of this process; worker processes make whole batches.
            seed: seed of the order and of the augmentations.
            position: number of batches that this process has drawn before. With the same seed and
                numbers of processes and workers, the samples are those of an uninterrupted run.
        """


class Source:
    """Records with their mapper and batch size.

    Args:
        records: a sequence of dataset records (see ``detclip2.data.datasets``), streaming records,
            or a function that gives either (so that a config does not read files).
        mapper: (record, random generator) -> sample.
        total_batch_size: samples in a batch of this source, over all processes.
        num_workers: number of worker processes that prepare samples; 0 for none.

    Raises:
        UserError: the records or the mapper are something else.
    """

    def __init__(
        self,
        records: Sequence[Record] | StreamingRecords | Callable[[], Sequence[Record]],
        mapper: Mapper,
        total_batch_size: int,
        num_workers: int = 2,
    ) -> None:
        self.records: Any = records() if callable(records) else records
        has_items = hasattr(self.records, "__len__") and hasattr(self.records, "__getitem__")
        if not (self.streaming or has_items) or isinstance(self.records, Mapping | str):
            raise UserError(
                f"the records of a source are {shown(self.records)}; expected a sequence of "
                "records, or streaming records"
            )
        if not callable(mapper):
            raise UserError(f"the mapper of a source is {shown(mapper)}; expected a mapper")
        self.mapper = mapper
        self.total_batch_size = total_batch_size
        self.num_workers = num_workers
        self.progress = WorkerProgress(max(num_workers, 1))
        self.tokens: Tokens | None = None
        """Makes the ``phrase_tokens`` of a sample of its phrases; None: samples have none."""

    @property
    def streaming(self) -> bool:
        """Whether the order depends on the numbers of processes and workers."""
        return isinstance(self.records, StreamingRecords)

    @property
    def length(self) -> int | None:
        """The number of records in a pass; None if it is not known."""
        return None if self.streaming else len(self.records)

    def check_batch_size(self) -> None:
        """Check that the batch divides evenly among the processes.

        Raises:
            UserError: it does not.
        """
        if self.total_batch_size < 1 or self.total_batch_size % comm.get_world_size():
            raise UserError(
                f"total_batch_size is {self.total_batch_size}; expected a positive multiple of "
                f"the number of processes, {comm.get_world_size()}"
            )

    def stream(self, seed: int, position: int) -> tuple[Dataset, Sampler | None]:
        """The samples of this process, and a sampler if the data set does not fix their order.

        Args:
            seed: seed of the order and of the augmentations.
            position: number of samples that all processes have drawn before.
        """
        mapper: Any = self.mapper if self.tokens is None else _Tokenised(self.mapper, self.tokens)
        if self.streaming:
            batch_size = self.total_batch_size // comm.get_world_size()
            batches = position // self.total_batch_size
            return self.records.samples(mapper, batch_size, seed, batches), None
        samples = SampleStream(self.records, mapper, seed, self.progress)
        return samples, DrawSampler(position)

    def loader(self, seed: int, position: int) -> Iterator[list[Sample]]:
        """This process's endless batches; see `stream`."""
        samples, sampler = self.stream(seed, position)
        return iter(
            build_detection_train_loader(
                samples,
                mapper=None,
                sampler=sampler,
                total_batch_size=self.total_batch_size,
                # Batches by aspect ratio depend on more than the position: resuming would be
                # inexact.
                aspect_ratio_grouping=False,
                num_workers=self.num_workers,
                # Without a seed, the loader of a resumed run would draw from the model's random
                # numbers, which that of an uninterrupted run does not.
                seed=seed,
            )
        )

    def describe(self, message: str) -> str:
        """The records that dead workers were reading; `message` has their process ids."""
        if self.streaming:
            return f"records of {self.records.kind}"
        indices = self.progress.records_of_dead_workers(message)
        return ", ".join(describe_record(self._record(index), index) for index in indices)

    def _record(self, index: int) -> Record:
        """A record, or an empty one if it is damaged."""
        try:
            return self.records[index]
        except SkipSample:
            return {}

    def preview(self, count: int, seed: int) -> tuple[Sequence[Record], list[int]]:
        """Records to show, and the indices of at most `count` of them, in random order by `seed`.

        From a stream, the first records are returned, in its own order.
        """
        if self.streaming:
            records = list(itertools.islice(self.records, count))
            return records, list(range(len(records)))
        order = np.random.default_rng(seed).permutation(len(self.records))
        return self.records, order[:count].tolist()


class _Tokenised:
    """A mapper whose samples have the tokens of their phrases."""

    def __init__(self, mapper: Mapper, tokens: Tokens) -> None:
        self.mapper, self.tokens = mapper, tokens
        self.counter = mapper.counter

    def __call__(self, record: Record, rng: np.random.Generator) -> Sample:
        sample = self.mapper(record, rng)
        return {**sample, "phrase_tokens": self.tokens(sample["phrases"])}


class SampleStream(Dataset):
    """Samples by number of draw: each is a function of the seed and of ``draw`` alone.

    Every pass over the records has its own order. A record that the mapper skips is counted and
    replaced by another one.

    Args:
        records: a sequence of records, not empty.
        mapper: (record, random generator) -> sample; may raise SkipSample.
        seed: seed of the order and of the augmentations.
        progress: notes which record is being read.
    """

    def __init__(
        self,
        records: Sequence[Record],
        mapper: Mapper,
        seed: int,
        progress: "WorkerProgress | None" = None,
    ) -> None:
        if len(records) == 0:
            raise UserError("a source of the training data has no records")
        self.records = records
        self.mapper = mapper
        self.seed = seed
        self.progress = progress or WorkerProgress(1)
        self._order: tuple[int, np.ndarray] | None = None

    def __getitem__(self, draw: int) -> Sample:
        rng = np.random.default_rng([self.seed, draw])
        index = self._index(draw)
        for _ in range(MAX_ATTEMPTS):
            try:
                with self.progress.reading(index):
                    return self.mapper(self.records[index], rng)
            except SkipSample as skip:
                self.mapper.counter.add(skip.kind, skip.message)
                index = int(rng.integers(len(self.records)))
        raise UserError(
            f"{MAX_ATTEMPTS} records in a row gave no sample; {self.mapper.counter.report()}: look "
            "at the source with `detclip2 show-data`"
        )

    def _index(self, draw: int) -> int:
        epoch, position = divmod(draw, len(self.records))
        if self._order is None or self._order[0] != epoch:
            # Each worker has its own: 4 bytes a record, in the order that 8 would be in.
            indices = np.arange(len(self.records), dtype=np.uint32)
            self._order = (epoch, np.random.default_rng([self.seed, epoch]).permutation(indices))
        return int(self._order[1][position])


class DrawSampler(Sampler[int]):
    """Endless draw numbers from ``start`` on; each process takes every world-size-th one."""

    def __init__(self, start: int = 0) -> None:
        # Worker processes iterate this and do not know the rank of their parent.
        self.first = start + comm.get_rank()
        self.step = comm.get_world_size()

    def __iter__(self) -> Iterator[int]:
        return itertools.count(self.first, self.step)


class WorkerProgress:
    """A table of the record that each worker process is reading, for messages if one dies.

    Workers write the table and their parent reads it; it is made before the workers start.

    Args:
        num_workers: number of rows, one for each worker.
    """

    def __init__(self, num_workers: int) -> None:
        # Workers of any start method accept arrays of the "spawn" context. A lock is not needed,
        # since each worker has its own row, and a dying worker would leave it locked.
        context = multiprocessing.get_context("spawn")
        self._pids: Any = context.Array("q", [0] * num_workers, lock=False)
        self._indices: Any = context.Array("q", [_NO_RECORD] * num_workers, lock=False)

    @contextmanager
    def reading(self, index: int) -> Iterator[None]:
        """Note the index of the record being read; the note stays if the process dies."""
        worker = get_worker_info()
        row = 0 if worker is None else worker.id
        self._pids[row], self._indices[row] = os.getpid(), index
        try:
            yield
        finally:
            self._indices[row] = _NO_RECORD

    def records_of_dead_workers(self, message: str) -> list[int]:
        """Indices of records that dead workers were reading; `message` has their process ids."""
        dead = {int(number) for number in re.findall(r"\d+", message)}
        return [
            index
            for pid, index in zip(self._pids, self._indices, strict=True)
            if pid in dead and index != _NO_RECORD
        ]


def describe_record(record: Record, index: int) -> str:
    """The index of a record, with its file and id if it has them."""
    keys = ("file_name", "image_id")
    return " ".join([f"record {index}"] + [f"{key}={record[key]}" for key in keys if key in record])
