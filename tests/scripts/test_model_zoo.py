"""The table of configs in projects/DetCLIPv2/README.md matches the configs."""

import json
import re
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from fvcore.nn import FlopCountAnalysis

from scripts import model_zoo as script

ROOT = Path(__file__).resolve().parents[2]
PROJECT = ROOT / "projects" / "DetCLIPv2"


@pytest.fixture(scope="module")
def rows():
    """Config -> the cells of its row, by column."""
    lines = [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|"))]
        for line in (PROJECT / "README.md").read_text().splitlines()
        if line.startswith("| config |") or line.startswith("| [")
    ]
    return {cells[0]: dict(zip(lines[0], cells, strict=True)) for cells in lines[1:]}


@pytest.mark.slow
def test_the_table_equals_the_scripts_output(capsys):
    """Every config in it builds; a number typed by hand would differ."""
    assert script.main(["--check"]) == 0, "run python scripts/model_zoo.py"


def test_every_config_has_a_row_and_every_link_leads_somewhere(rows):
    linked = {}
    for cell in rows:
        name, target = re.fullmatch(r"\[(\w+)\]\(([\w./]+)\)", cell).groups()
        assert (PROJECT / target).is_file()
        linked[name] = target
    assert set(linked) == {path.stem for path in (PROJECT / "configs").glob("*.py")}


def test_our_results_have_command_date_and_machine(rows):
    zoo = json.loads((PROJECT / "model_zoo.json").read_text())
    trained = {name for name, entry in zoo.items() if "ours" in entry}
    for cell, row in rows.items():
        name = re.match(r"\[(\w+)\]", cell)[1]
        if name not in trained:
            assert row["ours"] == "not trained"
            continue
        assert set(zoo[name]["ours"]) == {"result", "command", "date", "machine"}
        assert all(part in row["ours"] for part in zoo[name]["ours"].values())
        assert re.fullmatch(r"\d{4}-\d{2}-\d{2}", zoo[name]["ours"]["date"])


def test_a_changed_table_is_detected(monkeypatch, tmp_path, capsys):
    text = (PROJECT / "README.md").read_text()
    row = next(line for line in text.splitlines() if line.startswith("| [emoji_nano_detection]"))
    (tmp_path / "README.md").write_text(text.replace(row, row.replace("not trained", "AP 99")))
    entries = {"emoji_nano_detection": {"paper": "AP 1.5"}}
    (tmp_path / "model_zoo.json").write_text(json.dumps(entries))
    (tmp_path / "configs").symlink_to(PROJECT / "configs")
    monkeypatch.setattr(script, "PROJECT", tmp_path)
    monkeypatch.setattr(script, "table", lambda zoo: f"| {zoo} |")
    assert script.main(["--check"]) == 1
    assert script.main([]) == 0
    written = (tmp_path / "README.md").read_text()
    assert str(entries) in written
    assert "AP 99" not in written
    assert script.main(["--check"]) == 0
    outside = text[: text.index(script.BEGIN)], text[text.index(script.END) :]
    assert (written.startswith(outside[0]), written.endswith(outside[1])) == (True, True)


def test_relative_times_equal_the_benchmark(monkeypatch, tmp_path):
    rows = [
        {"model": "swin_t", "size": [800, 1333], "ratio": {"median": 1.5}},
        {"model": "swin_t", "size": [800, 1333], "names": 1203, "ratio": {"median": 9}},
        {"model": "swin_t", "size": [800, 1333], "text": "encoded", "ratio": {"median": 9}},
        {"model": "swin_t", "size": [800, 1333], "batch": 8, "ratio": {"median": 9}},
        {"model": "swin_t", "size": [800, 1333], "survivors": 10**8, "ratio": {"median": 9}},
        {"model": "swin_l", "size": [320, 320], "ratio": {"median": 4}},
    ]
    alone = {"names": 80, "text": "cached", "batch": 1, "survivors": 3000}
    result = {"inference": {"result": [{**alone, **row} for row in rows]}}
    monkeypatch.setattr(script, "TIMES", tmp_path / "performance.json")
    assert script.relative_times() == {}
    script.TIMES.write_text(json.dumps(result))
    times = script.relative_times()
    assert times == {("swin_t", (800, 1333)): 1.5, ("swin_l", (320, 320)): 4}
    configs = PROJECT / "configs"
    cfg = LazyConfig.load(str(configs / "pretrain_o365_swin_t.py"))
    assert script.relative_time(cfg, times) == "1.50"
    assert script.relative_time(LazyConfig.load(str(configs / "emoji_nano_all.py")), times) == "-"


def test_models_of_the_benchmark_equal_the_configs():
    models = LazyConfig.load(str(ROOT / "configs" / "models" / "detclipv2.py"))
    for backbone, name in script.MODELS.items():
        assert models[name].backbone.bottom_up.name == backbone


def test_an_entry_without_a_config_is_refused():
    with pytest.raises(SystemExit, match="no config 'swin_x'"):
        script.table({"swin_x": {}})


def test_flops_equal_fvcore():
    """fvcore counts normalisation and resampling too; without these both count the same."""
    cfg = LazyConfig.load(str(ROOT / "configs" / "models" / "detclipv2.py")).nano
    model = instantiate(cfg).eval()
    size = (128, 256)
    inputs = (torch.rand(1, 3, *size), torch.rand(script.NAMES, model.embed_dim))
    counted = FlopCountAnalysis(script.Detector(model), inputs).unsupported_ops_warnings(False)
    products = {"conv", "matmul", "linear", "addmm", "bmm", "einsum"}
    expected = sum(n for kind, n in counted.by_operator().items() if kind in products)
    assert script.gflops(script.build(cfg), size) == pytest.approx(expected / 1e9, rel=1e-6)


def test_parameters_equal_the_table_of_sizes():
    """Swin-T has the size in the README's table, counted in another way."""
    cfg = LazyConfig.load(str(ROOT / "configs" / "models" / "detclipv2.py")).swin_t
    model = script.build(cfg)
    assert script.count(model) == pytest.approx(99.6, abs=0.05)
    assert all(parameter.is_meta for parameter in model.parameters())
