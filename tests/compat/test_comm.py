"""Communication between processes, in one process and in two."""

import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.utils import comm

from tests.helpers.processes import fork_server


def test_one_process():
    assert comm.get_world_size() == 1
    assert comm.get_rank() == comm.get_local_rank() == 0
    assert comm.is_main_process()
    assert comm.synchronize() is None
    assert comm.all_gather({"a": 1}) == [{"a": 1}]
    assert comm.gather("x") == ["x"]
    assert 0 <= comm.shared_random_seed() < 2**31


def _talk(rank, world, folder):
    import numpy as np

    rendezvous = f"file://{folder}/rendezvous"
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=world)
    comm.create_local_process_group(world)
    assert (comm.get_world_size(), comm.get_rank()) == (world, rank)
    assert comm.get_local_rank() == rank
    assert comm.is_main_process() == (rank == 0)

    assert comm.all_gather("x" * rank) == ["", "x"]
    assert comm.gather([rank]) == ([[0], [1]] if rank == 0 else [])
    assert comm.gather(rank, dst=1) == ([0, 1] if rank == 1 else [])

    np.random.seed(rank)
    seeds = comm.all_gather(comm.shared_random_seed())
    assert len(set(seeds)) == 1

    comm.synchronize()
    dist.destroy_process_group()


def test_two_processes(tmp_path):
    # Not "spawn", whose processes clean up as they end: gloo's threads now and then abort then.
    fork_server()
    mp.start_processes(_talk, args=(2, str(tmp_path)), nprocs=2, start_method="forkserver")
