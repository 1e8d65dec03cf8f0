"""The training loop: everything between a LazyConfig and a trained model.

``projects/DetCLIPv2/train_net.py`` says which keys of a config it reads; ``detclip2 finetune`` runs
the same loop on the config that it writes.
"""

import contextlib
import logging
from typing import Any, cast

import torch
from detectron2.engine import create_ddp_model, default_setup, default_writers, hooks
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.utils import comm
from detectron2.utils.events import EventWriter
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig, OmegaConf
from torch import nn

from detclip2.config import apply_overrides, build, check_keys, load_config, unknown_key
from detclip2.data.datasets.detection import category_names
from detclip2.engine.checkpoint import Checkpointer
from detclip2.engine.defaults import TRAIN
from detclip2.engine.fast_dev_run import FirstBatches, shorten
from detclip2.engine.hooks.auto_step import AutoStep, Stagnated
from detclip2.engine.hooks.curves import DrawCurves
from detclip2.engine.hooks.ema import AverageWeights
from detclip2.engine.hooks.preemption import PreemptionHook
from detclip2.engine.hooks.progress import ProgressBar
from detclip2.engine.hooks.resumable import ResumableBestCheckpointer, ResumablePeriodicCheckpointer
from detclip2.engine.hooks.source_schedule import AlternateSources
from detclip2.engine.hooks.speed import Speed, SpeedPrinter
from detclip2.engine.hooks.wandb_writer import WandbWriter
from detclip2.engine.memory import keep_freed_memory
from detclip2.engine.nonfinite import NonFiniteSteps
from detclip2.engine.runtime import apply_runtime_options
from detclip2.engine.solver import set_epochs
from detclip2.engine.trainer import Trainer
from detclip2.engine.zero import shard_optimizer_state
from detclip2.modeling.meta_arch.detclipv2 import DetCLIPv2
from detclip2.utils.errors import UserError
from detclip2.utils.files import out_of_space, space_needed
from detclip2.utils.model_folder import save_weights

logger = logging.getLogger("detclip2")


def evaluate(cfg: DictConfig, model: DetCLIPv2, part: str = "dataloader") -> dict[str, Any]:
    """Detect the names of the test set in its images, and measure.

    Args:
        cfg: the config.
        model: in evaluation mode.
        part: the key with ``test`` and ``evaluator``.
    """
    loader = build(cfg, f"{part}.test")
    if cfg.train.fast_dev_run:
        loader = FirstBatches(loader)
    evaluator = build(cfg, f"{part}.evaluator")
    model.set_vocabulary(category_names(cfg[part].evaluator.dataset_name))
    results = inference_on_dataset(model, loader, evaluator)
    print_csv_format(results)
    return results


def train(
    cfg: DictConfig, model: DetCLIPv2, resume: bool, progress_bar: bool = False
) -> dict[str, Any]:
    """Train to ``train.max_iter``, from the last checkpoint if ``resume``; returns the results.

    Raises:
        SystemExit: a signal asked to stop; there is a checkpoint.
        UserError: of the config, the data, a full disk, or a loss that is not finite.
    """
    keys, main = cfg.train, comm.is_main_process()
    cfg.optimizer.params.model = model
    plain: Any = OmegaConf.to_container(keys, resolve=True)  # of lists and dicts
    apply_runtime_options(model, keys.channels_last, plain["compile"])
    optimizer = build(cfg, "optimizer")
    optimizer = shard_optimizer_state(optimizer) if keys.zero else optimizer
    loader = build(cfg, "dataloader.train")
    set_epochs(cfg.train, loader)
    # DistributedDataParallel takes no device for a model on the CPU.
    ddp = {**keys.ddp, **({"device_ids": None} if keys.device == "cpu" else {})}
    parallel_model: nn.Module = create_ddp_model(model, **ddp)
    nonfinite = NonFiniteSteps(keys.output_dir, keys.max_nonfinite)
    trainer = Trainer(
        *(parallel_model, loader, optimizer, nonfinite),
        precision=precision(keys.amp),
        clip_norm=keys.clip_grad,
        micro_batch=keys.micro_batch,
    )
    average = AverageWeights(model, keys.ema) if keys.ema else None
    best_model = cast(DetCLIPv2, average.model) if average else model
    averaged = {"ema": average.model} if average else {}
    checkpointer = Checkpointer(model, keys.output_dir, trainer=trainer, **averaged)
    stop = PreemptionHook(checkpointer)
    results: dict[str, Any] = {}

    def evaluate_and_keep() -> dict[str, Any]:
        results.clear()
        if stop.agreed is None:  # else there is no time left for it
            # The main process alone has them; the hooks below need them in all.
            results.update(comm.all_gather(evaluate(cfg, best_model))[0])
        return results

    period = keys.eval_period
    schedule = hooks.LRScheduler(scheduler=build(cfg, "lr_multiplier"))
    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            schedule,
            AlternateSources(
                loader,
                keys.source_ratios,
                keys.seed,
                report_period=keys.report_period,
                starts=keys.source_starts,
                block=len(loader.sources) if keys.fast_dev_run else 100,
            ),
            Speed(loader),
            average,
            ResumablePeriodicCheckpointer(checkpointer, **keys.checkpointer),
            stop,
            hooks.EvalHook(period, evaluate_and_keep),
            ResumableBestCheckpointer(period, checkpointer, "bbox/AP") if period else None,
            hooks.PeriodicWriter(writers(cfg), period=keys.log_period) if main else None,
            DrawCurves(keys.output_dir) if main else None,
            ProgressBar(loader) if main and progress_bar else None,
            AutoStep(schedule, **cfg.train.auto_step) if cfg.train.auto_step else None,
        ]
    )
    checkpointer.resume_or_load(keys.init_checkpoint, resume=resume)
    start = trainer.iter + 1 if resume and checkpointer.has_checkpoint() else 0
    with stop.listening(), space_needed(keys.output_dir):
        with contextlib.suppress(Stagnated):
            trainer.train(start, keys.max_iter)
        if main:
            save_weights(best_model, keys.output_dir)
    return results


def precision(amp: DictConfig) -> torch.dtype | None:
    """What ``train.amp`` lowers operations to; None for float32.

    Raises:
        UserError: a precision that is neither float16 nor bfloat16.
    """
    if amp.precision not in ("float16", "bfloat16"):
        raise UserError(f"train.amp.precision is {amp.precision!r}: it is float16 or bfloat16")
    return getattr(torch, amp.precision) if amp.enabled else None


def writers(cfg: DictConfig) -> list[EventWriter]:
    """Where metrics go: log, metrics.json, TensorBoard, and W&B if ``train.wandb`` is set."""
    keys = cfg.train
    chosen = [*default_writers(keys.output_dir, keys.max_iter), SpeedPrinter()]
    if keys.wandb is not None:
        shown = {"train": OmegaConf.to_container(keys)}
        chosen.append(WandbWriter(keys.output_dir, shown, **keys.wandb))
    return chosen


def load(args: Any) -> DictConfig:
    """The config with the overrides of the command line.

    Raises:
        UserError: it cannot be loaded, or has a key that nothing reads, or lacks one that is read.
    """
    cfg, name = load_config(args.config_file)
    known = OmegaConf.create(TRAIN)
    cfg.train = OmegaConf.merge(known, cfg.get("train", {}))
    apply_overrides(cfg, args.opts, name)
    for key in cfg.train:
        if key not in known:
            raise UserError(unknown_key(name, "train", key, known))
    for part in ("model", "optimizer", "lr_multiplier", "dataloader"):
        if part not in cfg:
            raise UserError(f"{name}: key {part!r} is missing")
        check_keys(cfg[part], part, name)
    return cfg


def set_up(args: Any, output_dir: str = "") -> DictConfig:
    """The loaded config, with folders, logs and seeds as it says.

    Args:
        args: of Detectron2's ``default_argument_parser``.
        output_dir: takes the place of ``train.output_dir``; as an override, a folder whose name
            has spaces, "=" or "[" would be grammar.
    """
    cfg = load(args)
    if output_dir:
        cfg.train.output_dir = output_dir
    if cfg.train.fast_dev_run:
        shorten(cfg)
    if cfg.train.device == "cuda" and not torch.cuda.is_available():
        logger.warning("there is no GPU here: train.device is set to 'cpu'")
        cfg.train.device, cfg.train.amp.enabled = "cpu", False
    if cfg.train.device == "cpu":
        keep_freed_memory()
    default_setup(cfg, args)
    setup_logger(cfg.train.output_dir, distributed_rank=comm.get_rank(), name="detclip2")
    # A mistake of the user is told in one sentence; the trainer would log its traceback too.
    logging.getLogger("detectron2.engine.train_loop").addFilter(no_traceback)
    return cfg


def no_traceback(record: logging.LogRecord) -> bool:
    """False for a log record of what is told in one sentence."""
    error = record.exc_info and record.exc_info[1]
    return not (error and (isinstance(error, UserError) or out_of_space(error)))
