import pytest
import torch
from detectron2.engine import hooks

from detclip2.engine.checkpoint import Checkpointer
from detclip2.engine.hooks.resumable import ResumableBestCheckpointer, ResumablePeriodicCheckpointer
from detclip2.engine.trainer import NonFiniteSteps, Trainer
from tests.helpers.toy import ToyModel, toy_loader, toy_trainer


def train(folder, metrics, iterations, resume=False, period=2):
    """Evaluate after every iteration but the last; metrics[i] belongs to iteration i."""
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


def test_a_resumed_run_keeps_the_best_metric(tmp_path):
    best = train(tmp_path, [10.0, 30.0, 20.0, 5.0], 4)
    assert (best.best_metric, best.best_iter) == (30.0, 1)
    state = torch.load(tmp_path / "model_final.pth", weights_only=True)
    kept = state["trainer"]["hooks"]["ResumableBestCheckpointer"]
    assert kept == {"name": "bbox/AP", "metric": 30.0, "iteration": 1}
    before = (tmp_path / "model_best.pth").read_bytes()

    best = train(tmp_path, [0.0, 0.0, 0.0, 0.0, 25.0, 29.0], 6, resume=True)
    assert (best.best_metric, best.best_iter) == (30.0, 1)
    assert (tmp_path / "model_best.pth").read_bytes() == before

    best = train(tmp_path, [0.0] * 6 + [31.0, 31.0], 8, resume=True)
    assert (best.best_metric, best.best_iter) == (31.0, 6)
    assert (tmp_path / "model_best.pth").read_bytes() != before


def test_the_best_checkpoint_stores_its_metric(tmp_path):
    """A run can be resumed from it: it is written after the periodic one of the same iteration."""
    train(tmp_path, [10.0, 30.0, 40.0, 5.0], 4)
    state = torch.load(tmp_path / "model_best.pth", weights_only=True)
    kept = state["trainer"]["hooks"]["ResumableBestCheckpointer"]
    assert kept == {"name": "bbox/AP", "metric": 40.0, "iteration": 2}


def our_trainer(folder, *its_hooks):
    loader = toy_loader()
    model = ToyModel()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = Trainer(model, loader, optimizer, NonFiniteSteps(str(folder)))
    trainer.register_hooks(its_hooks)
    return trainer


def test_the_best_metric_is_read_from_checkpoints_with_former_hook_names(tmp_path):
    """Former checkpoints have the best metric under "BestCheckpointer", without its name."""
    state = our_trainer(tmp_path).state_dict()
    state["hooks"] = {"BestCheckpointer": {"metric": 30.0, "iteration": 1}}
    best = ResumableBestCheckpointer(1, None, "bbox/AP")
    our_trainer(tmp_path, best).load_state_dict(state)
    assert (best.best_metric, best.best_iter) == (30.0, 1)


def test_the_best_of_another_metric_is_ignored(caplog):
    best = ResumableBestCheckpointer(1, None, "bbox_fixed/AP")
    best.load_state_dict({"metric": 99.0, "iteration": 1})
    assert best.best_metric is None
    assert "this run keeps the best bbox_fixed/AP" in caplog.text
    best.load_state_dict({"name": "bbox_fixed/AP", "metric": 7.0, "iteration": 3})
    assert (best.best_metric, best.best_iter) == (7.0, 3)


@pytest.mark.parametrize("metric", [float("nan"), float("inf")])
def test_nan_is_never_the_best(tmp_path, metric):
    assert train(tmp_path, [metric], 3).best_metric is None
    state = torch.load(tmp_path / "model_final.pth", weights_only=True)
    assert "ResumableBestCheckpointer" not in state["trainer"].get("hooks", {})


def test_old_checkpoints_are_deleted_after_a_resume(tmp_path):
    names = lambda: sorted(p.name for p in tmp_path.glob("model_0*.pth"))  # noqa: E731
    train(tmp_path, [1.0], 5)
    assert names() == ["model_0000001.pth", "model_0000003.pth"]
    train(tmp_path, [1.0], 8, resume=True)
    assert names() == ["model_0000005.pth", "model_0000007.pth"]
