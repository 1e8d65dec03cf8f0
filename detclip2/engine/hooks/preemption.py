"""A run that is asked to stop writes a checkpoint first."""

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm

from detclip2.engine.checkpoint import Checkpointer

logger = logging.getLogger(__name__)
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class PreemptionHook(HookBase):
    """On SIGTERM or SIGINT: ends the iteration, writes a checkpoint, and exits with 128 + signal.

    All processes stop after the same iteration, whichever of them got the signal. A second signal
    ends the process at once. During an evaluation, which may take long, the checkpoint is written
    at once, and a process that is alone does not wait for the end. Belongs before the evaluation
    among the hooks, after those that change state.

    Args:
        checkpointer: writes the checkpoint, in the main process.
    """

    def __init__(self, checkpointer: Checkpointer) -> None:
        self.checkpointer = checkpointer
        self.requested: int | None = None
        """The signal that asked this process to stop."""
        self.agreed: int | None = None
        """The one that all processes will stop for."""
        self._done: int | None = None  # the last iteration after which all hooks were called
        self._together = False  # do all processes stop after this iteration?
        self._pid = os.getpid()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Around the training; ends in SystemExit if there was a signal.

        Python lets only the main thread listen; elsewhere signals do what they did before.
        """
        before = {}
        if threading.current_thread() is threading.main_thread():
            before = {s: signal.signal(s, self._handle) for s in SIGNALS}
        try:
            yield
        except SystemExit:
            if self._together:  # whoever launched them ends the others once one has exited
                comm.synchronize()
            raise
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        stopped_by = self.agreed or self.requested
        if stopped_by is not None:
            raise SystemExit(128 + stopped_by)

    def after_step(self) -> None:
        """Stop, if any process was asked to."""
        self._done = self.trainer.iter
        is_last = self._done + 1 == self.trainer.max_iter  # it has its checkpoint anyway
        self.agreed = self._agree()
        if self.agreed is not None and not is_last:
            self._save()
            self._together = True
            raise SystemExit(128 + self.agreed)

    def _agree(self) -> int | None:
        if comm.get_world_size() > 1:
            device = next(self.trainer.model.parameters()).device
            asked = torch.tensor(self.requested or 0, device=device)
            torch.distributed.all_reduce(asked, torch.distributed.ReduceOp.MAX)
            return int(asked) or None
        return self.requested

    def _save(self) -> None:
        self.checkpointer.save(f"model_{self._done:07d}", iteration=self._done)
        logger.info("stopped by a signal after iteration %d; --resume goes on there", self._done)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:  # a data worker, which has inherited this handler
            if number == signal.SIGTERM:
                _die_of(number)
            return
        if self.requested is not None:
            _die_of(number)
        self.requested = number
        # Not the logger: it might be in the middle of a line.
        os.write(2, f"{signal.Signals(number).name}: stopping after this iteration\n".encode())
        if self.agreed is not None:
            return  # stopping already: one signal for all, which has reached another process before
        iteration = self.trainer.iter
        if comm.is_main_process() and iteration in (self._done, self.trainer.max_iter):
            # Between two iterations, perhaps in an evaluation.
            if iteration == self._done and not self.checkpointer.needs_all_processes:
                self._save()
            # Others would wait for a process that leaves alone: they all stop after the next one.
            if comm.get_world_size() == 1:
                raise SystemExit(128 + number)


def _die_of(number: int) -> None:
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


@contextmanager
def signals_for_children() -> Iterator[None]:
    """While a process only waits for the ones that it has started, signals are for those.

    SIGTERM is handed on to them; SIGINT, from a keyboard, has reached them already.
    """

    def hand_on(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGTERM:
            for child in multiprocessing.active_children():
                if child.pid is not None:
                    os.kill(child.pid, number)

    before = {s: signal.signal(s, hand_on) for s in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
