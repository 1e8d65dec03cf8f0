import json
import logging
import math
from types import SimpleNamespace

import pytest
from detectron2.engine import hooks
from detectron2.utils.events import JSONWriter
from matplotlib.figure import Figure
from PIL import Image

from detclip2.engine.hooks.curves import DrawCurves, draw_curves, read_metrics
from detclip2.engine.hooks.source_schedule import AlternateSources
from tests.helpers.toy import toy_loader, toy_trainer


def test_draws_the_metrics_of_a_run(tmp_path):
    loader = toy_loader()
    trainer = toy_trainer(loader)
    writer = hooks.PeriodicWriter([JSONWriter(str(tmp_path / "metrics.json"))], period=1)
    trainer.register_hooks([AlternateSources(loader), writer, DrawCurves(str(tmp_path))])
    trainer.train(0, 12)
    curves = read_metrics(tmp_path / "metrics.json")
    assert {"total_loss", "first/total_loss", "second/total_loss"} <= curves.keys()
    assert [iteration for iteration, _ in curves["total_loss"]] == list(range(12))
    assert Image.open(tmp_path / "curves.png").size == (1600, 500)


def test_repeated_iterations_replace_earlier_ones_and_half_a_line_is_ignored(tmp_path):
    lines = [{"iteration": i, "lr": float(i)} for i in (0, 1, 2)]
    again = [{"iteration": i, "lr": 10.0 * i, "bbox/AP": 7.0} for i in (1, 2)]
    text = "\n".join(map(json.dumps, [*lines, *again])) + '\n{"iteration": 3, "l'
    (tmp_path / "metrics.json").write_text(text)
    curves = read_metrics(tmp_path / "metrics.json")
    assert curves == {"lr": [(0, 0.0), (1, 10.0), (2, 20.0)], "bbox/AP": [(1, 7.0), (2, 7.0)]}
    draw_curves(curves, tmp_path / "curves.png")
    assert Image.open(tmp_path / "curves.png").size == (1600, 1000)


def test_what_was_before_is_the_first_point_and_axes_start_at_zero(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
    curves = {
        "own/total_loss": [(0, 9.0), (1, 8.0)],
        "mixed/total_loss": [(1, -2.0)],
        "bbox/AP": [(1, 40.0), (3, 50.0)],
        "bbox/AP50": [(1, math.nan)],
        "lr": [(0, 0.1)],
    }
    draw_curves(curves, tmp_path / "blood" / "curves.png", {"bbox/AP": 30.0, "bbox/AP50": None})
    loss, ap, rate = figures[0].axes
    assert "blood" in figures[0].get_suptitle()
    assert [text.get_text() for text in loss.get_legend().get_texts()] == ["own", "mixed"]
    words = [text.get_text() for text in ap.get_legend().get_texts()]
    assert words == ["AP, mean over IoU 0.5 to 0.95", "AP at IoU 0.5"]
    assert ap.lines[0].get_xydata().tolist() == [[0, 30], [1, 40], [3, 50]]
    assert ap.get_ylim()[0] == rate.get_ylim()[0] == 0.0
    assert loss.get_ylim()[0] <= -2.0
    assert rate.get_legend() is None


@pytest.mark.parametrize("content", [None, "", "not json"])
def test_a_run_without_metrics_is_not_an_error(tmp_path, content, caplog):
    caplog.set_level(logging.WARNING)
    if content is not None:
        (tmp_path / "metrics.json").write_text(content)
    hook = DrawCurves(str(tmp_path))
    hook.trainer = SimpleNamespace()
    hook.after_train()
    assert "no learning curves were drawn" in caplog.text
    assert not (tmp_path / "curves.png").exists()
