"""The loader of hybrid supervision: every batch comes from one source (paper, sec. 3.4)."""

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from detectron2.utils import comm
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from detclip2.data.sample import Sample
from detclip2.data.sources import Source, Tokens
from detclip2.utils.errors import UserError

logger = logging.getLogger(__name__)
# If workers die at one position this often, its data is the likely cause.
MAX_RESTARTS = 3


def source_nodes(cfg: DictConfig) -> dict[str, DictConfig]:
    """The sources of a config's ``dataloader.train``, by name, not built.

    Keys whose references cannot be resolved are ignored, so a part of a config is enough.
    """
    node: Any = OmegaConf.select(cfg, "dataloader")
    node = node.get("train") if isinstance(node, DictConfig) else None
    found: dict[str, DictConfig] = {}
    for name in list(node) if isinstance(node, DictConfig) else ():
        with contextlib.suppress(OmegaConfBaseException):
            value = node[name]
            if isinstance(value, DictConfig) and "mapper" in list(value):
                found[str(name)] = value
    return found


class Batch(list[Sample]):
    """A batch of one process, with the name of its source.

    Args:
        source: name of the source.
        samples: the samples, in order.
    """

    def __init__(self, source: str, samples: Sequence[Sample]) -> None:
        super().__init__(samples)
        self.source = source


class HybridLoader:
    """Endless batches, each of one source: the one selected by `select` or `next_batch`.

    The state is the number of samples drawn from each source. With the same state and seed, the
    same samples follow, for any number of processes and workers (streams need the same numbers of
    both). Workers that die are therefore replaced without loss of data.

    Args:
        seed: seed of the order and augmentation of all sources; not negative.
        **sources: the sources by name; the first one is selected at the start.

    Raises:
        UserError: there is no source, the seed is negative, or a batch does not divide evenly among
            the processes.
    """

    def __init__(self, *, seed: int = 0, **sources: Source) -> None:
        if not sources:
            raise UserError("the training data has no source: name one under dataloader.train")
        if seed < 0:
            raise UserError(f"the seed of the training data is {seed}; expected 0 or more")
        for name, source in sources.items():  # before the first batch, not at a source's first one
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
        """Take the next batches from the source `name`.

        Raises:
            UserError: there is no such source.
        """
        if name not in self.sources:
            raise UserError(f"there is no source {name!r}; there are {sorted(self.sources)}")
        self.selected = name

    def tokenise_by(self, tokens: Tokens | None) -> None:
        """Add ``phrase_tokens`` to the samples, where they are made.

        Args:
            tokens: M phrases -> (3, M, T) integers; None: they have none.
        """
        for source in self.sources.values():
            source.tokens = tokens
        self._loaders = {}

    def __iter__(self) -> Iterator[Batch]:
        while True:
            yield self.next_batch()

    def next_batch(self, name: str | None = None) -> Batch:
        """This process's share of the next batch of a source.

        Args:
            name: name of the source; None for the selected one.

        Raises:
            UserError: there is no such source, it gives no samples, or worker processes died
                `MAX_RESTARTS` times in a row.
        """
        if name is not None:
            self.select(name)
        name, source = self.selected, self.sources[self.selected]
        death = ""
        for _ in range(MAX_RESTARTS):
            try:
                batch = next(self._loader(name))
            except UserError as error:
                # The message of a worker's error is its traceback.
                raise UserError(
                    f"source {name!r}: {str(error).split('UserError: ')[-1].strip()}"
                ) from error
            except RuntimeError as error:
                if not str(error).startswith("DataLoader worker"):
                    raise
                del self._loaders[name]
                what = source.describe(str(error)) or "nothing (they were between two records)"
                death = f"near draw {self.drawn[name]} of source {name!r}, reading {what}: {error}"
                source.mapper.counter.add("worker-died", death)
            else:
                self.drawn[name] += source.total_batch_size
                return Batch(name, batch)
        raise UserError(
            f"worker processes died {MAX_RESTARTS} times in a row {death}; num_workers=0 shows "
            "why, if it is not for want of memory"
        )

    def _loader(self, name: str) -> Iterator[list[Sample]]:
        if name not in self._loaders:
            number = list(self.sources).index(name)
            source_seed = int(np.random.SeedSequence([self.seed, number]).generate_state(1)[0])
            with _signal_handler_kept():
                self._loaders[name] = self.sources[name].loader(source_seed, self.drawn[name])
        return self._loaders[name]

    def report(self) -> list[str]:
        """One line for each source with its counts of skipped data."""
        return [f"source {name}: {s.mapper.counter.report()}" for name, s in self.sources.items()]

    def state_dict(self) -> dict[str, Any]:
        """The position in every source, and the counts of skipped data."""
        return {
            "drawn": dict(self.drawn),
            "processes": comm.get_world_size(),
            "skipped": {name: s.mapper.counter.state_dict() for name, s in self.sources.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint; sources that it does not have start at 0."""
        unknown = sorted(set(state["drawn"]) ^ set(self.sources))
        if unknown:
            logger.warning("sources %s are not in both the checkpoint and the config", unknown)
        for name, source in self.sources.items():
            self.drawn[name] = state["drawn"].get(name, 0)
            source.mapper.counter.load_state_dict(state["skipped"].get(name, {}))
        streams = {name: s.records.kind for name, s in self.sources.items() if s.streaming}
        before = state.get("processes", comm.get_world_size())
        if streams and before != comm.get_world_size():
            logger.warning(
                "sources %s: the order of %s depends on the number of processes, which was "
                "%d and is %d: samples follow that the run may have seen already",
                *(list(streams), " and ".join(dict.fromkeys(streams.values()))),
                *(before, comm.get_world_size()),
            )
        self._loaders = {}


@contextlib.contextmanager
def _signal_handler_kept() -> Iterator[None]:
    """Restore the signal handler after torch sets its own, which raises when a worker dies.

    It may raise in the middle of a training step. Without it, the loader raises when it waits.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread can set handlers; torch sets none in others
        return
    before = signal.getsignal(signal.SIGCHLD)
    if getattr(before, "__module__", "").startswith("torch."):
        before = signal.SIG_DFL  # another loader of this process has set torch's
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before)
