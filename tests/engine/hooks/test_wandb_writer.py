import sys
from types import SimpleNamespace

import pytest
from detectron2.utils.events import EventStorage

from detclip2.engine.hooks.wandb_writer import WandbWriter
from detclip2.utils.errors import UserError


class Run:
    def __init__(self):
        self.logged, self.finished = [], False

    def log(self, scalars, step):
        self.logged.append((step, scalars))

    def finish(self):
        self.finished = True


def test_sends_each_scalar_once_in_order(monkeypatch):
    run, asked = Run(), {}
    fake = SimpleNamespace(init=lambda **settings: asked.update(settings) or run)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    writer = WandbWriter("folder", {"train": {"seed": 1}}, project="birds")
    assert asked == {
        "dir": "folder",
        "config": {"train": {"seed": 1}},
        "resume": "allow",
        "project": "birds",
    }
    with EventStorage(0) as storage:
        storage.put_scalar("loss", 2.0)
        writer.write()
        storage.step()
        storage.put_scalar("loss", 4.0)
        storage.put_scalar("bbox/AP", 7.0, smoothing_hint=False)
        writer.write()
        writer.write()
    writer.close()
    assert run.logged == [(0, {"loss": 2.0}), (1, {"loss": 3.0, "bbox/AP": 7.0})]
    assert run.finished


def test_a_missing_package_is_reported(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="'wandb' is not installed"):
        WandbWriter("folder", {})
