import pytest
import torch

from detclip2.modeling.layers.collectives import all_gather_with_grad
from tests.helpers.processes import run_processes

ROWS = [3, 0, 2]  # rows of each rank's tensor


def weighted_loss(x, weights):
    return (x.pow(2) @ weights).exp().sum()


def gather(rank, world_size):
    generator = torch.Generator().manual_seed(7)
    everything = torch.randn(sum(ROWS[:world_size]), 4, generator=generator, dtype=torch.float64)
    x = everything.split(ROWS[:world_size])[rank].clone().requires_grad_()
    weights = torch.arange(4.0, dtype=torch.float64) * (rank + 1) / 10
    gathered = all_gather_with_grad(x)
    weighted_loss(gathered, weights).backward()
    return {"gathered": gathered.detach(), "grad": x.grad, "all": everything, "weights": weights}


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.processes
def test_rows_of_all_ranks_and_the_sum_of_all_ranks_gradients(world_size):
    results = run_processes(gather, world_size)
    whole = results[0]["all"].clone().requires_grad_()
    torch.stack([weighted_loss(whole, result["weights"]) for result in results]).sum().backward()
    for result in results:
        torch.testing.assert_close(result["gathered"], whole.detach(), rtol=0, atol=0)
    torch.testing.assert_close(torch.cat([result["grad"] for result in results]), whole.grad)


def gather_where_one_needs_no_gradient(rank, world_size):
    x = torch.ones(2, 3, requires_grad=rank != 0)
    (all_gather_with_grad(x).sum() * (rank + 1)).backward()
    with torch.no_grad():
        plain = all_gather_with_grad(x)
    frozen = all_gather_with_grad(x.detach())
    return {
        "grad": torch.zeros_like(x) if x.grad is None else x.grad,
        "needs_grad": [plain.requires_grad, frozen.requires_grad],
    }


@pytest.mark.processes
def test_a_process_without_gradient_does_not_hang_the_others():
    first, second = run_processes(gather_where_one_needs_no_gradient, 2)
    assert first["grad"].eq(0).all()
    assert second["grad"].eq(1 + 2).all()
    assert first["needs_grad"] == second["needs_grad"] == [False, False]
