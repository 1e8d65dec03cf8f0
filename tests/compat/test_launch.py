"""Launch with two processes of this machine."""

import json
from pathlib import Path

import pytest
import torch
from detectron2.data.samplers import InferenceSampler, TrainingSampler
from detectron2.engine import SimpleTrainer, create_ddp_model, launch
from detectron2.evaluation import DatasetEvaluator, inference_on_dataset
from detectron2.utils import comm
from torch import nn
from torch.nn.parallel import DistributedDataParallel


class Mean(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, batch):
        return {"loss": (self.weight * batch).sum(), "zero": self.weight.sum() * 0}


class GatherAll(DatasetEvaluator):
    def reset(self):
        self.seen = []

    def process(self, inputs, outputs):
        self.seen += inputs

    def evaluate(self):
        gathered = comm.gather(self.seen)
        if not comm.is_main_process():
            return None
        return {"seen": [x for part in gathered for x in part]}


def work(folder, argument):
    rank = comm.get_rank()
    model = create_ddp_model(Mean(), device_ids=None)
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    loader = iter([torch.tensor([1.0 + 2 * rank])] * 2)  # 1 on the first process, 3 on the second
    trainer = SimpleTrainer(model, loader, optimizer)
    trainer.train(0, 2)
    batches = [[index] for index in InferenceSampler(5)]
    stream = iter(TrainingSampler(8))
    report = {
        "argument": argument,
        "world": [comm.get_world_size(), comm.get_local_rank()],
        "is_ddp": isinstance(model, DistributedDataParallel),
        "weight": model.module.weight.item(),
        "names": sorted(trainer.storage.histories()),
        "indices": [next(stream) for _ in range(4)],
        "inference": inference_on_dataset(lambda inputs: inputs, batches, GatherAll()),
    }
    if rank == 0:
        report["losses"] = [loss for loss, _ in trainer.storage.history("total_loss").values()]
    (Path(folder) / f"{rank}.json").write_text(json.dumps(report))


@pytest.mark.skipif(torch.cuda.is_available(), reason="each process would need a GPU")
def test_two_processes(quick_launch, tmp_path):
    launch(work, 2, dist_url="auto", args=(str(tmp_path), "hello"))
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first["argument"] == second["argument"] == "hello"
    assert (first["world"], second["world"]) == ([2, 0], [2, 1])
    assert first["is_ddp"]
    # Mean gradient 2 in each step; the mean loss of the second step is -2 * (1 + 3) / 2.
    assert first["weight"] == second["weight"] == -4
    assert first["losses"] == [0, -4]
    assert second["names"] == ["rank_data_time"]
    assert sorted(first["indices"] + second["indices"]) == list(range(8))
    assert first["inference"] == {"seen": [0, 1, 2, 3, 4]}
    assert second["inference"] == {}


def test_one_process_runs_in_this_process():
    calls = []
    launch(lambda *args: calls.append(args), 1, args=(1, 2))
    assert calls == [(1, 2)]
    model = Mean()
    assert create_ddp_model(model) is model


def test_auto_requires_one_machine():
    with pytest.raises(AssertionError):
        launch(print, 1, num_machines=2, dist_url="auto")
