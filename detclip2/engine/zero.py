"""Optimizer state that processes share out among themselves (ZeRO stage 1, arXiv 1910.02054)."""

from detectron2.utils import comm
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.optim import Optimizer


def shard_optimizer_state(optimizer: Optimizer) -> Optimizer:
    """An optimizer that steps as ``optimizer`` would, where each process keeps a part of the state.

    Every process updates its part of the parameters and sends them to the others. The state dict is
    that of ``optimizer`` itself, so a checkpoint goes from one to the other, and from one number of
    processes to another. In a process that is alone it is ``optimizer``.

    Args:
        optimizer: one that has made no step; its groups hold all its settings.
    """
    if comm.get_world_size() == 1:
        return optimizer
    return ZeroRedundancyOptimizer(optimizer.param_groups, optimizer_class=type(optimizer))


def is_shared_out(optimizer: Optimizer) -> bool:
    """Must :func:`gather_state` come before its ``state_dict``?"""
    return isinstance(optimizer, ZeroRedundancyOptimizer)


def gather_state(optimizer: Optimizer) -> None:
    """Bring the state together in the main process; all processes must call this."""
    if isinstance(optimizer, ZeroRedundancyOptimizer):
        optimizer.consolidate_state_dict(to=0)
