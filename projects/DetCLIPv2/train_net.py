"""Train, resume or evaluate DetCLIPv2 from a LazyConfig, on one process or many.

    python projects/DetCLIPv2/train_net.py --config-file CONFIG [--resume | --eval-only]
        [--num-gpus N] [key=value ...]

It reads these keys of the config, and no others:

- ``model``; ``optimizer`` (its ``params.model`` is set here); ``lr_multiplier``
- ``dataloader.train``: a HybridLoader; ``dataloader.test``: a Detectron2 test loader;
  ``dataloader.evaluator``: its ``dataset_name`` gives the names to detect
- ``train``: see configs/train.py
"""

import logging
from typing import Any

import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.data import MetadataCatalog
from detectron2.engine import (
    AMPTrainer,
    SimpleTrainer,
    create_ddp_model,
    default_argument_parser,
    default_setup,
    default_writers,
    hooks,
    launch,
)
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.utils import comm
from omegaconf import DictConfig
from torch import nn

from detclip2.engine.alternate_sources import AlternateSources
from detclip2.engine.checkpoint import Checkpointer
from detclip2.engine.memory import keep_freed_memory
from detclip2.engine.progress import ProgressBar
from detclip2.model_folder import save_weights
from detclip2.modeling.detclip import DetCLIPv2

logger = logging.getLogger("detclip2")


def evaluate(cfg: DictConfig, model: DetCLIPv2) -> dict[str, Any]:
    """Detect the names of the test set in its images, and measure."""
    loader = instantiate(cfg.dataloader.test)
    evaluator = instantiate(cfg.dataloader.evaluator)
    names = MetadataCatalog.get(cfg.dataloader.evaluator.dataset_name).thing_classes
    model.set_vocabulary(names)
    results = inference_on_dataset(model, loader, evaluator)
    print_csv_format(results)
    return results


def train(
    cfg: DictConfig, model: DetCLIPv2, resume: bool, progress_bar: bool = False
) -> dict[str, Any]:
    """Train to ``train.max_iter``, from the last checkpoint if ``resume``; returns the results."""
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    loader = instantiate(cfg.dataloader.train)
    parallel_model: nn.Module = create_ddp_model(model, **cfg.train.ddp)
    trainer_class = AMPTrainer if cfg.train.amp.enabled else SimpleTrainer
    trainer = trainer_class(parallel_model, loader, optimizer)
    checkpointer = Checkpointer(model, cfg.train.output_dir, trainer=trainer)
    results: dict[str, Any] = {}

    def evaluate_and_keep() -> dict[str, Any]:
        results.clear()
        results.update(evaluate(cfg, model))
        return results

    main = comm.is_main_process()
    writers = default_writers(cfg.train.output_dir, cfg.train.max_iter) if main else []
    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            hooks.LRScheduler(scheduler=instantiate(cfg.lr_multiplier)),
            AlternateSources(loader, cfg.train.source_ratios, cfg.train.seed),
            hooks.PeriodicCheckpointer(checkpointer, **cfg.train.checkpointer) if main else None,
            hooks.EvalHook(cfg.train.eval_period, evaluate_and_keep),
            hooks.PeriodicWriter(writers, period=cfg.train.log_period) if main else None,
            ProgressBar(loader) if main and progress_bar else None,
        ]
    )
    checkpointer.resume_or_load(cfg.train.init_checkpoint, resume=resume)
    start = trainer.iter + 1 if resume and checkpointer.has_checkpoint() else 0
    trainer.train(start, cfg.train.max_iter)
    if comm.is_main_process():
        save_weights(model, cfg.train.output_dir)
    return results


def set_up(args: Any) -> DictConfig:
    """The config with the overrides of the command line; folders, logs and seeds as it says."""
    cfg = LazyConfig.apply_overrides(LazyConfig.load(args.config_file), args.opts)
    if cfg.train.device == "cuda" and not torch.cuda.is_available():
        logger.warning("there is no GPU here: train.device is set to 'cpu'")
        cfg.train.device = "cpu"
    if cfg.train.device == "cpu":
        keep_freed_memory()
    default_setup(cfg, args)
    return cfg


def main(args: Any) -> dict[str, Any]:
    """Set up one process and do what the arguments say."""
    cfg = set_up(args)
    model = instantiate(cfg.model).to(cfg.train.device)
    if args.eval_only:
        model.eval()
        Checkpointer(model, cfg.train.output_dir).load(cfg.train.init_checkpoint)
        return evaluate(cfg, model)
    return train(cfg, model, args.resume)


if __name__ == "__main__":
    arguments = default_argument_parser(__doc__).parse_args()
    launch(
        main,
        arguments.num_gpus,
        num_machines=arguments.num_machines,
        machine_rank=arguments.machine_rank,
        dist_url=arguments.dist_url,
        args=(arguments,),
    )
