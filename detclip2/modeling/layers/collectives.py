"""Collectives of losses, differentiable where gradients pass."""

from typing import Any

import torch
from detectron2.utils import comm
from torch import Tensor
from torch import distributed as dist
from torch.autograd.function import once_differentiable

FAR_BELOW = -1e9  # instead of -inf: masked elements have gradient 0, not NaN


def all_gather_with_grad(x: Tensor) -> Tensor:
    """Join the tensors of all processes along the first dimension, in the order of ranks.

    Backward sums the gradients of all processes for a row and returns the sum to its owner. The
    gradient of the mean of the processes' losses, which DDP applies, is therefore that of a single
    process with the joined tensor.

    Every process must call this. If one uses the result in its loss, all must (zero times its sum
    is enough): backward is a collective operation too, in which a process takes part even if its
    own ``x`` needs no gradient.

    Args:
        x: (n, ...), where n, and only n, may differ between processes and may be 0.

    Returns:
        (sum of n, ...); ``x`` itself if there is one process.
    """
    if comm.get_world_size() == 1:
        return x
    needs_grad = torch.is_grad_enabled() and x.requires_grad
    mine = torch.tensor([len(x), needs_grad], device=x.device)
    everyone = [torch.empty_like(mine) for _ in range(comm.get_world_size())]
    dist.all_gather(everyone, mine)
    sizes, flags = torch.stack(everyone).T.tolist()
    if any(flags) and torch.is_grad_enabled() and not x.requires_grad:
        x = x.detach().requires_grad_()
    return _AllGather.apply(x, sizes)


def shared_divisor(sums: Tensor) -> Tensor:
    """What a loss of this process is divided by: counts of all processes, over their number.

    The mean of the processes' losses, which DDP takes of gradients, is then that of one process
    with the joint batch. Where nothing is counted, the divisor is that of one in all.

    Args:
        sums: float, of any shape, of this process; it is not changed. Every process must call this.
    """
    world_size = comm.get_world_size()
    if world_size > 1:
        sums = sums.clone()
        dist.all_reduce(sums)
    return (sums / world_size).clamp(min=1 / world_size)


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, sizes: list[int]) -> Tensor:
        ctx.sizes = sizes
        padded = x.new_zeros(max(sizes), *x.shape[1:])
        padded[: len(x)] = x
        everyone = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(everyone, padded)
        return torch.cat([y[:size] for y, size in zip(everyone, sizes, strict=True)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        grad = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(grad)
        return grad.split(ctx.sizes)[comm.get_rank()], None


def split_cross_entropy(
    logits: Tensor,
    own: Tensor,
    candidate: Tensor,
    label_smoothing: float = 0.0,
    over_processes: bool = False,
) -> tuple[Tensor, Tensor]:
    """Cross entropy of a softmax whose columns may be split over processes.

    Processes exchange five numbers a row, not their columns.

    Args:
        logits: (rows, columns), the columns of this process.
        own: (rows, columns) bool, the target; at most one a row over all processes.
        candidate: (rows, columns) bool, the columns that the softmax runs over, target included.
        label_smoothing: share of the target that is spread evenly over the candidates.
        over_processes: all processes have the same rows and each some of their columns;
            the conditions of `all_gather_with_grad` hold.

    Returns:
        (rows,) losses, and (rows,) bool: whether the logit of the target exceeds all others.
    """
    masked = logits.masked_fill(~candidate, FAR_BELOW)
    parts = torch.stack(
        [
            masked.logsumexp(dim=1),
            (logits * own).sum(dim=1),
            (logits * candidate).sum(dim=1),
            candidate.sum(dim=1).to(logits.dtype),
            masked.detach().masked_fill(own, FAR_BELOW).amax(dim=1),
        ],
        dim=-1,
    )[None]
    if over_processes:
        parts = all_gather_with_grad(parts)  # (processes, rows, 5)
    log_sum, rival = parts[..., 0].logsumexp(dim=0), parts[..., 4].amax(dim=0)
    right, total, count = parts[..., 1:4].sum(dim=0).unbind(dim=-1)
    target = (1 - label_smoothing) * right + label_smoothing * total / count
    return log_sum - target, right > rival
