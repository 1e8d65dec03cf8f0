"""The training loop: everything between a LazyConfig and a trained model.

``projects/DetCLIPv2/train_net.py`` says which keys of a config it reads; ``detclip2 finetune`` runs
the same loop on the config that it writes.
"""

import contextlib
import logging
from typing import Any

import torch
from detectron2.engine import (
    AMPTrainer,
    SimpleTrainer,
    create_ddp_model,
    default_setup,
    default_writers,
    hooks,
)
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig, OmegaConf
from torch import nn

from detclip2.config import apply_overrides, build, check_keys, load_config, unknown_key
from detclip2.data.sources.detection import category_names
from detclip2.engine.alternate_sources import AlternateSources
from detclip2.engine.auto_step import AutoStep, Stagnated
from detclip2.engine.checkpoint import Checkpointer
from detclip2.engine.memory import keep_freed_memory
from detclip2.engine.progress import ProgressBar
from detclip2.engine.schedule import set_epochs
from detclip2.engine.train_keys import TRAIN
from detclip2.errors import UserError
from detclip2.model_folder import save_weights
from detclip2.modeling.detclip import DetCLIPv2

logger = logging.getLogger("detclip2")


def evaluate(cfg: DictConfig, model: DetCLIPv2) -> dict[str, Any]:
    """Detect the names of the test set in its images, and measure."""
    loader = build(cfg, "dataloader.test")
    evaluator = build(cfg, "dataloader.evaluator")
    model.set_vocabulary(category_names(cfg.dataloader.evaluator.dataset_name))
    results = inference_on_dataset(model, loader, evaluator)
    print_csv_format(results)
    return results


def train(
    cfg: DictConfig, model: DetCLIPv2, resume: bool, progress_bar: bool = False
) -> dict[str, Any]:
    """Train to ``train.max_iter``, from the last checkpoint if ``resume``; returns the results."""
    cfg.optimizer.params.model = model
    optimizer = build(cfg, "optimizer")
    loader = build(cfg, "dataloader.train")
    set_epochs(cfg.train, loader)
    # DistributedDataParallel takes no device for a model on the CPU.
    ddp = {**cfg.train.ddp, **({"device_ids": None} if cfg.train.device == "cpu" else {})}
    parallel_model: nn.Module = create_ddp_model(model, **ddp)
    trainer_class = AMPTrainer if cfg.train.amp.enabled else SimpleTrainer
    trainer = trainer_class(parallel_model, loader, optimizer)
    checkpointer = Checkpointer(model, cfg.train.output_dir, trainer=trainer)
    results: dict[str, Any] = {}

    def evaluate_and_keep() -> dict[str, Any]:
        results.clear()
        results.update(evaluate(cfg, model))
        return results

    main, period = comm.is_main_process(), cfg.train.eval_period
    writers = default_writers(cfg.train.output_dir, cfg.train.max_iter) if main else []
    schedule = hooks.LRScheduler(scheduler=build(cfg, "lr_multiplier"))
    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            schedule,
            AlternateSources(
                loader,
                cfg.train.source_ratios,
                cfg.train.seed,
                report_period=cfg.train.report_period,
                starts=cfg.train.source_starts,
            ),
            hooks.PeriodicCheckpointer(checkpointer, **cfg.train.checkpointer) if main else None,
            hooks.EvalHook(period, evaluate_and_keep),
            hooks.BestCheckpointer(period, checkpointer, "bbox/AP") if main and period else None,
            hooks.PeriodicWriter(writers, period=cfg.train.log_period) if main else None,
            ProgressBar(loader) if main and progress_bar else None,
            AutoStep(schedule, **cfg.train.auto_step) if cfg.train.auto_step else None,
        ]
    )
    checkpointer.resume_or_load(cfg.train.init_checkpoint, resume=resume)
    start = trainer.iter + 1 if resume and checkpointer.has_checkpoint() else 0
    with contextlib.suppress(Stagnated):
        trainer.train(start, cfg.train.max_iter)
    if comm.is_main_process():
        save_weights(model, cfg.train.output_dir)
    return results


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
    if cfg.train.device == "cuda" and not torch.cuda.is_available():
        logger.warning("there is no GPU here: train.device is set to 'cpu'")
        cfg.train.update(device="cpu", amp={"enabled": False})
    if cfg.train.device == "cpu":
        keep_freed_memory()
    default_setup(cfg, args)
    setup_logger(cfg.train.output_dir, distributed_rank=comm.get_rank(), name="detclip2")
    # A mistake of the user is told in one sentence; the trainer would log its traceback too.
    logging.getLogger("detectron2.engine.train_loop").addFilter(no_traceback)
    return cfg


def no_traceback(record: logging.LogRecord) -> bool:
    """False for a log record of a UserError."""
    return not (record.exc_info and isinstance(record.exc_info[1], UserError))
