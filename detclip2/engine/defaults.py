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
    # Mixed precision: "float16", whose loss is scaled, or "bfloat16", which a CPU is faster with.
    "amp": {"enabled": False, "precision": "float16"},
    # Kind of sample ("detection", "grounding", "caption") -> most samples in one forward pass of a
    # process. A larger batch is done in parts, with the losses and gradients of the whole.
    "micro_batch": {},
    # Largest norm of all gradients together; 0: they are not clipped.
    "clip_grad": 0.0,
    # Steps in a row whose loss or gradient is not finite: each is left out, so many end the run.
    "max_nonfinite": 10,
    # Decay of an average of the weights, which is then what is evaluated and kept; 0: none.
    "ema": 0.0,
    # Each process keeps the optimizer's state of a part of the parameters, not of all (ZeRO).
    "zero": False,
    # Lay images and kernels out with the channels last, which tensor cores are made for.
    "channels_last": False,
    # Arguments of torch.compile, for the backbone and the head: {} for its defaults, or such as
    # {backend: aot_eager}; None: nothing is compiled.
    "compile": None,
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
    # Arguments of wandb.init, such as dict(project="detection"); None: nothing is sent there.
    "wandb": None,
    # A few iterations of everything, in the subfolder fast_dev_run; see engine/fast_dev_run.py.
    "fast_dev_run": False,
    # "cuda" or "cpu".
    "device": "cuda",
}
