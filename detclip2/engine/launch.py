"""Processes of a training, started by torchrun or by Detectron2's ``launch``."""

import os
import sys
from argparse import Namespace
from collections.abc import Callable
from typing import Any

import torch
from detectron2.engine import launch
from detectron2.utils import comm
from torch import distributed as dist
from torch.multiprocessing import ProcessExitedException

from detclip2.engine.hooks.preemption import signals_for_children


def run_processes(main: Callable[[Namespace], Any], arguments: Namespace) -> None:
    """Call ``main(arguments)`` in every process of this machine.

    Under torchrun this process is one of them. Otherwise ``--num-gpus`` processes are started, and
    this process exits with the code of one that fails.

    Args:
        main: an importable function, since started processes import it.
        arguments: from Detectron2's ``default_argument_parser``.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        _join_torchrun()
        main(arguments)
        dist.destroy_process_group()
        return
    how = {
        "num_machines": arguments.num_machines,
        "machine_rank": arguments.machine_rank,
        "dist_url": arguments.dist_url,
        "args": (arguments,),
    }
    if arguments.num_gpus * arguments.num_machines == 1:
        launch(main, arguments.num_gpus, **how)
        return
    try:
        with signals_for_children():
            launch(main, arguments.num_gpus, **how)
    except ProcessExitedException as error:  # the process has printed why
        # A negative code is a signal; shells report 128 + signal.
        sys.exit(error.exit_code if error.exit_code >= 0 else 128 - error.exit_code)


def _join_torchrun() -> None:
    has_gpu = torch.cuda.is_available()
    if has_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # torchrun keeps its store when it restarts processes (torch 2.14). The prefix hides the
    # addresses of ended processes from new ones.
    store, rank, world_size = next(dist.rendezvous("env://"))
    attempt = f"{os.environ['TORCHELASTIC_RESTART_COUNT']} of {world_size}"
    dist.init_process_group(
        "nccl" if has_gpu else "gloo",
        store=dist.PrefixStore(attempt, store),
        rank=rank,
        world_size=world_size,
    )
    comm.create_local_process_group(int(os.environ["LOCAL_WORLD_SIZE"]))
    comm.synchronize()
