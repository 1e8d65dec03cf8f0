"""Write a checkpoint when a signal asks a run to stop."""

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch
from detectron2.engine import HookBase, SimpleTrainer
from detectron2.utils import comm

from detclip2.engine.checkpoint import Checkpointer

logger = logging.getLogger(__name__)
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class PreemptionHook(HookBase):
    """On SIGTERM or SIGINT: ends the iteration, writes a checkpoint, and exits with 128 + signal.

    All processes stop after the same iteration, whichever got the signal. A second signal ends the
    process at once. During an evaluation, which may take long, the checkpoint is written at once,
    and a single process does not wait for its end. Register it before the evaluation and after
    hooks that change state.

    Args:
        checkpointer: writes the checkpoint, in the main process.
    """

    trainer: SimpleTrainer

    def __init__(self, checkpointer: Checkpointer) -> None:
        self.checkpointer = checkpointer
        self.requested: int | None = None
        """The signal that asked this process to stop."""
        self.agreed: int | None = None
        """The signal that all processes stop for."""
        self._done: int | None = None  # the last iteration after which all hooks were called
        self._together = False  # do all processes stop after this iteration?
        self._pid = os.getpid()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle signals during the training.

        Python allows this in the main thread only; in other threads signals keep their handlers.

        Raises:
            SystemExit: there was a signal.
        """
        before = {}
        if threading.current_thread() is threading.main_thread():
            before = {s: signal.signal(s, self._handle) for s in SIGNALS}
        try:
            yield
        except SystemExit:
            if self._together:  # the launcher ends the others once one exits
                comm.synchronize()
            raise
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        stopped_by = self.agreed or self.requested
        if stopped_by is not None:
            raise SystemExit(128 + stopped_by)

    def before_train(self) -> None:
        """Nothing is lost before the first iteration: an evaluation may be repeated there."""
        self._done = self.trainer.start_iter - 1

    def after_step(self) -> None:
        """Save and exit, if any process was asked to stop.

        Raises:
            SystemExit: the run stops here.
        """
        self._done = self.trainer.iter
        is_last = self._done + 1 == self.trainer.max_iter  # it has a checkpoint anyway
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
        logger.info("stopped by a signal after iteration %d; --resume continues there", self._done)

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
            return  # already stopping: the signal reached another process first
        iteration = self.trainer.iter
        if comm.is_main_process() and iteration in (self._done, self.trainer.max_iter):
            # Between two iterations, perhaps in an evaluation.
            if iteration == self._done and not self.checkpointer.needs_all_processes:
                self._save()
            # Others would wait for a process that exits alone: all stop after the next iteration.
            if comm.get_world_size() == 1:
                raise SystemExit(128 + number)


def _die_of(number: int) -> None:
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


@contextmanager
def signals_for_children() -> Iterator[None]:
    """Forward signals to child processes while this one waits for them.

    SIGTERM is forwarded; SIGINT from a keyboard has reached them already.
    """

    def forward(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGTERM:
            for child in multiprocessing.active_children():
                if child.pid is not None:
                    os.kill(child.pid, number)

    before = {s: signal.signal(s, forward) for s in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
