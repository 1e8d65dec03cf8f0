import numpy as np
import pytest
import torch
from detectron2.config import instantiate

from detclip2.engine.train_loop import train
from tests.helpers.tiny_training import tiny_config, tiny_glip_config

LAST = 6


# The options whose state a checkpoint keeps; float16 is slow on CPUs.
WITHOUT_SCALER = {"clip_grad": 1.0, "ema": 0.9, "eval_period": 2}
EVERYTHING = {**WITHOUT_SCALER, "amp": {"enabled": True, "precision": "float16"}}


class Interrupted(Exception):
    """Stands for a kill: no code catches it."""


def run(cfg, resume=False, interrupt_at=None):
    """Train; the losses of each iteration, and the results of the evaluation at the end."""
    torch.manual_seed(0)
    model = instantiate(cfg.model)
    losses = []

    def keep(module, inputs, output):
        if module.training:
            if len(losses) == interrupt_at:
                raise Interrupted
            losses.append({name: value.item() for name, value in output.items()})

    model.register_forward_hook(keep)
    results = train(cfg, model, resume)
    return losses, results


def assert_same(one, other, where="checkpoint"):
    assert type(one) is type(other), where
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            # Workers prepare samples ahead, so they have counted more than the training.
            if key != "skipped":
                assert_same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same(a, b, f"{where}[{i}]")
    else:
        assert one == other, where


@pytest.mark.parametrize(
    ("make", "settings", "keys"),
    [
        (tiny_config, {"sources": ["detection"]}, {}),
        (tiny_config, {"drop_path": 0.3}, EVERYTHING),
        (tiny_config, {"num_workers": 2, "drop_path": 0.3}, {}),
        (tiny_glip_config, {}, WITHOUT_SCALER),
        (tiny_glip_config, {"config": "emoji_glipv2_nano"}, {}),
        (tiny_config, {"sources": ["detection"]}, {"learn": ["head.box.", "align."]}),
        (tiny_config, {"sources": ["detection"]}, {"lora": {"rank": 2}}),
    ],
    ids=[
        *("boxes", "boxes-and-pairs-with-everything", "boxes-and-pairs-by-workers"),
        *("glip", "glipv2", "parts", "low-rank"),
    ],
)
@pytest.mark.slow
def test_a_stopped_and_resumed_run_equals_an_uninterrupted_one(tmp_path, make, settings, keys):
    if "lora" in keys:
        pytest.importorskip("peft")

    def config(name):
        cfg = make(tmp_path / name, LAST, **settings)
        cfg.train.update(keys)
        return cfg

    losses, results = run(config("whole"))
    assert len(losses) == LAST

    with pytest.raises(Interrupted):  # in iteration 4, whose result is lost
        run(config("stopped"), interrupt_at=4)
    again, results_again = run(config("stopped"), resume=True)

    assert again == losses[3:]
    np.testing.assert_equal(results_again, results)
    checkpoints = [
        torch.load(tmp_path / name / "model_final.pth", weights_only=True)
        for name in ("whole", "stopped")
    ]
    assert_same(*checkpoints)
    state = checkpoints[0]["trainer"]
    assert state.keys() >= {"iteration", "hooks", "optimizer", "grad_scaler", "nonfinite"}
    assert state["optimizer"]["state"]  # not every step was skipped for an overflow
    assert ("ema" in checkpoints[0]) == ("ema" in keys)
    assert bool(state["grad_scaler"]) == ("amp" in keys)
    drawn = state["hooks"]["AlternateSources"]["loader"]["drawn"]
    assert sum(drawn.values()) == LAST * 4
    weights = [(tmp_path / n / "model.safetensors").read_bytes() for n in ("whole", "stopped")]
    assert weights[0] == weights[1]


@pytest.mark.slow
def test_drop_path_changes_the_losses_of_this_run(tmp_path):
    losses = [
        run(tiny_config(tmp_path / name, 2, drop_path=0.9, sources=["detection"]))[0]
        for name in ("one", "other")
    ]
    assert losses[0] == losses[1]
    without, _ = run(tiny_config(tmp_path / "without", 2, sources=["detection"]))
    assert without != losses[0]


def test_a_finished_run_is_evaluated_again_and_not_trained(tmp_path):
    cfg = tiny_config(tmp_path, 2, sources=["detection"])
    _, results = run(cfg)
    before = (tmp_path / "model_final.pth").read_bytes()
    losses, again = run(tiny_config(tmp_path, 2, sources=["detection"]), resume=True)
    assert losses == []
    np.testing.assert_equal(again, results)
    assert (tmp_path / "model_final.pth").read_bytes() == before


def test_resume_without_a_checkpoint_starts_from_the_beginning(tmp_path):
    losses, _ = run(tiny_config(tmp_path, 2, sources=["detection"]), resume=True)
    assert len(losses) == 2
