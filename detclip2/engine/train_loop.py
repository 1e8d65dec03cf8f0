"""The training loop: everything between a LazyConfig and a trained model.

``projects/DetCLIPv2/train_net.py`` lists the keys of a config that it reads; ``detclip2 finetune``
runs the same loop on the config that it writes.
"""

import contextlib
import io
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from detectron2.engine import create_ddp_model, default_setup, default_writers, hooks
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm
from detectron2.utils.events import EventWriter
from detectron2.utils.logger import setup_logger
from detectron2.utils.registry import locate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from detclip2.config import (
    apply_overrides,
    build,
    check_keys,
    fill_environment,
    load_config,
    require_keys,
    unknown_key,
)
from detclip2.data.hybrid_loader import source_nodes
from detclip2.engine.checkpoint import Checkpointer
from detclip2.engine.hooks.curves import DrawCurves
from detclip2.engine.hooks.ema import AverageWeights
from detclip2.engine.hooks.plateau import EarlyStop, ReduceLROnPlateau
from detclip2.engine.hooks.preemption import PreemptionHook
from detclip2.engine.hooks.progress import ProgressBar
from detclip2.engine.hooks.resumable import (
    ResumableBestCheckpointer,
    ResumableEvalHook,
    ResumablePeriodicCheckpointer,
)
from detclip2.engine.hooks.source_schedule import AlternateSources, ReportSkipped, SeedEachIteration
from detclip2.engine.hooks.speed import Speed, SpeedPrinter
from detclip2.engine.hooks.trackers import TRACKERS
from detclip2.engine.learning import set_up_learning
from detclip2.engine.resumed_config import check_resumed
from detclip2.engine.run_folder import keep_text_model, save_config
from detclip2.engine.runtime import apply_runtime_options, keep_freed_memory
from detclip2.engine.solver import set_epochs, shard_optimizer_state
from detclip2.engine.test_sets import check_test_sets
from detclip2.engine.train_keys import add_train_defaults, check_train
from detclip2.engine.trainer import NonFiniteSteps, Trainer
from detclip2.evaluation.protocol import Protocol
from detclip2.evaluation.streaming import protocols_of, set_vocabulary_description
from detclip2.modeling.protocol import OpenVocabularyModel
from detclip2.utils.errors import UserError
from detclip2.utils.files import out_of_space, space_needed
from detclip2.utils.model_folder import save_weights
from detclip2.utils.weights import load_weights

logger = logging.getLogger("detclip2")

# A fast_dev_run has this many iterations of each source and batches of a test set.
TURNS, TEST_BATCHES = 2, 2


def evaluate(
    cfg: DictConfig,
    model: OpenVocabularyModel,
    part: str = "dataloader",
    *,
    watch: Callable[[Any], Any] | None = None,
    protocols: list[Protocol] | None = None,
) -> dict[str, Any]:
    """Evaluate a model on every test set of a config.

    Args:
        cfg: the config.
        model: in evaluation mode.
        part: the key with ``test``, ``evaluator`` and ``vocabulary``, and optionally ``tests``.
        watch: shows the progress to a person: it maps a loader to one that does so. What
            pycocotools prints is then dropped.
        protocols: gets the protocols of the evaluations.

    Returns:
        The results of ``test``, and those of each of ``tests`` under its name; {} on processes
        other than the main one.

    Raises:
        UserError: a test set has no vocabulary, or cannot be built or evaluated.
    """
    results: dict[str, Any] = {}
    check_vocabularies(cfg, part)
    for name, (node, loader) in evaluation_nodes(cfg, part).items():
        found = _evaluate_on(cfg, model, node, loader, watch, protocols)
        results.update({name: found} if name and found else found)
    return results


def evaluation_nodes(cfg: DictConfig, part: str = "dataloader") -> dict[str, tuple[str, str]]:
    """The test sets of a config: name -> (path of the node, key of its loader).

    The name of ``test`` is "".
    """
    nodes = {"": (part, "test")} if "test" in cfg[part] else {}
    for name in cfg[part].get("tests") or {}:
        nodes[str(name)] = (f"{part}.tests.{name}", "loader")
    return nodes


def check_vocabularies(cfg: DictConfig, part: str = "dataloader") -> None:
    """Check that every test set has a vocabulary, before a training rather than at its end.

    Raises:
        UserError: a test set has no key ``vocabulary``.
    """
    for node, _ in evaluation_nodes(cfg, part).values():
        if "vocabulary" not in OmegaConf.select(cfg, node):
            raise UserError(
                f"{node}.vocabulary is missing: give L(Vocabulary.of_dataset)(dataset_name=...), "
                "or None if each sample has its own"
            )


def _evaluate_on(
    cfg: DictConfig,
    model: OpenVocabularyModel,
    node: str,
    loader_key: str,
    watch: Callable[[Any], Any] | None,
    protocols: list[Protocol] | None,
) -> dict[str, Any]:
    loader = build(cfg, f"{node}.{loader_key}")  # registers the data set
    if cfg.train.fast_dev_run:
        loader = FirstBatches(loader)
    evaluator = build(cfg, f"{node}.evaluator")
    if OmegaConf.select(cfg, f"{node}.vocabulary") is not None:
        vocabulary = build(cfg, f"{node}.vocabulary").encode_with(model)
        model.set_vocabulary(vocabulary)
        set_vocabulary_description(evaluator, vocabulary.description)
    with contextlib.redirect_stdout(io.StringIO()) if watch else contextlib.nullcontext():
        results = inference_on_dataset(model, watch(loader) if watch else loader, evaluator)
    print_csv_format(results)
    if protocols is not None:
        protocols += protocols_of(evaluator)
    return results or {}


def metrics_of(results: Mapping[str, Any]) -> dict[str, Any]:
    """The results of evaluations by names such as "bbox/AP", for the writers of metrics.

    An undefined one, such as the AP of a category without a box, is none: json has no NaN.
    """
    flat = flatten_results_dict(results)
    return {k: v for k, v in flat.items() if not (isinstance(v, float) and math.isnan(v))}


def best_metric(cfg: DictConfig) -> str:
    """The metric by which an evaluation is the best: ``train.best_metric``, or the evaluator's."""
    if cfg.train.best_metric is not None:
        return str(cfg.train.best_metric)
    name, (node, _) = next(iter(evaluation_nodes(cfg).items()), ("", ("dataloader", "")))
    target = OmegaConf.select(cfg, f"{node}.evaluator._target_")
    metric = getattr(
        locate(target) if isinstance(target, str) else target, "best_metric", "bbox/AP"
    )
    return f"{name}/{metric}" if name else metric


def train(cfg: DictConfig, model: Any, resume: bool, progress_bar: bool = False) -> dict[str, Any]:
    """Train to ``train.max_iter``, from the last checkpoint if ``resume``; returns the results.

    Raises:
        SystemExit: a signal asked to stop; a checkpoint is written.
        UserError: the config or the data are wrong, the disk is full, or losses are not finite.
    """
    keys, main = cfg.train, comm.is_main_process()
    for key in ("optimizer", "lr_multiplier", "dataloader.train"):
        if OmegaConf.select(cfg, key) is None:
            raise UserError(f"the config: key {key!r} is missing, which a training needs")
    cfg.optimizer.params.model = model
    plain: Any = OmegaConf.to_container(keys, resolve=True)  # of lists and dicts
    initial = keys.init_checkpoint
    if keys.lora is not None and initial:  # the matrices change names of weights
        if not (resume and (Path(keys.output_dir) / "last_checkpoint").is_file()):
            load_weights(model, initial, model.ignored_weights)
        initial = ""
    set_up_learning(model, keys)
    apply_runtime_options(model, keys.channels_last, plain["compile"])
    optimizer = build(cfg, "optimizer")
    optimizer = shard_optimizer_state(optimizer) if keys.zero else optimizer
    loader = build(cfg, "dataloader.train")
    check_test_sets(cfg, evaluation_nodes(cfg).values())
    loader.tokenise_by(model.phrase_tokens)
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
    best_model: Any = average.model if average else model
    averaged = {"ema": average.model} if average else {}
    checkpointer = Checkpointer(model, keys.output_dir, trainer=trainer, **averaged)
    stop = PreemptionHook(checkpointer)
    metric = best_metric(cfg)
    bar = ProgressBar(loader) if main and progress_bar else None
    results: dict[str, Any] = {}

    def evaluate_and_keep() -> dict[str, Any]:
        results.clear()
        if stop.agreed is None:  # after a stop signal there is no time for it
            # Only the main process has results; the hooks below need them in all processes.
            watch = bar.watch if bar else None
            results.update(comm.all_gather(evaluate(cfg, best_model, watch=watch))[0])
            if bar:
                bar.report(results)
            known = flatten_results_dict(results)
            if keys.best_metric and metric not in known:
                raise UserError(
                    f"train.best_metric is {metric!r}, but the evaluation gives {', '.join(known)}"
                )
        return metrics_of(results)

    period, reduce = keys.eval_period, plain["reduce_lr_on_plateau"]
    schedule = hooks.LRScheduler(scheduler=build(cfg, "lr_multiplier"))
    plateau = ReduceLROnPlateau(schedule, **{"metric": metric, **reduce}) if reduce else None
    best = ResumableBestCheckpointer(period, checkpointer, metric) if period else None
    judges = [judge for judge in (plateau, best) if judge]  # the best checkpoint has the counts
    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            schedule,
            AlternateSources(
                loader,
                keys.source_ratios,
                keys.seed,
                starts=keys.source_starts,
                block=len(loader.sources) if keys.fast_dev_run else 100,
            ),
            SeedEachIteration(keys.seed),
            ReportSkipped(loader, keys.report_period),
            Speed(loader),
            average,
            ResumablePeriodicCheckpointer(checkpointer, **keys.checkpointer),
            stop,
            ResumableEvalHook(period, evaluate_and_keep, judges),
            *judges,
            hooks.PeriodicWriter(writers(cfg), period=keys.log_period) if main else None,
            DrawCurves(keys.output_dir) if main else None,
            bar,
        ]
    )
    checkpointer.resume_or_load(initial, resume=resume)
    start = trainer.iter + 1 if resume and checkpointer.has_checkpoint() else 0
    with stop.listening(), space_needed(keys.output_dir):
        with contextlib.suppress(EarlyStop):
            trainer.train(start, keys.max_iter)
        if main:
            save_weights(best_model, keys.output_dir)
    return results


def precision(amp: DictConfig) -> torch.dtype | None:
    """The dtype of autocast by ``train.amp``; None for float32.

    Raises:
        UserError: the precision is neither float16 nor bfloat16.
    """
    if amp.precision not in ("float16", "bfloat16"):
        raise UserError(f"train.amp.precision is {amp.precision!r}: it is float16 or bfloat16")
    return getattr(torch, amp.precision) if amp.enabled else None


def writers(cfg: DictConfig) -> list[EventWriter]:
    """Writers of metrics: log, metrics.json, TensorBoard, and the `TRACKERS` that are set."""
    keys = cfg.train
    chosen = [*default_writers(keys.output_dir, keys.max_iter), SpeedPrinter()]
    shown = {"train": OmegaConf.to_container(keys)}
    for key, writer in TRACKERS.items():
        if (arguments := keys.get(key)) is not None:
            chosen.append(writer(keys.output_dir, shown, **arguments))
    return chosen


def load(args: Any) -> DictConfig:
    """The config with the overrides of the command line.

    Raises:
        UserError: it cannot be loaded, has an unknown key, or lacks the model or data.
    """
    cfg, name = load_config(args.config_file, getattr(args, "trust_config", False))
    known = add_train_defaults(cfg, name)
    apply_overrides(cfg, args.opts, name)
    require_keys(cfg.train, f"{name}: train")
    fill_environment(cfg)
    for key in cfg.train:
        if key == "auto_step":
            raise UserError(f"{name}: train.auto_step is called train.reduce_lr_on_plateau now")
        if key not in known:
            raise UserError(unknown_key(name, "train", key, known))
    check_train(cfg, known, name)
    for part in ("model", "dataloader"):
        if part not in cfg:
            raise UserError(f"{name}: key {part!r} is missing")
    for part in ("model", "dataloader", "optimizer", "lr_multiplier"):
        if part in cfg:
            check_keys(cfg[part], part, name)
    check_vocabularies(cfg)
    return cfg


def set_up(args: Any, output_dir: str = "") -> DictConfig:
    """Load the config and set up its folders, logs and seeds.

    Args:
        args: from Detectron2's ``default_argument_parser``.
        output_dir: replaces ``train.output_dir``; an override cannot hold a name with spaces, "="
            or "[".

    Raises:
        UserError: as `load`; a resumed run has another config than before, see `check_resumed`.
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
    keep_text_model(cfg)
    if args.resume and comm.is_main_process():
        check_resumed(cfg)  # before the folder's config is replaced
    default_setup(cfg, args)
    save_config(cfg)
    setup_logger(cfg.train.output_dir, distributed_rank=comm.get_rank(), name="detclip2")
    # A UserError is reported in one sentence; the trainer would log its traceback too.
    logging.getLogger("detectron2.engine.train_loop").addFilter(no_traceback)
    return cfg


def no_traceback(record: logging.LogRecord) -> bool:
    """False for the log record of an error that is reported in one sentence."""
    error = record.exc_info and record.exc_info[1]
    return not (error and (isinstance(error, UserError) or out_of_space(error)))


def shorten(cfg: DictConfig) -> None:
    """Make ``cfg`` a run of a few iterations that tries every part, before a long run.

    It writes to the subfolder ``fast_dev_run`` of its output folder. Every source has its turn, a
    checkpoint and an evaluation are made in the middle and at the end, and every iteration is
    logged. Models, data and batch sizes are those of the long run.
    """
    names = list(source_nodes(cfg))
    cfg.train.update(
        output_dir=str(Path(cfg.train.output_dir) / "fast_dev_run"),
        max_iter=TURNS * len(names),
        source_ratios=dict.fromkeys(names, 1.0),
        source_starts=None,
        checkpointer={**cfg.train.checkpointer, "period": len(names)},
        eval_period=len(names),
        log_period=1,
    )


class FirstBatches:
    """The first batches of a test loader.

    Args:
        loader: a loader with a length.
        number: the most batches.
    """

    def __init__(self, loader: Any, number: int = TEST_BATCHES) -> None:
        self.loader = loader
        self.number = number

    def __len__(self) -> int:
        return min(self.number, len(self.loader))

    def __iter__(self) -> Iterator[Any]:
        return islice(iter(self.loader), self.number)
