import pytest
import torch
from detectron2.engine import hooks

from detclip2.engine.checkpoint import Checkpointer
from detclip2.engine.hooks.resumable import ResumableBestCheckpointer, ResumablePeriodicCheckpointer
from tests.helpers.toy import toy_loader, toy_trainer


def train(folder, metrics, iterations, resume=False, period=2):
    """Evaluate after every iteration but the last of all; metrics[i] is found after iteration i."""
    trainer = toy_trainer(toy_loader())
    checkpointer = Checkpointer(trainer.model, str(folder), trainer=trainer)
    best = ResumableBestCheckpointer(1, checkpointer, "bbox/AP")
    trainer.register_hooks(
        [
            ResumablePeriodicCheckpointer(checkpointer, period, max_to_keep=2),
            hooks.EvalHook(
                1, lambda: {"bbox": {"AP": metrics[min(trainer.iter, len(metrics) - 1)]}}
            ),
            best,
        ]
    )
    checkpointer.resume_or_load("", resume=resume)
    trainer.train(trainer.iter + 1 if resume else 0, iterations)
    return best


def test_a_resumed_run_knows_the_best_of_before(tmp_path):
    best = train(tmp_path, [10.0, 30.0, 20.0, 5.0], 4)
    assert (best.best_metric, best.best_iter) == (30.0, 1)
    state = torch.load(tmp_path / "model_final.pth", weights_only=True)
    assert state["trainer"]["hooks"]["ResumableBestCheckpointer"] == {
        "metric": 30.0,
        "iteration": 1,
    }
    before = (tmp_path / "model_best.pth").read_bytes()

    best = train(tmp_path, [0.0, 0.0, 0.0, 0.0, 25.0, 29.0], 6, resume=True)
    assert (best.best_metric, best.best_iter) == (30.0, 1)
    assert (tmp_path / "model_best.pth").read_bytes() == before

    best = train(tmp_path, [0.0] * 6 + [31.0, 31.0], 8, resume=True)
    assert (best.best_metric, best.best_iter) == (31.0, 6)
    assert (tmp_path / "model_best.pth").read_bytes() != before


def test_the_best_checkpoint_knows_its_own_metric(tmp_path):
    """A run may be resumed from it: it is written after the periodic one of the same iteration."""
    train(tmp_path, [10.0, 30.0, 40.0, 5.0], 4)
    state = torch.load(tmp_path / "model_best.pth", weights_only=True)
    assert state["trainer"]["hooks"]["ResumableBestCheckpointer"] == {
        "metric": 40.0,
        "iteration": 2,
    }


@pytest.mark.parametrize("metric", [float("nan"), float("inf")])
def test_what_is_no_number_is_never_the_best(tmp_path, metric):
    assert train(tmp_path, [metric], 3).best_metric is None
    state = torch.load(tmp_path / "model_final.pth", weights_only=True)
    assert "ResumableBestCheckpointer" not in state["trainer"].get("hooks", {})


def test_checkpoints_of_before_a_resume_are_deleted_in_their_turn(tmp_path):
    names = lambda: sorted(p.name for p in tmp_path.glob("model_0*.pth"))  # noqa: E731
    train(tmp_path, [1.0], 5)
    assert names() == ["model_0000001.pth", "model_0000003.pth"]
    train(tmp_path, [1.0], 8, resume=True)
    assert names() == ["model_0000005.pth", "model_0000007.pth"]
