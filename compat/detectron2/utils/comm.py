"""Ranks of processes, and communication between them."""

import functools

import numpy as np
import torch
import torch.distributed as dist

__all__ = [
    "all_gather",
    "create_local_process_group",
    "gather",
    "get_local_rank",
    "get_rank",
    "get_world_size",
    "is_main_process",
    "shared_random_seed",
    "synchronize",
]

_local_group = None


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def get_world_size() -> int:
    return dist.get_world_size() if _is_distributed() else 1


def get_rank() -> int:
    return dist.get_rank() if _is_distributed() else 0


def is_main_process() -> bool:
    return get_rank() == 0


@functools.lru_cache
def create_local_process_group(num_workers_per_machine: int) -> None:
    """Group the ranks of each machine. All processes call it, once, together."""
    global _local_group
    assert _local_group is None, "The local process group exists already."
    world = get_world_size()
    assert world % num_workers_per_machine == 0, "Machines with unequal numbers of processes."
    for first in range(0, world, num_workers_per_machine):
        ranks = list(range(first, first + num_workers_per_machine))
        group = dist.new_group(ranks)  # all ranks must create all groups
        if get_rank() in ranks:
            _local_group = group


def _local_process_group():
    """The group of the ranks on this machine."""
    assert _local_group is not None, (
        "There is no local process group yet: start the processes with detectron2's launch(), or "
        "call comm.create_local_process_group(num_workers_per_machine) in each of them."
    )
    return _local_group


def get_local_rank() -> int:
    """This process's number on its machine."""
    return dist.get_rank(group=_local_process_group()) if _is_distributed() else 0


def synchronize() -> None:
    """Wait for all processes."""
    if get_world_size() == 1:
        return
    if dist.get_backend() == dist.Backend.NCCL:
        device = torch.cuda.current_device()
        dist.barrier(device_ids=[device])  # otherwise NCCL guesses the device and warns
    else:
        dist.barrier()


@functools.lru_cache
def _cpu_group():
    """A group of all ranks that transfers objects without GPU memory."""
    return dist.new_group(backend="gloo") if dist.get_backend() == "nccl" else dist.group.WORLD


def _group_to_talk_in(group):
    """The group for objects; None with one process."""
    if get_world_size() == 1:
        return None
    group = _cpu_group() if group is None else group
    return None if dist.get_world_size(group) == 1 else group


def all_gather(data, group=None) -> list:
    """`data`, any picklable object, of every rank, on every rank."""
    group = _group_to_talk_in(group)
    if group is None:
        return [data]
    gathered = [None] * dist.get_world_size(group)
    dist.all_gather_object(gathered, data, group=group)
    return gathered


def gather(data, dst=0, group=None) -> list:
    """`data`, any picklable object, of every rank, on rank `dst`; an empty list on the others."""
    group = _group_to_talk_in(group)
    if group is None:
        return [data]
    is_receiver = dist.get_rank(group=group) == dst
    gathered = [None] * dist.get_world_size(group) if is_receiver else None
    dist.gather_object(data, gathered, dst=dst, group=group)
    return gathered if is_receiver else []


def shared_random_seed() -> int:
    """Rank 0's draw from numpy's generator, on every rank. All processes must call it."""
    return all_gather(np.random.randint(2**31))[0]
