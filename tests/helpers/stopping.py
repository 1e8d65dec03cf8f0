"""A toy training that gets a signal; also as a script that many processes run.

    python stopping.py FOLDER ITERATIONS SIGNAL [--num-gpus 2 --dist-url auto]

Process 0 sends SIGTERM to the process that has started it. Process 1 sends SIGKILL to itself,
unless it was restarted.
"""

import os
import signal

import torch
from detectron2.engine import HookBase, default_argument_parser, hooks
from detectron2.utils import comm

from detclip2.engine.checkpoint import Checkpointer
from detclip2.engine.hooks.preemption import PreemptionHook
from detclip2.engine.hooks.resumable import ResumablePeriodicCheckpointer
from detclip2.engine.hooks.source_schedule import AlternateSources, SeedEachIteration
from detclip2.engine.launch import run_processes
from tests.helpers.toy import toy_loader, toy_trainer


class Send(HookBase):
    """Sends a process, this one by default, a signal at a moment of an iteration."""

    def __init__(self, number, iteration, moment, pid=None):
        self.number, self.iteration, self.moment = number, iteration, moment
        self.pid = pid or os.getpid()

    def before_step(self):
        self._send("before_step")

    def after_backward(self):
        self._send("after_backward")

    def after_step(self):
        self._send("after_step")

    def _send(self, moment):
        if moment == self.moment and self.trainer.iter == self.iteration:
            os.kill(self.pid, self.number)


def train(
    folder, *extra, iterations=8, evaluate=lambda: {}, loader=None, resume=False, period=None
):
    """Train as the real training loop does; a checkpoint every `period` iterations, if given."""
    loader = loader or toy_loader()
    trainer = toy_trainer(loader)
    checkpointer = Checkpointer(trainer.model, str(folder), trainer=trainer)
    stop = PreemptionHook(checkpointer)
    saving = [ResumablePeriodicCheckpointer(checkpointer, period)] if period else []
    trainer.register_hooks(
        [
            AlternateSources(loader),
            SeedEachIteration(),
            *saving,
            *extra,
            stop,
            hooks.EvalHook(2, evaluate),
        ]
    )
    checkpointer.resume_or_load("", resume=resume)
    start = trainer.iter + 1 if resume and checkpointer.has_checkpoint() else 0
    with stop.listening():
        trainer.train(start, iterations)
    return trainer


def main(arguments):
    """One process of the script."""
    folder, iterations, name = arguments.opts
    extra, period = [], None
    if name == "SIGTERM" and comm.is_main_process():
        extra = [Send(signal.SIGTERM, 3, "after_step", os.getppid())]
    if name == "SIGKILL":
        period = 2
        if comm.get_rank() == 1 and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
            extra = [Send(signal.SIGKILL, 3, "before_step")]
    train_shared(folder, *extra, iterations=int(iterations), period=period, resume=True)


def train_shared(folder, *extra, **settings):
    """Every process has a sample of each batch, and the same random numbers."""
    torch.manual_seed(0)
    size = comm.get_world_size()
    return train(folder, *extra, loader=toy_loader(batch_sizes=(size, size)), **settings)


if __name__ == "__main__":
    run_processes(main, default_argument_parser().parse_args())
