"""The set-up of a job: arguments, seeds and logs, writers, the model on several processes."""

import argparse
import os
import sys

import torch
from omegaconf import OmegaConf
from torch.nn.parallel import DistributedDataParallel

from detectron2.config import CfgNode, LazyConfig
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import CommonMetricPrinter, JSONWriter, TensorboardXWriter
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import setup_logger

__all__ = ["create_ddp_model", "default_argument_parser", "default_setup", "default_writers"]


def create_ddp_model(model, *, fp16_compression=False, **kwargs):
    """The model itself in a single process, else in a DistributedDataParallel.

    `fp16_compression` halves what is sent of the gradients; `kwargs` are those of
    DistributedDataParallel.
    """
    if comm.get_world_size() == 1:
        return model
    if next(model.parameters()).is_cuda:
        kwargs.setdefault("device_ids", [comm.get_local_rank()])
    ddp = DistributedDataParallel(model, **kwargs)
    if fp16_compression:
        from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook

        ddp.register_comm_hook(None, fp16_compress_hook)
    return ddp


def default_argument_parser(epilog=None):
    """The arguments of a training script; the remaining ones, `opts`, override config keys."""
    script = sys.argv[0]
    examples = f"""
On one machine:
    $ {script} --num-gpus 8 --config-file cfg.py

With other values (LazyConfig: key=value, yacs: KEY VALUE):
    $ {script} --config-file cfg.py train.max_iter=1000
    $ {script} --config-file cfg.yaml SOLVER.MAX_ITER 1000

On two machines:
    (first)$ {script} --machine-rank 0 --num-machines 2 --dist-url tcp://first:port ...
    (second)$ {script} --machine-rank 1 --num-machines 2 --dist-url tcp://first:port ...
"""
    parser = argparse.ArgumentParser(
        epilog=epilog or examples, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", default="", metavar="FILE", help="the config")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue from the last checkpoint of the output folder",
    )
    parser.add_argument("--eval-only", action="store_true", help="evaluate, do not train")
    parser.add_argument("--num-gpus", type=int, default=1, help="processes on this machine")
    parser.add_argument("--num-machines", type=int, default=1)
    parser.add_argument("--machine-rank", type=int, default=0, help="the number of this machine")
    # The same port for all runs of a user, so that a leftover process is noticed.
    user = os.getuid() if hasattr(os, "getuid") else 1
    parser.add_argument(
        "--dist-url",
        default=f"tcp://127.0.0.1:{49152 + user % 16384}",
        help="where the processes meet; 'auto' for a free port of this machine",
    )
    parser.add_argument(
        "opts",
        nargs=argparse.REMAINDER,
        default=None,
        help="overrides of the config: key=value, or pairs of KEY VALUE for yacs",
    )
    return parser


def _get(cfg, yacs_key, *lazy_keys, default):
    """The value of a key that may have several names, of a yacs config or a LazyConfig."""
    if isinstance(cfg, CfgNode):
        return cfg.get(yacs_key, default)
    for key in lazy_keys:
        value = OmegaConf.select(cfg, key)
        if value is not None:
            return value
    return default


def default_setup(cfg, args):
    """Set up a job: output folder, loggers, a record of machine, arguments and config, and seeds.

    `cfg` is a yacs config (OUTPUT_DIR, SEED, CUDNN_BENCHMARK, FLOAT32_PRECISION) or a LazyConfig
    (train.output_dir, .seed, .cudnn_benchmark, .float32_precision). The config is saved as
    config.yaml. Process r seeds with seed + r; a negative seed means an arbitrary one.
    """
    output_dir = _get(cfg, "OUTPUT_DIR", "output_dir", "train.output_dir", default=None)
    rank = comm.get_rank()
    writes = comm.is_main_process() and bool(output_dir)
    if writes:
        PathManager.mkdirs(output_dir)
    for name in ("fvcore", "detectron2"):
        logger = setup_logger(output_dir, rank, name=name)
    logger.info("process %d of %d", rank, comm.get_world_size())
    logger.info("environment:\n%s", collect_env_info())
    logger.info("arguments: %s", args)
    if config_file := getattr(args, "config_file", ""):
        with PathManager.open(config_file, "r") as file:
            logger.info("%s:\n%s", config_file, file.read())
    if writes:
        _save_config(cfg, os.path.join(output_dir, "config.yaml"), logger)

    seed = _get(cfg, "SEED", "train.seed", default=-1)
    seed_all_rng(None if seed < 0 else seed + rank)
    # Finding the fastest algorithm for each size of image costs more than an evaluation gains.
    if not getattr(args, "eval_only", False):
        torch.backends.cudnn.benchmark = _get(
            cfg, "CUDNN_BENCHMARK", "train.cudnn_benchmark", default=False
        )
    precision = _get(cfg, "FLOAT32_PRECISION", "train.float32_precision", default="")
    if precision and torch.cuda.is_available():
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = precision != "highest"


def _save_config(cfg, path, logger):
    if isinstance(cfg, CfgNode):
        logger.info("config:\n%s", cfg.dump())
        with PathManager.open(path, "w") as file:
            file.write(cfg.dump())
    else:
        LazyConfig.save(cfg, path)
    logger.info("config saved to %s", path)


def default_writers(output_dir, max_iter=None):
    """Writers to the log, to metrics.json, and to tensorboard files of the output folder."""
    PathManager.mkdirs(output_dir)
    return [
        CommonMetricPrinter(max_iter),
        JSONWriter(os.path.join(output_dir, "metrics.json")),
        TensorboardXWriter(output_dir),
    ]
