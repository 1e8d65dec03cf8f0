"""Run a function in several processes that talk to each other (gloo), and collect its results."""

import functools
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist
from torch import multiprocessing

# What a training imports: about ten seconds of CPU, once for each process of pytest.
PRELOADED = [
    "pytest",
    "torch._dynamo",  # torch imports it with the first optimizer
    "transformers.models.bert.modeling_bert",
    "transformers.models.clip.modeling_clip",
    "detclip2.commands.train",
    "detclip2.evaluation.lvis",
    "detclip2.modeling.meta_arch.detclipv2",
    "detclip2.modeling.meta_arch.glip",
]


def fork_server() -> Any:
    """The context of multiprocessing whose processes start quickly.

    They are forked from a server that has imported `PRELOADED`. Arguments are pickled, as for
    "spawn"; environment variables and standard output are those of the first start.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def run_processes(function: Callable[..., Any], world_size: int, *args: Any) -> list[Any]:
    """Results of ``function(rank, world_size, *args)`` in each process: tensors in containers."""
    if world_size == 1:
        return [function(0, 1, *args)]
    sys.audit("tests.run_processes", function.__name__)  # for tests/helpers/costs.py
    fork_server()
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.start_processes(
            _worker,
            args=(world_size, folder, function, args),
            nprocs=world_size,
            start_method="forkserver",
        )
        return [torch.load(Path(folder, f"{rank}.pt")) for rank in range(world_size)]


def start_from_server(
    start: Callable[..., Any], stderr: Path, function: Callable[..., Any], *args: Any, **how: Any
) -> Any:
    """`torch.multiprocessing.start_processes`, by `fork_server`, with standard error in a file."""
    fork_server()
    with_stderr = functools.partial(_with_stderr, stderr, function)
    return start(with_stderr, *args, **how, start_method="forkserver")


def _with_stderr(stderr: Path, function: Callable[..., Any], rank: int, *args: Any) -> None:
    with stderr.open("a") as file:
        os.dup2(file.fileno(), 2)
    function(rank, *args)


def _worker(rank: int, world_size: int, folder: str, function: Callable[..., Any], args: Any):
    torch.set_num_threads(1)
    # Else data workers are forked from a server of this process, which imports torch again.
    multiprocessing.set_start_method("fork", force=True)
    store = dist.FileStore(f"{folder}/store", world_size)
    dist.init_process_group("gloo", rank=rank, world_size=world_size, store=store)
    torch.save(function(rank, world_size, *args), f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
