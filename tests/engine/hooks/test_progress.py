import io
from types import SimpleNamespace

import pytest
from detectron2.engine import hooks
from rich.console import Console

from detclip2.engine.hooks.progress import ProgressBar
from detclip2.engine.hooks.source_schedule import AlternateSources
from tests.helpers.toy import toy_loader, toy_trainer


def train(start, iterations, terminal=True):
    loader = toy_loader()
    trainer = toy_trainer(loader)
    bar = ProgressBar(loader, console=Console(force_terminal=terminal, width=100))
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


def test_without_a_terminal_a_line_comes_at_each_tenth(capsys):
    train(0, 40, terminal=False)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == [str(done) for done in range(4, 41, 4)]
    assert lines[0].startswith("training: 4 of 40 iterations, loss ")
    assert "images/s" in lines[0]


def test_an_evaluation_is_watched_and_reported():
    file = io.StringIO()
    bar = ProgressBar(toy_loader(), console=Console(file=file, force_terminal=True, width=100))
    bar.trainer = SimpleNamespace(iter=6, start_iter=0, max_iter=10)
    bar.before_train()
    watched = bar.watch(["a", "b"])
    assert len(watched) == 2
    seen = [(batch, [task.completed for task in bar.progress.tasks[1:]]) for batch in watched]
    assert seen == [("a", [0]), ("b", [1])]
    assert len(bar.progress.tasks) == 1  # of the training alone
    bar.report({"bbox": {"AP": 12.34, "AP50": 50.0, "APs": 1.0}})
    bar.report({"box_recall": {"AR@100": 12.0}})
    bar.after_train()
    assert file.getvalue().count("after 7 iterations: AP 12.3, AP50 50.0") == 1
    assert file.getvalue().count("after 7") == 1


def test_speed_counts_the_images_of_the_batch(monkeypatch):
    bar = ProgressBar(toy_loader(), console=Console(force_terminal=True))

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
    bar = ProgressBar(loader, console=Console(force_terminal=True))
    trainer.register_hooks([bar])
    trainer.run_step = lambda: 1 / 0
    with pytest.raises(ZeroDivisionError):
        trainer.train(0, 3)
    assert not bar.progress.live.is_started
