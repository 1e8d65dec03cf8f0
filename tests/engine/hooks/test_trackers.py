import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from detectron2.utils.events import EventStorage

from detclip2.engine.hooks.trackers import TRACKERS, WandbWriter
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


def test_trackio_continues_the_run_of_a_folder(monkeypatch, tmp_path):
    asked, run = [], Run()
    fake = SimpleNamespace(init=lambda **init: asked.append(init), log=run.log, finish=run.finish)
    monkeypatch.setitem(sys.modules, "trackio", fake)
    for name in (None, "mine"):
        writer = TRACKERS["trackio"](str(tmp_path / "birds"), {"a": 1}, project="p", name=name)
    common = {"project": "p", "config": {"a": 1}, "resume": "allow"}
    assert asked == [{**common, "name": "birds"}, {**common, "name": "mine"}]
    write_two(writer)
    assert run.logged == [(0, {"loss": 2.0}), (1, {"loss": 3.0})]
    assert run.finished


def test_mlflow_continues_the_run_of_a_folder(monkeypatch, tmp_path):
    run, started, kept = Run(), [], []

    def start_run(**how):
        started.append(how)
        return SimpleNamespace(info=SimpleNamespace(run_id="id7"))

    fake = SimpleNamespace(
        set_experiment=kept.append,
        start_run=start_run,
        log_dict=lambda *what: kept.append(what),
        log_metrics=run.log,
        end_run=run.finish,
    )
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    for _ in range(2):
        writer = TRACKERS["mlflow"](str(tmp_path), {"a": 1}, experiment="birds", name="first")
    assert started == [{"run_name": "first"}, {"run_id": "id7"}]
    assert kept == ["birds", ({"a": 1}, "config.json"), "birds"]
    write_two(writer)
    assert run.logged == [(0, {"loss": 2.0}), (1, {"loss": 3.0})]
    assert run.finished


def write_two(writer):
    with EventStorage(0) as storage:
        for value in (2.0, 4.0):
            storage.put_scalar("loss", value)
            writer.write()
            storage.step()
    writer.close()


def test_trackio_itself(monkeypatch, tmp_path):
    """Runs where trackio is installed, which is no dependency of the tests."""
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "runs"))  # read at its import
    pytest.importorskip("trackio", reason="trackio is not installed")
    for _ in range(2):
        write_two(TRACKERS["trackio"](str(tmp_path / "birds"), {"a": 1}, project="p"))
    program = str(Path(sys.executable).with_name("trackio"))
    asked = ["get", "metric", "--project", "p", "--run", "birds", "--metric", "loss", "--json"]
    done = subprocess.run([program, *asked], capture_output=True, text=True, check=True)
    values = json.loads(done.stdout)["values"]
    assert [(one["step"], one["value"]) for one in values] == 2 * [(0, 2.0), (1, 3.0)]


def test_mlflow_itself(monkeypatch, tmp_path):
    """Runs where MLflow is installed, which is no dependency of the tests."""
    mlflow = pytest.importorskip("mlflow", reason="MLflow is not installed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "runs").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    for _ in range(2):
        write_two(TRACKERS["mlflow"](str(tmp_path), {"a": 1}, experiment="birds"))
    [run] = mlflow.search_runs(experiment_names=["birds"], output_format="list")
    assert run.data.metrics == {"loss": 3.0}


@pytest.mark.parametrize("package", TRACKERS)
def test_a_missing_package_is_reported(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=f"train.{package} is set, but .* '{package}' is not insta"):
        TRACKERS[package]("folder", {}, **({} if package == "wandb" else {PLACE[package]: "x"}))


PLACE = {"trackio": "project", "mlflow": "experiment"}
