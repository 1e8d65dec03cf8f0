"""scripts/evidence.py: rows that share their start, results, tables and figures."""

import json
import shutil
import time
from pathlib import Path

import evidence
import evidence_plots
import evidence_record
import evidence_run
import evidence_tables
import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig
from evidence_rows import ROWS, TABLES

from detclip2.config import load_config
from detclip2.data.emojiscenes.categories import make_world
from detclip2.engine.hooks.curves import read_metrics
from detclip2.utils.errors import UserError
from tests.helpers.tiny_evidence import TINY, place_in


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Two rows of a world of 30, run from their shared start, and the first from the beginning."""
    folder = tmp_path_factory.mktemp("evidence")
    place = place_in(folder, settings=TINY)
    files = {name: evidence_run.run_row(place, name, 0) for name in ("pairs", "detection")}
    return place, {name: json.loads(file.read_text()) for name, file in files.items()}


def test_a_row_from_the_shared_start_is_one_from_the_beginning(tiny, tmp_path):
    place, _ = tiny
    cfg = evidence_run.config_of(place, ROWS["pairs"], 0, tmp_path)
    evidence_run.train_here(cfg)
    one, other = (
        torch.load(path / "model_final.pth", weights_only=True)
        for path in (tmp_path, place.run_folder("pairs", 0))
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


def test_two_processes_train_a_row_together(tmp_path):
    place = place_in(tmp_path, settings=TINY, processes=2)
    record = json.loads(evidence_run.run_row(place, "pairs", 0).read_text())
    assert sum(record["images"].values()) == 9 * 4  # and not twice as many
    assert record["iterations"] == 9
    assert record["results"]["seen"]["bbox_fixed"]["AP"] >= 0
    assert (place.run_folder("pairs", 0) / "log.txt.rank1").is_file()


def test_a_mistake_in_one_of_several_processes_is_told_in_a_sentence(tmp_path, capfd):
    place = place_in(tmp_path, settings=(*TINY, "train.amp.precision=float8"), processes=2)
    with pytest.raises(SystemExit) as stopped:
        evidence_run.run_row(place, "detection", 0)
    assert stopped.value.code == 1
    said = capfd.readouterr().err
    assert "evidence: train.amp.precision is 'float8'" in said
    assert "Traceback" not in said


def test_rows_share_a_start_unless_they_differ_in_it(tiny):
    place, records = tiny
    starts = [place.run_folder(name, 0) / evidence_run.START for name in records]
    assert len({start.read_text() for start in starts}) == 1
    assert len(list((place.output / "quick").glob("start-*"))) == 1


def test_a_world_may_grow(tmp_path):
    growth = ("benchmark.growth=[[10,3],[20,5]]", "lr_multiplier.shared=5")
    place = place_in(tmp_path, settings=(*TINY, *growth))
    record = json.loads(evidence_run.run_row(place, "pairs", 0).read_text())
    assert sum(record["images"].values()) == 9 * 4
    folder = place.run_folder("pairs", 0)
    start = Path((folder / evidence_run.START).read_text())
    for run, world, last in ((start, 10, 2), (folder / "20", 20, 4), (folder, 30, 8)):
        assert load_config(run / "config.yaml")[0].world.categories == world
        metrics = read_metrics(run / "metrics.json")
        assert metrics["total_loss"][-1][0] == last
        rates = dict(metrics["lr"])
        assert all(rate == pytest.approx(1e-3) for i, rate in rates.items() if 2 <= i <= 5)
    assert rates[8] < 2e-4


def test_the_first_world_that_grows_is_that_of_the_shared_start(tmp_path):
    place = place_in(tmp_path, settings=(*TINY, "benchmark.growth=[[10,4],[20,5]]"))
    with pytest.raises(UserError, match="ends after 4 iterations; expected 3"):
        evidence_run.run_row(place, "pairs", 0)


def test_a_result_says_how_it_came_about(tiny):
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
    said = "python scripts/evidence.py run pairs --size quick --set "
    assert record["command"] == said + " ".join(TINY) + " --seed 0"


def test_what_a_run_has_cost_is_kept_while_it_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(evidence_record.Cost, "EVERY", 0.01)
    file = tmp_path / evidence_record.Cost.FILE
    for _ in range(2):  # the second goes on, and adds to what the first has cost
        before = evidence_record.Cost.of(tmp_path).get("wall_seconds", 0)
        with evidence_record.Cost(tmp_path):
            while evidence_record.Cost.of(tmp_path).get("wall_seconds", 0) < before + 0.2:
                time.sleep(0.01)
            kept = json.loads(file.read_text())
        assert evidence_record.Cost.of(tmp_path)["wall_seconds"] >= kept["wall_seconds"]


def test_rows_of_language_are_asked_by_words_that_no_training_text_has(tmp_path):
    place = place_in(tmp_path)
    cfg = evidence_run.config_of(place, ROWS["all"], 0, tmp_path)
    assert set(evidence_run.test_sets(place, cfg, ROWS["all"])) == {"seen", "unseen", "synonyms"}
    assert set(evidence_run.test_sets(place, cfg, ROWS["pairs"])) == {"seen", "unseen"}
    called = evidence_run.test_sets(place, cfg, ROWS["wordnet"])["synonyms"]["called"]
    seen = make_world(cfg.world.categories).seen
    assert list(called) == [category.name for category in seen]
    heard = {word for c in seen for name in (c.name, *c.synonyms) for word in name.split()}
    assert not heard & {word for name in called.values() for word in name.split()}
    standard, _ = load_config(evidence_run.CONFIGS / "standard.py")
    assert set(evidence_run.test_sets(place, standard, ROWS["all"])) == {"seen", "unseen"}


def test_what_is_done_is_not_done_again_but_further_tests_are(tiny, monkeypatch):
    place, records = tiny

    def fail(*args):
        raise AssertionError("trained again")

    monkeypatch.setattr(evidence_run, "train_here", fail)
    file = place.result_file("pairs", 0)
    before = file.read_bytes()
    evidence_run.run_row(place, "pairs", 0)
    assert file.read_bytes() == before
    record = json.loads(before)
    del record["results"]["unseen"]
    record["date"] = "2026-01-31"  # of the training
    evidence_record.write_json(file, record)
    evidence_run.run_row(place, "pairs", 0)
    assert json.loads(file.read_text())["date"] == "2026-01-31"
    again = json.loads(file.read_text())["results"]
    np.testing.assert_equal(again, records["pairs"]["results"])


def test_pseudo_labels_are_drawn_by_the_row_of_boxes_and_trained_on(tiny, tmp_path):
    """Though only the row's json is there, as in a fresh clone, and not its weights."""
    first, _ = tiny
    place = place_in(tmp_path, settings=TINY)
    shutil.copytree(first.results, place.results)
    record = json.loads(evidence_run.run_row(place, "pseudo_labels", 0).read_text())
    lines = (place.run_folder("pseudo_labels", 0) / "pseudo_labels.jsonl").read_text().splitlines()
    assert len(lines) == 5 * 4  # as many as the row has pairs
    assert record["images"]["pairs"] > 0
    one, other = (
        torch.load(p.run_folder("detection", 0) / "model_final.pth", weights_only=True)["model"]
        for p in (first, place)
    )
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_every_row_is_a_config_that_says_its_budget(tmp_path):
    """Each row's overrides fit the config; the same boxes are seen wherever that is promised."""
    place = place_in(tmp_path)
    whole = LazyConfig.load(str(evidence_run.CONFIGS / "quick.py")).benchmark
    for name, row in ROWS.items():
        cfg = evidence_run.config_of(place, row, 0, tmp_path / name)
        evidence_run.budget_of(row, whole)
        boxes = cfg.train.source_ratios.detection + whole.shared
        steps = sum(whole.iterations.values())
        assert boxes == (steps if row.equal_steps else whole.iterations.detection), name
        assert cfg.train.max_iter == sum(cfg.train.source_ratios.values()) + whole.shared
        assert set(cfg.train.source_ratios) == set(cfg.dataloader.train) - {"_target_", "seed"}
    used = {row for table in TABLES.values() for row in table.rows}
    assert used == set(ROWS)


@pytest.mark.parametrize("size", ["quick", "standard", "large"])
def test_numbers_of_iterations_are_multiples_of_the_block(size):
    """Else the shares of the sources are kept only nearly (engine/alternate_sources.py)."""
    benchmark = LazyConfig.load(str(evidence_run.CONFIGS / f"{size}.py")).benchmark
    numbers = [benchmark.shared, *benchmark.iterations.values()]
    assert all(number % 100 == 0 for number in numbers)


def made_up(row, seed, ap):
    seen = {"AP": ap, "APr": ap / 2, "APc": ap, "APf": ap, "AP50-base": ap, "AP50-novel": None,
            "AP-base": ap, "AP-novel": ap / 2}  # fmt: skip
    return {
        "row": row, "seed": seed, "label": ROWS[row].label, "commit": "0" * 40,
        "date": "2026-01-01", "machine": {"device": "cpu", "cores": 2, "processor": "a processor"},
        "images": {"detection": 100, "pairs": 10 * len(row)}, "iterations": 700,
        "cost": {"processor_seconds": 60.0}, "shared_start": {"processor_seconds": 30.0},
        "curves": {"total_loss": [[0, 2.0], [9, 1.0]]},
        "results": {"seen": {"bbox_fixed": seen}, "flat": {"bbox_fixed": {"AP": 7.0}}},
    }  # fmt: skip


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "results"
    for seed, ap in enumerate((10.0, 14.0)):
        record = made_up("pairs", seed, ap)
        evidence_record.write_json(folder / "quick" / f"pairs-seed{seed}.json", record)
    for row in ("pairs_half", "detection"):
        file = folder / "quick" / f"{row}-seed0.json"
        evidence_record.write_json(file, made_up(row, 0, 8.0))
    return folder


def cells_of(table):
    lines = [line for line in table.splitlines() if line.startswith("|")]
    titles, _, *rows = ([part.strip() for part in line.split("|")] for line in lines)
    return {row[1]: dict(zip(titles, row, strict=True)) for row in rows}


def test_a_table_has_means_and_spread_and_says_what_was_not_run(results):
    table = evidence_tables.table_of(results, "quick", "amount")
    cells = cells_of(table)
    found = cells["all"]
    assert found["AP"] == "12.0 ± 2.8"
    assert found["APr / APf (%)"] == "50.0 ± 0.0"
    assert "AP50 novel" not in found  # no run has it
    assert found["seeds"] == "0 1"
    assert found["CPU min"] == "1.5 ± 0.0"
    assert found["steps"] == "700"
    assert "twice as many (not run)" in cells
    assert "38.4 -> 40.4" in table.splitlines()[-1]


def test_other_art_styles_have_a_table_of_their_own(results):
    titles = set(cells_of(evidence_tables.table_of(results, "quick", "styles"))["boxes"])
    assert titles == {"", "seeds", "AP, the font", "APr, the font", "AP, flat"}
    amount = cells_of(evidence_tables.table_of(results, "quick", "amount"))["all"]
    assert "AP, flat" not in amount
    found = cells_of(evidence_tables.table_of(results, "quick", "styles"))["boxes + pairs"]
    assert found["AP, the font"] == "12.0 ± 2.8"
    assert found["AP, flat"] == "7.0 ± 0.0"


def test_the_page_is_filled_between_its_marks_and_a_change_is_noticed(results, tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text(
        "before\n<!-- table quick/amount, written by scripts/evidence.py -->\nold\n"
        "<!-- end of the table -->\nafter\n"
    )
    arguments = ["tables", "--page", str(page), "--results", str(results)]
    assert evidence.main([*arguments, "--check"]) == 1
    assert evidence.main(arguments) == 0
    text = page.read_text()
    assert text.startswith("before\n<!--")
    assert text.endswith("-->\nafter\n")
    assert "12.0 ± 2.8" in text
    assert "old" not in text
    assert evidence.main([*arguments, "--check"]) == 0


def test_the_page_of_the_project_is_what_its_results_say(capsys):
    assert evidence.main(["tables", "--check"]) == 0, "run python scripts/evidence.py tables"
    tables = {match[3] for match in evidence_tables.MARK.finditer(evidence.PAGE.read_text())}
    assert tables >= {*TABLES}


def test_figures_are_drawn_where_there_are_results(results, tmp_path):
    drawn = evidence_plots.draw_all(results, tmp_path / "figures")
    assert {path.name for path in drawn} == {
        "quick-frequency.png", "quick-pairs.png", "quick-curves.png",
    }  # fmt: skip
    with pytest.raises(UserError, match="no results"):
        evidence_plots.draw_all(tmp_path / "nothing", tmp_path)


def test_pictures_of_a_run_are_drawn(tiny, tmp_path):
    place, _ = tiny
    run = place.run_folder("pairs", 0)
    assert all(
        path.stat().st_size > 1000
        for path in evidence_plots.draw_run(run, tmp_path, place.output / "quick" / "data")
    )


def test_a_mistake_is_one_sentence(tmp_path, capsys):
    arguments = ["--output", str(tmp_path), "--results", str(tmp_path)]
    assert evidence.main(["run", "colour", *arguments]) == 2
    assert "there is no row 'colour'" in capsys.readouterr().err
    place = place_in(tmp_path, artwork=tmp_path)
    with pytest.raises(UserError, match="no icon set"):
        evidence_run.run_row(place, "pairs", 0)
