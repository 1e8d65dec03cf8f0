"""What the training loop reads beside model, data and optimiser; every key with its meaning."""

from typing import Any

TRAIN: dict[str, Any] = {
    # Where everything that a run writes goes.
    "output_dir": "./output",
    # Weights to start from; "" for those that the model's constructor gives.
    "init_checkpoint": "",
    # Iterations; each takes one batch from one source.
    "max_iter": 90000,
    # Passes over the data of the only source, which then give max_iter, with an evaluation after
    # each; None: max_iter and eval_period hold.
    "epochs": None,
    # source -> share of the iterations; None: each record of every source is seen equally often.
    "source_ratios": None,
    # source -> its first iteration; None: all from the start.
    "source_starts": None,
    # Seed of data order, augmentation, schedule and drop path; 0 or more.
    "seed": 0,
    # Mixed precision, on a GPU.
    "amp": {"enabled": False},
    # Passed to DistributedDataParallel. A batch of captions leaves the box branch without
    # gradient, so that unused parameters must be looked for.
    "ddp": {"broadcast_buffers": False, "find_unused_parameters": True},
    # A checkpoint every `period` iterations; the last `max_to_keep` are kept.
    "checkpointer": {"period": 5000, "max_to_keep": 3},
    # Iterations between two evaluations, of which the best is kept as model_best.pth; 0: only at
    # the end.
    "eval_period": 0,
    # Arguments of AutoStep, which lowers the learning rate and ends the run where evaluations no
    # longer improve; None: it follows lr_multiplier to the end.
    "auto_step": None,
    # Iterations between two lines of the log.
    "log_period": 20,
    # Iterations between two reports of what was left out of the data, by kind.
    "report_period": 1000,
    # "cuda" or "cpu".
    "device": "cuda",
}
