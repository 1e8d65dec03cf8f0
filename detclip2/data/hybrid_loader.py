"""Several sources behind one iterator: every batch comes from one of them (paper, sec. 3.4)."""

import contextlib
import itertools
import logging
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from detectron2.data import build_detection_train_loader
from detectron2.utils import comm
from torch.utils.data import Dataset, Sampler

from detclip2.data.io.shards import ImageTextShards, ShardSamples
from detclip2.data.mappers import Mapper
from detclip2.data.reading import Reading
from detclip2.data.sample import SkipSample
from detclip2.utils.errors import UserError

logger = logging.getLogger(__name__)
Sample = dict[str, Any]
Records = Sequence[Mapping[str, Any]] | ImageTextShards
# A record that cannot be used is replaced by another; after so many in a row the data is at fault.
MAX_ATTEMPTS = 100
# Workers that die at one place more often than this do so because of what is there.
MAX_RESTARTS = 3


class Source:
    """Records, the mapper that makes samples of them, and how they are batched.

    Args:
        records: a sequence of dataset records (see ``detclip2.data.datasets``), a function that
            gives one (so that a config does not read files), or image-text pairs in tar shards.
        mapper: (record, random generator) -> sample.
        total_batch_size: samples a batch over all processes, this source's own.
        num_workers: worker processes that prepare samples; 0 for none.
    """

    def __init__(
        self,
        records: Records | Callable[[], Records],
        mapper: Mapper,
        total_batch_size: int,
        num_workers: int = 2,
    ) -> None:
        self.records: Records = records() if callable(records) else records
        self.mapper = mapper
        self.total_batch_size = total_batch_size
        self.num_workers = num_workers
        self.reading = Reading(max(num_workers, 1))

    def check_batch_size(self) -> None:
        """Can the processes share a batch?

        Raises:
            UserError: not evenly.
        """
        if self.total_batch_size < 1 or self.total_batch_size % comm.get_world_size():
            raise UserError(
                f"total_batch_size is {self.total_batch_size}; expected a positive multiple of "
                f"the number of processes, {comm.get_world_size()}"
            )

    def loader(self, seed: int, position: int) -> Iterator[list[Sample]]:
        """This process's endless batches, from the ``position``-th sample of all processes on."""
        stream: Dataset
        sampler: Sampler | None = None
        if isinstance(self.records, ImageTextShards):
            stream = ShardSamples(
                self.records,
                self.mapper,
                self.total_batch_size // comm.get_world_size(),
                seed,
                position // self.total_batch_size,
            )
        else:
            stream = SampleStream(self.records, self.mapper, seed, self.reading)
            sampler = DrawSampler(position)
        loader = build_detection_train_loader(
            stream,
            mapper=None,
            sampler=sampler,
            total_batch_size=self.total_batch_size,
            # Batches by aspect ratio depend on more than the position, which would make resuming
            # inexact.
            aspect_ratio_grouping=False,
            num_workers=self.num_workers,
            # Else it would draw from the random numbers of the model, when a run is resumed and
            # not when it goes on.
            seed=seed,
        )
        with _signal_handler_kept():
            return iter(loader)

    def read_by(self, message: str) -> str:
        """What the workers were at whose process ids are in a message about their death."""
        if isinstance(self.records, ImageTextShards):
            return "its shards"
        return ", ".join(
            _describe(self.records[index], index)
            for index in self.reading.records_of_dead_workers(message)
        )


class SampleStream(Dataset):
    """The ``draw``-th sample of a source: a function of the seed and of ``draw`` alone.

    Every pass over the records has its own order. A record that the mapper skips is counted and
    replaced by another one.

    Args:
        records: a sequence of records, not empty.
        mapper: (record, random generator) -> sample; raises SkipSample.
        seed: of the order and of the augmentations.
        reading: is told which record is being read.
    """

    def __init__(
        self,
        records: Sequence[Mapping[str, Any]],
        mapper: Mapper,
        seed: int,
        reading: Reading | None = None,
    ) -> None:
        if len(records) == 0:
            raise UserError("a source of the training data has no records")
        self.records = records
        self.mapper = mapper
        self.seed = seed
        self.reading = reading or Reading(1)
        self._order: tuple[int, np.ndarray] | None = None

    def __getitem__(self, draw: int) -> Sample:
        rng = np.random.default_rng([self.seed, draw])
        index = self._index(draw)
        for _ in range(MAX_ATTEMPTS):
            try:
                with self.reading.of(index):
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
            order = np.random.default_rng([self.seed, epoch]).permutation(len(self.records))
            self._order = (epoch, order)
        return int(self._order[1][position])


class DrawSampler(Sampler[int]):
    """Counts draws from ``start`` on, for ever, each process taking every world-size-th one."""

    def __init__(self, start: int = 0) -> None:
        # Worker processes, where it is iterated, do not know the rank of their parent.
        self.first = start + comm.get_rank()
        self.step = comm.get_world_size()

    def __iter__(self) -> Iterator[int]:
        return itertools.count(self.first, self.step)


class HybridLoader:
    """Endless batches, each from the source that :meth:`select` has chosen.

    Its state is how many samples each source has given; with the same state and seed, the same
    samples follow, whatever the number of processes or workers (of tar shards: with the same
    number of both). So a worker process that dies costs nothing but time: others take its place.

    Args:
        seed: of the order and augmentation of all sources; not negative.
        **sources: by name.
    """

    def __init__(self, *, seed: int = 0, **sources: Source) -> None:
        if not sources:
            raise UserError("the training data has no source: name one under dataloader.train")
        if seed < 0:
            raise UserError(f"the seed of the training data is {seed}; expected 0 or more")
        for name, source in sources.items():  # not only when it is a source's turn
            try:
                source.check_batch_size()
            except UserError as error:
                raise UserError(f"source {name!r}: {error}") from None
        self.sources = sources
        self.seed = seed
        self.drawn = dict.fromkeys(self.sources, 0)
        self.selected = next(iter(self.sources))
        self._loaders: dict[str, Iterator[list[Sample]]] = {}

    def select(self, name: str) -> None:
        """Take the next batches from this source."""
        if name not in self.sources:
            raise UserError(f"there is no source {name!r}; there are {sorted(self.sources)}")
        self.selected = name

    def __iter__(self) -> Iterator[list[Sample]]:
        while True:
            yield self.next_batch()

    def next_batch(self) -> list[Sample]:
        """This process's share of the next batch of the selected source.

        Raises:
            UserError: the source gives no samples, or worker processes die again and again.
        """
        name, source = self.selected, self.sources[self.selected]
        death = ""
        for _ in range(MAX_RESTARTS):
            try:
                batch = next(self._loader(name))
            except UserError as error:
                # A worker's error comes with its traceback for a message.
                raise UserError(
                    f"source {name!r}: {str(error).split('UserError: ')[-1].strip()}"
                ) from error
            except RuntimeError as error:
                if not str(error).startswith("DataLoader worker"):
                    raise
                del self._loaders[name]
                what = source.read_by(str(error)) or "nothing (they were between two records)"
                death = f"near draw {self.drawn[name]} of source {name!r}, reading {what}: {error}"
                source.mapper.counter.add("worker-died", death)
            else:
                self.drawn[name] += source.total_batch_size
                return batch
        raise UserError(
            f"worker processes died {MAX_RESTARTS} times in a row {death}; num_workers=0 shows "
            "why, if it is not for want of memory"
        )

    def _loader(self, name: str) -> Iterator[list[Sample]]:
        if name not in self._loaders:
            number = list(self.sources).index(name)
            source_seed = int(np.random.SeedSequence([self.seed, number]).generate_state(1)[0])
            self._loaders[name] = self.sources[name].loader(source_seed, self.drawn[name])
        return self._loaders[name]

    def report(self) -> list[str]:
        """A line a source on what was left out so far."""
        return [f"source {name}: {s.mapper.counter.report()}" for name, s in self.sources.items()]

    def state_dict(self) -> dict[str, Any]:
        """The position in every source, and the counts of what was skipped."""
        return {
            "drawn": dict(self.drawn),
            "processes": comm.get_world_size(),
            "skipped": {name: s.mapper.counter.state_dict() for name, s in self.sources.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where a checkpoint stopped; sources that it does not know start afresh."""
        unknown = sorted(set(state["drawn"]) ^ set(self.sources))
        if unknown:
            logger.warning("sources %s are not in both the checkpoint and the config", unknown)
        for name, source in self.sources.items():
            self.drawn[name] = state["drawn"].get(name, 0)
            source.mapper.counter.load_state_dict(state["skipped"].get(name, {}))
        shards = [n for n, s in self.sources.items() if isinstance(s.records, ImageTextShards)]
        before = state.get("processes", comm.get_world_size())
        if shards and before != comm.get_world_size():
            logger.warning(
                "sources %s: the order of tar shards depends on the number of processes, which was "
                "%d and is %d: samples follow that the run may have seen already",
                *(shards, before, comm.get_world_size()),
            )
        self._loaders = {}


def _describe(record: Mapping[str, Any], index: int) -> str:
    """What tells a record apart."""
    keys = ("file_name", "image_id")
    return " ".join([f"record {index}"] + [f"{key}={record[key]}" for key in keys if key in record])


@contextlib.contextmanager
def _signal_handler_kept() -> Iterator[None]:
    """Undo torch's signal handler, which raises wherever the main process is when a worker dies.

    That may be in the middle of a training step. Without it, the loader notices while it waits.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread can set it; torch does not either
        return
    before = signal.getsignal(signal.SIGCHLD)
    if getattr(before, "__module__", "").startswith("torch."):
        before = signal.SIG_DFL  # another loader of this process has set torch's
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before)
