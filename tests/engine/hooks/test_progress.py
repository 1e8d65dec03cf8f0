import pytest
from detectron2.engine import hooks

from detclip2.engine.hooks.progress import ProgressBar
from detclip2.engine.hooks.source_schedule import AlternateSources
from tests.helpers.toy import toy_loader, toy_trainer


def train(start, iterations):
    loader = toy_loader()
    trainer = toy_trainer(loader)
    bar = ProgressBar(loader)
    trainer.register_hooks([hooks.IterationTimer(), AlternateSources(loader), bar])
    trainer.train(start, iterations)
    return bar


@pytest.mark.parametrize("start", [0, 5])
def test_shows_loss_speed_and_time(capsys, start):
    bar = train(start, 12)
    (task,) = bar.progress.tasks
    assert task.completed == task.total == 12
    assert 1.0 <= float(task.fields["loss"]) <= 5.0
    assert float(task.fields["speed"]) > 0
    shown = capsys.readouterr().out
    assert "training" in shown
    assert "100%" in shown
    assert f"loss {task.fields['loss']}" in shown
    assert "images/s" in shown


def test_speed_counts_the_images_of_the_batch(monkeypatch):
    bar = ProgressBar(toy_loader())

    class Average:
        def avg(self, window):
            return 0.5

    class Trainer:
        iter, start_iter, max_iter = 3, 0, 10

        class storage:
            @staticmethod
            def histories():
                return {"time": Average()}

    bar.trainer = Trainer
    bar.before_train()
    for name, speed in (("first", "4.0"), ("second", "2.0")):
        Trainer.source = name
        bar.after_step()
        assert bar.progress.tasks[0].fields["speed"] == speed
    bar.after_train()


def test_the_bar_is_closed_when_training_fails():
    loader = toy_loader()
    trainer = toy_trainer(loader)
    bar = ProgressBar(loader)
    trainer.register_hooks([bar])
    trainer.run_step = lambda: 1 / 0
    with pytest.raises(ZeroDivisionError):
        trainer.train(0, 3)
    assert not bar.progress.live.is_started
