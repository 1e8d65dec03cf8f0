"""DetectionCheckpointer and PeriodicCheckpointer."""

import pickle

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer, PeriodicCheckpointer
from torch import nn


class Steps:
    """An object with a state."""

    def __init__(self, steps=0):
        self.steps = steps

    def state_dict(self):
        return {"steps": self.steps}

    def load_state_dict(self, state):
        self.steps = state["steps"]


def model(value=0.0):
    net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    for parameter in net.parameters():
        nn.init.constant_(parameter, value)
    return net


def values(net):
    return {parameter.mean().item() for parameter in net.parameters()}


def test_save_and_resume(tmp_path):
    checkpointer = DetectionCheckpointer(model(1.0), str(tmp_path), steps=Steps(7))
    assert not checkpointer.has_checkpoint()
    checkpointer.save("first", iteration=41)
    assert (tmp_path / "last_checkpoint").read_text() == "first.pth"

    net, steps = model(), Steps()
    again = DetectionCheckpointer(net, str(tmp_path), steps=steps)
    assert again.resume_or_load("", resume=True) == {"iteration": 41}
    assert values(net) == {1.0}
    assert steps.steps == 7


def test_without_resume_only_the_model_is_loaded(tmp_path):
    DetectionCheckpointer(model(1.0), str(tmp_path), steps=Steps(7)).save("first")
    net, steps = model(), Steps()
    checkpointer = DetectionCheckpointer(net, str(tmp_path), steps=steps)
    rest = checkpointer.resume_or_load(str(tmp_path / "first.pth"), resume=False)
    assert values(net) == {1.0}
    assert steps.steps == 0
    assert "steps" in rest


def test_nothing_to_load(tmp_path):
    net = model(2.0)
    assert DetectionCheckpointer(net, str(tmp_path)).resume_or_load("") == {}
    assert values(net) == {2.0}
    with pytest.raises((AssertionError, FileNotFoundError)):
        DetectionCheckpointer(net).load(str(tmp_path / "none.pth"))


def test_save_to_disk_false_writes_nothing(tmp_path):
    DetectionCheckpointer(model(), str(tmp_path), save_to_disk=False).save("first")
    assert list(tmp_path.iterdir()) == []


def test_bare_weights_and_mismatches(tmp_path):
    file = tmp_path / "weights.pth"
    state = model(3.0).state_dict()
    state["1.weight"] = torch.full((5, 5), 4.0)
    state["unknown"] = torch.zeros(1)
    torch.save(state, file)
    net = model()
    DetectionCheckpointer(net).load(str(file))
    assert net[0].weight.mean() == 3
    assert net[1].weight.mean() == 0  # its shape is another
    assert net[1].bias.mean() == 3


def test_weights_of_a_wrapped_model(tmp_path):
    file = tmp_path / "weights.pth"
    torch.save({"model": {f"module.{k}": v for k, v in model(3.0).state_dict().items()}}, file)
    net = model()
    DetectionCheckpointer(net).load(str(file))
    assert values(net) == {3.0}


def test_matching_heuristics(tmp_path):
    """`detector.backbone.0.weight` takes `0.weight`, and `backbone.0.weight` before that."""
    file = tmp_path / "weights.pth"
    inner = model(5.0).state_dict()
    torch.save({"model": inner | {"head.bias": torch.full((2,), 6.0)}}, file)
    net = nn.ModuleDict({"backbone": model(), "head": nn.Linear(3, 2)})
    nn.init.zeros_(net["head"].bias)
    DetectionCheckpointer(net).load(str(file))
    assert values(net["backbone"]) == {0.0}
    assert net["head"].bias.mean() == 6
    nn.init.zeros_(net["head"].bias)
    DetectionCheckpointer(net).load(f"{file}?matching_heuristics=True")
    assert values(net["backbone"]) == {5.0}
    assert net["head"].bias.mean() == 6


def test_matching_heuristics_prefer_the_longer_name(tmp_path):
    file = tmp_path / "weights.pth"
    torch.save({"bias": torch.zeros(2), "head.bias": torch.ones(2)}, file)
    net = nn.ModuleDict({"roi": nn.ModuleDict({"head": nn.Linear(3, 2)})})
    DetectionCheckpointer(net).load(f"{file}?matching_heuristics=True")
    assert net["roi"]["head"].bias.tolist() == [1, 1]


def test_matching_heuristics_need_one_parameter_for_a_weight(tmp_path):
    file = tmp_path / "weights.pth"
    torch.save({"bias": torch.zeros(2)}, file)
    net = nn.ModuleDict({"one": nn.Linear(3, 2), "other": nn.Linear(3, 2)})
    with pytest.raises(ValueError, match="multiple keys"):
        DetectionCheckpointer(net).load(f"{file}?matching_heuristics=True")


def test_other_queries_are_refused(tmp_path):
    file = tmp_path / "weights.pth"
    torch.save(model().state_dict(), file)
    with pytest.raises(ValueError, match="Unsupported query"):
        DetectionCheckpointer(model()).load(f"{file}?nonsense=1")


def test_a_failed_load_changes_nothing(tmp_path):
    good, odd = tmp_path / "good.pth", tmp_path / "odd.pth"
    torch.save({"bias": torch.ones(2)}, good)
    torch.save({"bias": torch.ones(3)}, odd)
    net = nn.ModuleDict({"one": nn.Linear(3, 2)})
    nn.init.zeros_(net["one"].bias)
    checkpointer = DetectionCheckpointer(net)
    checkpointer.load(f"{odd}?matching_heuristics=True")
    checkpointer.load(str(good))
    assert net["one"].bias.tolist() == [0, 0]


class Executed(Exception):
    pass


class Payload:
    def __reduce__(self):
        return _explode, ()


def _explode():
    raise Executed


def test_no_code_runs_from_a_pth(tmp_path):
    file = tmp_path / "weights.pth"
    torch.save({"model": Payload()}, file)
    with pytest.raises(pickle.UnpicklingError):
        DetectionCheckpointer(model()).load(str(file))


def test_periodic_checkpointer(tmp_path):
    checkpointer = DetectionCheckpointer(model(), str(tmp_path))
    periodic = PeriodicCheckpointer(checkpointer, period=2, max_iter=5, max_to_keep=1)
    for iteration in range(5):
        periodic.step(iteration)
    saved = sorted(path.name for path in tmp_path.glob("*.pth"))
    assert saved == ["model_0000003.pth", "model_final.pth"]
