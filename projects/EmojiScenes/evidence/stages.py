"""Training in stages: the shared start, smaller worlds, and then the world of the config.

Each stage is a training run in a folder of its own, which resumes from the last checkpoint of the
stage before it.
"""

import argparse
import hashlib
import logging
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from detectron2.config import LazyConfig
from detectron2.engine import default_argument_parser
from detectron2.utils import comm
from omegaconf import DictConfig, open_dict

from detclip2.config import build_model
from detclip2.engine.launch import run_processes
from detclip2.engine.train_loop import set_up, train
from detclip2.utils.errors import UserError
from detclip2.utils.model_folder import CONFIG_NAME, WEIGHTS_NAME

from .budget import FIRST
from .record import Cost

LAST_CHECKPOINT = "model_final.pth"
MINIMAL_SCENES = 10


def shared_start(cfg: DictConfig, folder: Path, processes: int = 1) -> Path:
    """The folder of the stage that a row begins with, trained unless it is there.

    Its name has a fingerprint of all that it depends on: rows that differ only in what acts after
    their other sources begin get the same folder.

    Args:
        cfg: of the row.
        folder: where the folders of shared starts are.
        processes: that share every batch.

    Raises:
        UserError: the first world of ``benchmark.growth`` does not end with the shared start.
    """
    start = cfg.copy()
    for source in list(start.dataloader.train):
        if source in start.benchmark.iterations and source != FIRST:
            del start.dataloader.train[source]
    if start.benchmark.growth:
        start.world.categories, until = start.benchmark.growth[0]
        if until != start.benchmark.shared:
            raise UserError(
                f"benchmark.growth: the first world ends after {until} iterations; expected "
                f"{start.benchmark.shared}, as the shared start (benchmark.shared) that is in it"
            )
    start.lr_multiplier.decay_start = "${benchmark.shared}"
    start.train.update(
        max_iter=start.benchmark.shared, source_ratios=None, source_starts=None, eval_period=0
    )
    with open_dict(start):
        start.pop("pairs_to_label", None)
    folder = folder / f"start-{_fingerprint(start)}-seed{start.train.seed}"
    start.train.output_dir = str(folder)
    if not (folder / LAST_CHECKPOINT).is_file():
        with Cost(folder):
            train_stage(start, processes)
    return folder


def _fingerprint(start: DictConfig) -> str:
    """A hash of the parts of a config that act on detection data alone."""
    cfg = start.copy()
    cfg.train.output_dir = ""
    cfg.model.contrast = None  # it has no weights, and acts on image-text pairs alone
    cfg.world.pairs_size = 0
    cfg.dataloader.test = cfg.dataloader.evaluator = cfg.dataloader.vocabulary = None
    cfg.benchmark = {"shared": cfg.benchmark.shared, "iterations": None, "tests": None}
    with tempfile.TemporaryDirectory() as scratch:  # rows may run at the same time
        file = Path(scratch) / CONFIG_NAME
        LazyConfig.save(cfg, str(file))
        return hashlib.sha256(file.read_bytes()).hexdigest()[:10]


def smaller_worlds(cfg: DictConfig) -> Iterator[DictConfig]:
    """The configs of the stages between the shared start and the whole world."""
    for categories, until in cfg.benchmark.growth:
        if until > cfg.benchmark.shared:
            part = cfg.copy()
            part.world.categories = categories
            part.train.update(
                max_iter=until, output_dir=f"{cfg.train.output_dir}/{categories}", eval_period=0
            )
            part.lr_multiplier.decay_start = until
            yield part


def resume_from(before: Path, cfg: DictConfig, processes: int = 1) -> Path:
    """Train a stage to its end from the end of the stage before; returns its folder."""
    folder = Path(cfg.train.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "last_checkpoint").is_file():
        # --resume reads this; the checkpointer does not prepend a folder to an absolute path.
        last = str((before / LAST_CHECKPOINT).resolve())
        (folder / "last_checkpoint").write_text(last, encoding="utf-8")
    if not (folder / WEIGHTS_NAME).is_file():
        train_stage(cfg, processes)
    return folder


def train_stage(cfg: DictConfig, processes: int = 1) -> None:
    """Train by a config, resuming from what is in its folder.

    Raises:
        UserError: of the config or the data.
        SystemExit: a signal asked to stop, or one of several processes has reported a UserError.
    """
    folder = Path(cfg.train.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    short = cfg.copy()
    if not cfg.train.eval_period:
        evaluate_minimally(short)
    save_config(short, folder)
    close_logs()
    arguments = ["--config-file", str(folder / CONFIG_NAME), "--num-gpus", str(processes)]
    parsed = default_argument_parser().parse_args(arguments)
    parsed.trust_config = True  # written above; it may name parts of this project
    run_processes(train_process, parsed)
    save_config(cfg, folder)


def evaluate_minimally(cfg: DictConfig) -> None:
    """Shorten the evaluation that ends every training: the test sets are measured afterwards."""
    cfg.dataloader.test.dataset.count = min(MINIMAL_SCENES, cfg.dataloader.test.dataset.count)


def save_config(cfg: DictConfig, folder: Path) -> None:
    """Write the config of a stage, without the source that its teacher labels."""
    saved = cfg.copy()
    with open_dict(saved):
        saved.pop("pairs_to_label", None)
    LazyConfig.save(saved, str(folder / CONFIG_NAME))


def train_process(arguments: argparse.Namespace) -> None:
    """One process of a training."""
    try:
        cfg = set_up(arguments)
        train(cfg, build_model(cfg).to(cfg.train.device), resume=True)
    except UserError as error:
        if comm.get_world_size() == 1:
            raise
        sys.exit(f"evidence: {error}")  # an exception would reach the waiting one as a traceback


def close_logs() -> None:
    """Close the log files of earlier runs of this process, which later messages would reach."""
    for name in ("detectron2", "fvcore", "detclip2"):
        logger = logging.getLogger(name)
        for handler in list(logger.handlers):
            logger.removeHandler(handler)
            handler.close()
