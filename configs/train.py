"""Every key of `train` with its meaning and default.

The training loop reads these keys besides model, data, optimizer and learning rate. It takes
missing keys from here, and refuses unknown ones.
"""

import torch

train = dict(
    # Folder for all files of a run.
    output_dir="./output",
    # Initial weights; "": those of the model's constructor.
    init_checkpoint="",
    # Beginnings of names of the parameters that learn, such as ["head.box.", "align."]; all else is
    # frozen, in evaluation mode; None: everything learns.
    learn=None,
    # dict(rank=8): low-rank matrices learn, beside weights that are frozen; needs peft. The weights
    # that the run saves are merged with them; None: no matrices.
    lora=None,
    # Iterations; each takes one batch from one source.
    max_iter=90000,
    # Passes over the data of the only source: they set max_iter, with an evaluation after each;
    # None: max_iter and eval_period hold.
    epochs=None,
    # source -> share of the iterations; None: each record of every source is seen equally often.
    source_ratios=None,
    # source -> its first iteration; None: all from the start.
    source_starts=None,
    # Seed of data order, augmentation, source schedule and drop path; 0 or more.
    seed=0,
    # Mixed precision: "float16", whose loss is scaled, or "bfloat16", which is faster on a CPU.
    amp=dict(enabled=False, precision="float16"),
    # Supervision ("detection", "grounding", "caption") -> most samples in one forward pass of a
    # process. A larger batch is done in parts, with the losses and gradients of the whole.
    micro_batch=dict(),
    # Largest norm of all gradients together; 0: they are not clipped.
    clip_grad=0.0,
    # Steps with a non-finite loss or gradient are skipped; this many in a row end the run.
    max_nonfinite=10,
    # Decay of an average of the weights, which is then evaluated and saved; 0: no average.
    ema=0.0,
    # Each process keeps the optimizer's state of a part of the parameters, not of all (ZeRO).
    zero=False,
    # Store images and kernels with channels last, which is fast on tensor cores.
    channels_last=False,
    # Arguments of torch.compile, for the backbone and the head: {} for its defaults, or such as
    # {backend: aot_eager}; None: nothing is compiled.
    compile=None,
    # Passed to DistributedDataParallel. A batch of captions leaves the box branch without
    # gradient, so it must find unused parameters.
    ddp=dict(broadcast_buffers=False, find_unused_parameters=True),
    # A checkpoint every `period` iterations; the last `max_to_keep` are kept.
    checkpointer=dict(period=5000, max_to_keep=3),
    # Iterations between two evaluations, of which the best is kept as model_best.pth; 0: only at
    # the end.
    eval_period=0,
    # Result by which an evaluation is the best, such as "bbox/AP", more is better; of a test set in
    # `dataloader.tests` its name comes first: "lvis/bbox_fixed/AP". None: the evaluator's own
    # choice (Fixed AP on LVIS, R@1 of phrase grounding, AP of others), of the first test set.
    best_metric=None,
    # Arguments of ReduceLROnPlateau, which lowers the learning rate and ends the run where
    # evaluations no longer improve; None: the rate follows lr_multiplier to the end.
    reduce_lr_on_plateau=None,
    # Iterations between two lines of the log.
    log_period=20,
    # Iterations between two reports of skipped data, by kind.
    report_period=1000,
    # Arguments of wandb.init, such as dict(project="detection"); None: wandb is not used.
    wandb=None,
    # The same for trackio and MLflow: dict(project="detection"), dict(experiment="detection"), both
    # with an optional name of the run.
    trackio=None,
    mlflow=None,
    # A few iterations of everything, in the subfolder fast_dev_run; see engine/train_loop.py.
    fast_dev_run=False,
    # "cuda" or "cpu": the GPU, if there is one.
    device="cuda" if torch.cuda.is_available() else "cpu",
)
