import pytest
import torch
from detectron2.engine import HookBase
from torch import nn

from detclip2.engine.checkpoint import Checkpointer
from detclip2.engine.hooks.ema import AverageWeights
from detclip2.utils.weights import read_weights
from tests.helpers.toy import toy_loader, toy_trainer


class Keep(HookBase):
    def __init__(self):
        self.weights = []

    def before_train(self):
        self.weights.append(self.trainer.model.weight.detach().clone())

    def after_step(self):
        self.weights.append(self.trainer.model.weight.detach().clone())


def make(folder, decay):
    trainer = toy_trainer(toy_loader())
    average = AverageWeights(trainer.model, decay)
    checkpointer = Checkpointer(trainer.model, str(folder), trainer=trainer, ema=average.model)
    keep = Keep()
    trainer.register_hooks([average, keep])
    return trainer, average, checkpointer, keep


def test_the_average_equals_its_definition(tmp_path):
    trainer, average, _, keep = make(tmp_path, 0.6)
    nn.init.constant_(trainer.model.weight, 5.0)  # as if loaded after the average was made
    trainer.train(0, 10)
    expected = keep.weights[1]  # the first update takes the weights as they are
    for step, weight in enumerate(keep.weights[2:], start=1):
        decay = min(0.6, 1 - (1 + step) ** (-2 / 3))
        expected = decay * expected + (1 - decay) * weight
    torch.testing.assert_close(average.model.weight.detach(), expected)
    assert not torch.equal(expected, trainer.model.weight)
    assert not average.model.training
    assert not any(p.requires_grad for p in average.model.parameters())


def test_resumes_exactly(tmp_path):
    torch.manual_seed(0)
    trainer, average, checkpointer, _ = make(tmp_path, 0.9)
    trainer.train(0, 4)
    checkpointer.save("model_0000003", iteration=3)
    state = torch.get_rng_state()
    for start in (4, 5, 6):  # the trainer continues
        trainer.train(start, start + 1)
    resumed, again, checkpointer, _ = make(tmp_path, 0.9)
    checkpointer.resume_or_load("", resume=True)
    resumed.data_loader.load_state_dict({"drawn": {"first": 8, "second": 0}, "skipped": {}})
    torch.set_rng_state(state)
    for start in (4, 5, 6):
        resumed.train(start, start + 1)
    assert again.updates == average.updates == 7
    assert torch.equal(resumed.model.weight, trainer.model.weight)
    assert torch.equal(again.model.weight, average.model.weight)


def test_a_weights_file_has_the_averaged_weights(tmp_path):
    trainer, average, checkpointer, _ = make(tmp_path, 0.9)
    trainer.train(0, 4)
    checkpointer.save("model_final")
    path = tmp_path / "model_final.pth"
    assert torch.equal(read_weights(path)["weight"], average.model.weight)
    fresh = toy_trainer(toy_loader()).model
    Checkpointer(fresh, "").resume_or_load(str(path), resume=False)
    assert torch.equal(fresh.weight, average.model.weight)
    assert not torch.equal(fresh.weight, trainer.model.weight)


def test_an_average_can_start_in_the_middle_of_a_run(tmp_path):
    trainer = toy_trainer(toy_loader())
    trainer.train(0, 3)
    Checkpointer(trainer.model, str(tmp_path), trainer=trainer).save("model_0000002")
    resumed, average, checkpointer, _ = make(tmp_path, 0.9)
    checkpointer.resume_or_load("", resume=True)
    resumed.train(3, 3)
    assert torch.equal(average.model.weight, trainer.model.weight)
    assert average.model.weight.abs().sum() == pytest.approx(
        trainer.model.weight.abs().sum().item()
    )
