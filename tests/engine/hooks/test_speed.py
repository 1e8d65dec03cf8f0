import logging
from types import SimpleNamespace

import pytest
from detectron2.engine import hooks
from detectron2.utils.events import EventStorage

from detclip2.engine.hooks.source_schedule import AlternateSources
from detclip2.engine.hooks.speed import Speed, SpeedPrinter
from tests.helpers.toy import toy_loader, toy_trainer


def after_step(source, time=None, data_time=None):
    """The scalars stored after an iteration on `source` of this duration."""
    hook = Speed(toy_loader())
    with EventStorage(5) as storage:
        if time is not None:
            storage.put_scalars(time=time, data_time=data_time)
        hook.trainer = SimpleNamespace(storage=storage, iter=5, source=source)
        hook.after_step()
        return {name: value for name, (value, _) in storage.latest().items()}


def test_stores_images_a_second_and_waiting_time_of_the_source():
    first = after_step("first", time=0.5, data_time=0.1)
    assert first["first/images_per_second"] == pytest.approx(2 / 0.5)
    assert first["data_share"] == pytest.approx(0.2)
    assert first["memory_gib"] > 0
    second = after_step("second", time=0.5, data_time=0.6)
    assert second["second/images_per_second"] == 2.0
    assert second["data_share"] == 1.0
    assert after_step("first").keys() == {"memory_gib"}


def test_a_line_reports_them_by_source(caplog):
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
