"""Run a function in several processes that talk to each other (gloo), and collect its results."""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist
from torch import multiprocessing


def run_processes(function: Callable[..., Any], world_size: int, *args: Any) -> list[Any]:
    """Results of ``function(rank, world_size, *args)`` in each process: tensors in containers."""
    if world_size == 1:
        return [function(0, 1, *args)]
    sys.audit("tests.run_processes", function.__name__)  # for tests/helpers/costs.py
    # The server imports torch once; its children then start quickly.
    multiprocessing.get_context("forkserver").set_forkserver_preload(
        ["detectron2.utils.comm", "detclip2.modeling.losses.word_region_contrast"]
    )
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.start_processes(
            _worker,
            args=(world_size, folder, function, args),
            nprocs=world_size,
            start_method="forkserver",
        )
        return [torch.load(Path(folder, f"{rank}.pt")) for rank in range(world_size)]


def _worker(rank: int, world_size: int, folder: str, function: Callable[..., Any], args: Any):
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", world_size)
    dist.init_process_group("gloo", rank=rank, world_size=world_size, store=store)
    torch.save(function(rank, world_size, *args), f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
