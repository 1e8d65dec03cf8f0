"""One process, or one for each GPU of each machine."""

import logging
import socket
from datetime import timedelta

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from detectron2.utils import comm

__all__ = ["launch"]

DEFAULT_TIMEOUT = timedelta(minutes=30)

logger = logging.getLogger(__name__)


def _free_port():
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("", 0))  # port 0: the system chooses one
        return probe.getsockname()[1]


def launch(
    main_func,
    num_gpus_per_machine,
    num_machines=1,
    machine_rank=0,
    dist_url=None,
    args=(),
    timeout=DEFAULT_TIMEOUT,
):
    """Call `main_func(*args)` in `num_gpus_per_machine` processes of each machine.

    A single process in all is this one. More are started here and talk over NCCL if there are
    GPUs, else over Gloo; `main_func` must then be importable. `dist_url` is where they meet, such
    as "tcp://host:port", or "auto" for a free port of this machine if it is the only one.
    """
    world_size = num_machines * num_gpus_per_machine
    if world_size == 1:
        main_func(*args)
        return
    if dist_url == "auto":
        assert num_machines == 1, "dist_url 'auto' works for one machine: name a host and a port"
        dist_url = f"tcp://127.0.0.1:{_free_port()}"
    if num_machines > 1 and dist_url.startswith("file://"):
        logger.warning("machines do not meet reliably at %s: prefer tcp://", dist_url)
    first_rank = machine_rank * num_gpus_per_machine
    mp.start_processes(
        _run_process,
        (num_gpus_per_machine, first_rank, world_size, dist_url, timeout, main_func, args),
        nprocs=num_gpus_per_machine,
    )


def _run_process(local_rank, num_local, first_rank, world_size, dist_url, timeout, main_func, args):
    has_gpu = torch.cuda.is_available()
    if has_gpu:
        assert num_local <= torch.cuda.device_count(), (
            f"{num_local} processes for {torch.cuda.device_count()} GPUs"
        )
    try:
        dist.init_process_group(
            "nccl" if has_gpu else "gloo",
            init_method=dist_url,
            world_size=world_size,
            rank=first_rank + local_rank,
            timeout=timeout,
        )
    except Exception:
        logger.error("the processes could not meet at %s", dist_url)
        raise
    comm.create_local_process_group(num_local)
    if has_gpu:
        torch.cuda.set_device(local_rank)
    # All processes start together; otherwise the first collective call can time out.
    comm.synchronize()
    main_func(*args)
