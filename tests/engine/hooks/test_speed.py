import logging
from types import SimpleNamespace

import pytest
from detectron2.engine import hooks
from detectron2.utils.events import EventStorage

from detclip2.engine.hooks.source_schedule import AlternateSources
from detclip2.engine.hooks.speed import Speed, SpeedPrinter
from tests.helpers.toy import toy_loader, toy_trainer


def after_step(loader, time=None, data_time=None):
    """What is stored after an iteration that took so long."""
    hook = Speed(loader)
    with EventStorage(5) as storage:
        if time is not None:
            storage.put_scalars(time=time, data_time=data_time)
        hook.trainer = SimpleNamespace(storage=storage, iter=5)
        hook.after_step()
        return {name: value for name, (value, _) in storage.latest().items()}


def test_counts_the_images_of_the_source_and_the_time_it_waited():
    loader = toy_loader()
    first = after_step(loader, time=0.5, data_time=0.1)
    assert first["first/images_per_second"] == pytest.approx(2 / 0.5)
    assert first["data_share"] == pytest.approx(0.2)
    assert first["memory_gib"] > 0
    loader.select("second")
    assert after_step(loader, time=0.5, data_time=0.6)["second/images_per_second"] == 2.0
    assert after_step(loader, time=0.5, data_time=0.6)["data_share"] == 1.0
    assert after_step(loader).keys() == {"memory_gib"}


def test_a_line_tells_them_by_source(caplog):
    caplog.set_level(logging.INFO, "detclip2")
    loader = toy_loader()
    trainer = toy_trainer(loader)
    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            AlternateSources(loader, {"first": 1, "second": 1}),
            Speed(loader),
            hooks.PeriodicWriter([SpeedPrinter()], period=10),
        ]
    )
    trainer.train(0, 20)
    lines = [r.message for r in caplog.records if "images/s" in r.message]
    assert len(lines) == 2
    for line in lines:
        assert "first " in line
        assert "second " in line
        assert "waiting for data: " in line
        assert "GiB" in line
