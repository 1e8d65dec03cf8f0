"""projects.EmojiScenes.evidence: rows that share their start, and their results."""

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig

from detclip2.config import load_config
from detclip2.data.emojiscenes.categories import make_world
from detclip2.engine.hooks.curves import read_metrics
from detclip2.utils.errors import UserError
from projects.EmojiScenes.evidence import __main__ as evidence
from projects.EmojiScenes.evidence import plots, runner, stages
from projects.EmojiScenes.evidence.record import Cost, write_json
from projects.EmojiScenes.evidence.rows import ROWS, TABLES
from tests.helpers.tiny_evidence import TINY, experiment_in


@pytest.mark.slow
def test_a_row_from_the_shared_start_equals_one_from_the_beginning(tiny, tmp_path):
    experiment, _ = tiny
    cfg = runner.config_of(experiment, ROWS["pairs"], 0, tmp_path)
    stages.train_stage(cfg)
    one, other = (
        torch.load(path / "model_final.pth", weights_only=True)
        for path in (tmp_path, experiment.run_folder("pairs", 0))
    )
    assert one["model"].keys() == other["model"].keys()
    for name, value in one["model"].items():
        assert torch.equal(value, other["model"][name]), name
    for group in (0, -1):
        a, b = (part["trainer"]["optimizer"]["state"] for part in (one, other))
        key = list(a)[group]
        assert torch.equal(a[key]["exp_avg"], b[key]["exp_avg"])
    drawn = [
        part["trainer"]["hooks"]["AlternateSources"]["loader"]["drawn"] for part in (one, other)
    ]
    assert drawn[0] == drawn[1]
    assert drawn[0]["pairs"] > 0


def test_a_finished_row_is_there_and_force_runs_it_again(tmp_path, capsys, monkeypatch):
    trained = []
    monkeypatch.setattr(runner, "train_row", lambda *_: trained.append(1) or 1 / 0)
    experiment = experiment_in(tmp_path, settings=TINY)
    file, folder = experiment.result_file("pairs", 0), experiment.run_folder("pairs", 0)
    write_json(file, {"results": {"seen": {}, "unseen": {}}})
    folder.mkdir(parents=True)
    runner.run_rows(experiment, ["pairs"], [0])
    said = capsys.readouterr().err
    assert said == f"already there, nothing is run; --force runs it again:\n{file}\n"
    assert not trained
    with pytest.raises(ZeroDivisionError):
        runner.run_rows(replace(experiment, force=True), ["pairs"], [0])
    assert trained
    assert not file.exists()
    assert not folder.exists()


def copy_start(first, second):
    """Copy the trained shared starts of one experiment to another."""
    for folder in (first.output / "quick").glob("start-*"):
        shutil.copytree(folder, second.output / "quick" / folder.name)


@pytest.mark.slow
@pytest.mark.processes
def test_two_processes_train_a_row_together(tiny, quick_launch, tmp_path):
    experiment = experiment_in(tmp_path, settings=TINY, processes=2)
    copy_start(tiny[0], experiment)
    record = json.loads(runner.run_row(experiment, "pairs", 0).read_text())
    assert sum(record["images"].values()) == 9 * 4  # and not twice as many
    assert record["iterations"] == 9
    assert record["results"]["seen"]["bbox_fixed"]["AP"] >= 0
    assert (experiment.run_folder("pairs", 0) / "log.txt.rank1").is_file()


@pytest.mark.processes
def test_a_mistake_in_one_of_several_processes_is_reported_in_a_sentence(
    quick_launch, tmp_path, capfd
):
    experiment = experiment_in(
        tmp_path, settings=(*TINY, "train.amp.precision=float8"), processes=2
    )
    with pytest.raises(SystemExit) as stopped:
        runner.run_row(experiment, "detection", 0)
    assert stopped.value.code == 1
    said = capfd.readouterr().err + quick_launch.read_text()
    assert "evidence: train.amp.precision is 'float8'" in said
    assert "Traceback" not in said


@pytest.mark.slow
def test_rows_share_a_start_unless_they_differ_in_it(tiny):
    experiment, records = tiny
    starts = [experiment.run_folder(name, 0) / runner.START for name in records]
    assert len({start.read_text() for start in starts}) == 1
    assert len(list((experiment.output / "quick").glob("start-*"))) == 1


@pytest.mark.slow
def test_a_world_can_grow(tmp_path):
    growth = ("benchmark.growth=[[10,3],[20,5]]", "lr_multiplier.decay_start=5")
    experiment = experiment_in(tmp_path, settings=(*TINY, *growth))
    record = json.loads(runner.run_row(experiment, "pairs", 0).read_text())
    assert sum(record["images"].values()) == 9 * 4
    folder = experiment.run_folder("pairs", 0)
    start = Path((folder / runner.START).read_text())
    for run, world, last in ((start, 10, 2), (folder / "20", 20, 4), (folder, 30, 8)):
        assert load_config(run / "config.yaml")[0].world.categories == world
        metrics = read_metrics(run / "metrics.json")
        assert metrics["total_loss"][-1][0] == last
        rates = dict(metrics["lr"])
        assert all(rate == pytest.approx(1e-3) for i, rate in rates.items() if 2 <= i <= 5)
    assert rates[8] < 2e-4


def test_growth_must_begin_with_the_world_of_the_shared_start(tmp_path):
    experiment = experiment_in(tmp_path, settings=(*TINY, "benchmark.growth=[[10,4],[20,5]]"))
    with pytest.raises(UserError, match="ends after 4 iterations; expected 3"):
        runner.run_row(experiment, "pairs", 0)


@pytest.mark.slow
def test_a_result_has_its_provenance(tiny):
    _, records = tiny
    record = records["pairs"]
    # Shares are exact over blocks of 100 iterations, and this run has 9.
    assert sum(record["images"].values()) == 9 * 4
    assert record["iterations"] == 9
    assert min(record["images"].values()) > 0
    assert records["detection"]["images"] == {"detection": 4 * 4}
    assert set(record["results"]) == {"seen", "unseen"}
    assert {"AP", "APr", "AP50-base", "AP50-novel"} <= record["results"]["seen"][
        "bbox_fixed"
    ].keys()
    assert record["results"]["unseen"]["names"]["chance"] == pytest.approx(100 / 3, abs=1e-3)
    assert record["cost"]["processor_seconds"] > 0
    assert record["shared_start"]["processor_seconds"] > 0
    assert len(record["commit"]) in (0, 40)
    assert record["overrides"] == list(TINY)
    said = "python -m projects.EmojiScenes.evidence run pairs --size quick --set "
    assert record["command"] == said + " ".join(TINY) + " --seed 0"


def test_the_cost_of_a_run_is_saved_while_it_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(Cost, "EVERY", 0.01)
    file = tmp_path / Cost.FILE
    for _ in range(2):  # the second adds to the cost of the first
        before = Cost.of(tmp_path).get("wall_seconds", 0)
        with Cost(tmp_path):
            while Cost.of(tmp_path).get("wall_seconds", 0) < before + 0.2:
                time.sleep(0.01)
            kept = json.loads(file.read_text())
        assert Cost.of(tmp_path)["wall_seconds"] >= kept["wall_seconds"]


def test_rows_of_language_are_evaluated_with_names_absent_from_training(tmp_path):
    experiment = experiment_in(tmp_path)
    cfg = runner.config_of(experiment, ROWS["all"], 0, tmp_path)
    assert set(runner.test_sets(experiment, cfg, ROWS["all"])) == {"seen", "unseen", "synonyms"}
    assert set(runner.test_sets(experiment, cfg, ROWS["pairs"])) == {"seen", "unseen"}
    called = runner.test_sets(experiment, cfg, ROWS["wordnet"])["synonyms"]["called"]
    seen = make_world(cfg.world.categories).seen
    assert list(called) == [category.name for category in seen]
    heard = {word for c in seen for name in (c.name, *c.synonyms) for word in name.split()}
    assert not heard & {word for name in called.values() for word in name.split()}
    standard, _ = load_config(runner.CONFIGS / "standard.py")
    assert set(runner.test_sets(experiment, standard, ROWS["all"])) == {"seen", "unseen"}


@pytest.mark.slow
def test_a_finished_run_is_not_repeated_but_further_tests_are_run(tiny, tmp_path, monkeypatch):
    first, records = tiny
    experiment = replace(first, results=tmp_path / "results")
    shutil.copytree(first.results, experiment.results)

    def fail(*args):
        raise AssertionError("trained again")

    monkeypatch.setattr(stages, "train_stage", fail)
    file = experiment.result_file("pairs", 0)
    before = file.read_bytes()
    runner.run_row(experiment, "pairs", 0)
    assert file.read_bytes() == before
    record = json.loads(before)
    del record["results"]["unseen"]
    record["date"] = "2026-01-31"  # of the training
    write_json(file, record)
    runner.run_row(experiment, "pairs", 0)
    assert json.loads(file.read_text())["date"] == "2026-01-31"
    again = json.loads(file.read_text())["results"]
    np.testing.assert_equal(again, records["pairs"]["results"])


@pytest.mark.slow
def test_pseudo_labels_come_from_the_detection_row_and_are_trained_on(tiny, tmp_path):
    """Only the row's json exists, as in a fresh clone, not its weights."""
    first, _ = tiny
    experiment = experiment_in(tmp_path, settings=TINY)
    shutil.copytree(first.results, experiment.results)
    copy_start(first, experiment)
    record = json.loads(runner.run_row(experiment, "pseudo_labels", 0).read_text())
    lines = (
        (experiment.run_folder("pseudo_labels", 0) / "pseudo_labels.jsonl").read_text().splitlines()
    )
    assert len(lines) == 5 * 4  # the row's number of image-text pairs
    assert record["images"]["pairs"] > 0
    one, other = (
        torch.load(p.run_folder("detection", 0) / "model_final.pth", weights_only=True)["model"]
        for p in (first, experiment)
    )
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_every_row_is_a_config_with_its_budget(tmp_path, monkeypatch):
    """Each row's overrides fit the config; the same boxes are seen wherever that is promised."""
    experiment = experiment_in(tmp_path)
    quick, _ = load_config(runner.CONFIGS / "quick.py")
    monkeypatch.setattr(runner, "load_config", lambda path: (quick.copy(), str(path)))  # once
    whole = LazyConfig.load(str(runner.CONFIGS / "quick.py")).benchmark
    for name, row in ROWS.items():
        cfg = runner.config_of(experiment, row, 0, tmp_path / name)
        runner.budget_of(row, whole)
        boxes = cfg.train.source_ratios.detection + whole.shared
        steps = sum(whole.iterations.values())
        assert boxes == (steps if row.equal_steps else whole.iterations.detection), name
        assert cfg.train.max_iter == sum(cfg.train.source_ratios.values()) + whole.shared
        assert set(cfg.train.source_ratios) == set(cfg.dataloader.train) - {"_target_", "seed"}
    used = {row for table in TABLES.values() for row in table.rows}
    assert used == set(ROWS)


@pytest.mark.parametrize("size", ["quick", "standard", "large"])
def test_numbers_of_iterations_are_multiples_of_the_block(size):
    """Otherwise the shares of the sources are only approximate."""
    benchmark = LazyConfig.load(str(runner.CONFIGS / f"{size}.py")).benchmark
    numbers = [benchmark.shared, *benchmark.iterations.values()]
    assert all(number % 100 == 0 for number in numbers)


@pytest.mark.slow
def test_images_of_a_run_are_drawn(tiny, tmp_path):
    experiment, _ = tiny
    run = experiment.run_folder("pairs", 0)
    assert all(
        path.stat().st_size > 1000
        for path in plots.draw_run(run, tmp_path, experiment.output / "quick" / "data")
    )


def test_a_mistake_is_one_sentence(tmp_path, capsys):
    arguments = ["--output", str(tmp_path), "--results", str(tmp_path)]
    assert evidence.main(["run", "colour", *arguments]) == 2
    assert "there is no row 'colour'" in capsys.readouterr().err
    experiment = experiment_in(tmp_path, artwork=tmp_path)
    with pytest.raises(UserError, match="no icon set"):
        runner.run_row(experiment, "pairs", 0)
