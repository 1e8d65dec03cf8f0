"""Events, logging, registry, seeds, paths, environment."""

import collections
import json
import logging
import os
import random

import numpy as np
import pytest
import torch
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import (
    CommonMetricPrinter,
    EventStorage,
    EventWriter,
    JSONWriter,
    TensorboardXWriter,
    get_event_storage,
)
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import (
    create_small_table,
    log_every_n_seconds,
    log_first_n,
    setup_logger,
)
from detectron2.utils.registry import Registry, locate

# EventStorage


def test_the_innermost_storage_is_current():
    with pytest.raises(AssertionError):
        get_event_storage()
    with EventStorage() as outer:
        with EventStorage(5) as inner:
            assert get_event_storage() is inner
            assert inner.iter == inner.iteration == 5
        assert get_event_storage() is outer
    with pytest.raises(AssertionError):
        get_event_storage()


def test_scalars():
    storage = EventStorage(10)
    storage.put_scalar("loss", torch.tensor(2.0))
    storage.step()
    storage.put_scalars(loss=4, lr=0.5, smoothing_hint=True)
    storage.put_scalar("late", 1, smoothing_hint=False, cur_iter=99)
    assert storage.latest() == {"loss": (4.0, 11), "lr": (0.5, 11), "late": (1.0, 99)}
    assert storage.history("loss").values() == [(2.0, 10), (4.0, 11)]
    assert set(storage.histories()) == {"loss", "lr", "late"}
    assert storage.smoothing_hints() == {"loss": True, "lr": True, "late": False}
    with pytest.raises(KeyError, match="nothing"):
        storage.history("nothing")
    with pytest.raises(AssertionError, match="late"):
        storage.put_scalar("late", 1)


def test_smoothing_is_a_median_over_iterations():
    storage = EventStorage()
    for iteration in range(10):
        storage.iter = iteration
        storage.put_scalar("each", iteration**2)
        storage.put_scalar("raw", iteration**2, smoothing_hint=False)
        if iteration % 3 == 0:
            storage.put_scalar("third", iteration)
    assert storage.count_samples("each", 5) == 5
    assert storage.count_samples("third", 5) == 2
    assert storage.count_samples("third", 100) == 4
    smoothed = storage.latest_with_smoothing_hint(5)
    assert smoothed == {"each": (49.0, 9), "raw": (81.0, 9), "third": (7.5, 9)}


def test_name_scope():
    storage = EventStorage()
    with storage.name_scope("head"):
        storage.put_scalar("loss", 1)
    storage.put_scalar("loss", 2)
    assert set(storage.latest()) == {"head/loss", "loss"}


# Writers


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_json_writer_writes_each_value_once(tmp_path):
    path = tmp_path / "metrics.json"
    with EventStorage() as storage:
        writer = JSONWriter(str(path))
        for iteration in range(6):
            storage.put_scalar("a", iteration, smoothing_hint=False)
            if iteration == 1:
                storage.put_scalar("b", 7, smoothing_hint=False)
            if iteration % 3 == 2:
                writer.write()
                writer.write()
            storage.step()
        writer.close()
    assert read_lines(path) == [
        {"a": 2.0, "iteration": 2},
        {"b": 7.0, "iteration": 1},
        {"a": 5.0, "iteration": 5},
    ]


def test_json_writer_appends_and_smooths(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text('{"old": 1}\n')
    with EventStorage() as storage:
        writer = JSONWriter(str(path), window_size=3)
        for value in (9, 1, 5, 2):
            storage.put_scalar("a", value)
            storage.step()
        writer.write()
        writer.close()
    assert read_lines(path) == [{"old": 1}, {"a": 2.0, "iteration": 3}]


def test_tensorboard_writer(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with EventStorage() as storage:
        writer = TensorboardXWriter(str(tmp_path))
        storage.put_scalar("lr", 0.5, smoothing_hint=False)
        storage.put_image("picture", torch.zeros(3, 4, 5))
        storage.put_histogram("weights", torch.arange(10.0), bins=5)
        writer.write()
        writer.close()
    events = accumulator.EventAccumulator(str(tmp_path))
    events.Reload()
    assert [event.value for event in events.Scalars("lr")] == [0.5]
    assert [(event.width, event.height) for event in events.Images("picture")] == [(5, 4)]
    (histogram,) = events.Histograms("weights")
    assert histogram.histogram_value.num == 10
    assert histogram.histogram_value.sum == 45


def test_tensorboard_writer_makes_no_file_before_it_writes(tmp_path):
    TensorboardXWriter(str(tmp_path / "tb")).close()
    assert not (tmp_path / "tb").exists()


def printed(printer, caplog):
    caplog.clear()
    logger = logging.getLogger("detectron2.utils.events")
    logger.addHandler(caplog.handler)
    level = logger.level
    logger.setLevel(logging.INFO)
    try:
        printer.write()
    finally:
        logger.removeHandler(caplog.handler)
        logger.setLevel(level)
    return caplog.records[-1].getMessage() if caplog.records else ""


def test_metric_printer(caplog):
    with EventStorage() as storage:
        for step in range(2):
            storage.iter = step
            storage.put_scalars(loss=2.0, total_loss=3.0, other=1.0, time=1.5, data_time=0.25)
            storage.put_scalar("[metric]ap", 0.5)
            storage.put_scalar("lr", 0.00012345678, smoothing_hint=False)
        line = printed(CommonMetricPrinter(max_iter=12), caplog)
        for part in (
            "eta: 0:00:15",  # 10 iterations of 1.5 s
            "iter: 1",
            "loss: 2",
            "total_loss: 3",
            "[metric]ap: 0.5",
            "time: 1.5000",
            "last_time: 1.5000",
            "data_time: 0.2500",
            "last_data_time: 0.2500",
            "lr: 0.00012346",
        ):
            assert part in line
        assert "other" not in line
        assert storage.latest()["eta_seconds"][0] == 15
        assert "eta" not in printed(CommonMetricPrinter(), caplog)


def test_metric_printer_with_nothing_yet_and_at_the_end(caplog):
    with EventStorage() as storage:
        printer = CommonMetricPrinter(max_iter=10)
        assert "lr: N/A" in printed(printer, caplog)
        storage.iter = 5
        assert "eta: 0:00:0" in printed(printer, caplog)  # from its own clock
        storage.iter = 10
        assert printed(printer, caplog) == ""


def test_event_writer_is_abstract():
    with pytest.raises(NotImplementedError):
        EventWriter().write()
    assert EventWriter().close() is None


# Logging


@pytest.fixture
def name(request):
    """A logger for this test alone, whose handlers are removed afterwards."""
    name = f"contract.{request.node.name}"
    yield name
    logging.getLogger(name).handlers.clear()


def test_setup_logger_writes_to_stdout_and_file(tmp_path, capsys, name):
    logger = setup_logger(str(tmp_path), name=name, color=False)
    assert setup_logger(str(tmp_path), name=name, color=False) is logger
    logging.getLogger(name + ".part").debug("hello")
    out = capsys.readouterr().out
    assert out.count("hello") == 1
    line = (tmp_path / "log.txt").read_text()
    assert f"{name}.part DEBUG: hello" in line
    assert not logger.propagate


def test_setup_logger_abbreviates_and_colors(capsys, name):
    setup_logger(name=name, abbrev_name="short")
    logging.getLogger(name + ".part").warning("hello")
    out = capsys.readouterr().out
    assert "short.part" in out
    assert "WARNING" in out
    assert name not in out


def test_setup_logger_of_other_ranks(tmp_path, capsys, name):
    logger = setup_logger(str(tmp_path / "run.txt"), 2, name=name)
    logger.info("hello")
    assert capsys.readouterr().out == ""
    assert "hello" in (tmp_path / "run.txt.rank2").read_text()


def test_log_first_n(caplog):
    with caplog.at_level(logging.INFO, logger="contract"):
        for index in range(5):
            log_first_n(logging.INFO, f"place {index}", 2, name="contract")
        for index in range(4):
            log_first_n(logging.INFO, f"text {index % 2}", name="contract", key="message")
    messages = [record.getMessage() for record in caplog.records]
    assert messages == ["place 0", "place 1", "text 0", "text 1"]
    assert caplog.records[0].name == "contract"


def test_log_every_n_seconds(caplog, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("time.time", lambda: now[0])
    with caplog.at_level(logging.INFO, logger="contract"):
        for index in range(6):
            log_every_n_seconds(logging.INFO, str(index), 2, name="contract")
            now[0] += 1
    assert [record.getMessage() for record in caplog.records] == ["0", "2", "4"]


def test_the_logger_is_the_callers(caplog):
    with caplog.at_level(logging.INFO, logger=__name__):
        log_first_n(logging.INFO, "mine")
    assert caplog.records[0].name == __name__


def test_create_small_table():
    lines = create_small_table({"AP": 1.23456, "AP50": 2}).splitlines()
    assert len(lines) == 3
    assert [cell.strip() for cell in lines[0].strip("|").split("|")] == ["AP", "AP50"]
    assert [cell.strip() for cell in lines[2].strip("|").split("|")] == ["1.235", "2"]


# Registry


def test_registry():
    registry = Registry("THING")

    @registry.register()
    class Thing:
        pass

    assert registry.get("Thing") is Thing
    assert "Thing" in registry
    with pytest.raises(KeyError, match="Other"):
        registry.get("Other")
    with pytest.raises(AssertionError):
        registry.register(Thing)


def test_locate():
    assert locate("collections.Counter") is collections.Counter
    assert locate("torch.optim.sgd.SGD") is torch.optim.SGD
    assert locate("torch.nn.Module.forward") is torch.nn.Module.forward
    assert locate("detectron2.structures.Boxes").__name__ == "Boxes"
    assert locate("len") is len
    for missing in ("nothing_of_that_name", "collections.Nothing"):
        with pytest.raises(ImportError):
            locate(missing)


# Seeds, paths, environment


def test_seed_all_rng():
    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()

    seed_all_rng(3)
    first = draw()
    seed_all_rng(3)
    assert draw() == first
    assert os.environ["PYTHONHASHSEED"] == "3"
    seed_all_rng(4)
    assert draw() != first


def test_path_manager(tmp_path):
    folder = str(tmp_path / "a" / "b")
    PathManager.mkdirs(folder)
    with PathManager.open(os.path.join(folder, "x.txt"), "w") as file:
        file.write("hello")
    assert PathManager.isfile(os.path.join(folder, "x.txt"))
    assert PathManager.ls(folder) == ["x.txt"]
    assert not PathManager.exists(str(tmp_path / "none"))


def test_collect_env_info():
    info = collect_env_info()
    for part in (torch.__version__, np.__version__, "detectron2", "Python"):
        assert part in info
