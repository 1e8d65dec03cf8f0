"""The pieces of the training loop."""

from typing import TYPE_CHECKING

from detclip2.utils.lazy import lazy_names

__all__ = [
    "Checkpointer",
    "Trainer",
    "evaluate",
    "run_processes",
    "schedule_of_epochs",
    "set_up",
    "train",
    "warmup_constant",
    "warmup_cosine",
]

if TYPE_CHECKING:
    from detclip2.engine.checkpoint import Checkpointer
    from detclip2.engine.launch import run_processes
    from detclip2.engine.solver import schedule_of_epochs, warmup_constant, warmup_cosine
    from detclip2.engine.train_loop import evaluate, set_up, train
    from detclip2.engine.trainer import Trainer
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "Checkpointer": "checkpoint",
            "Trainer": "trainer",
            "evaluate": "train_loop",
            "run_processes": "launch",
            "schedule_of_epochs": "solver",
            "set_up": "train_loop",
            "train": "train_loop",
            "warmup_constant": "solver",
            "warmup_cosine": "solver",
        },
    )
