"""``detclip2 evaluate`` on own annotations and on the test sets of a config."""

import json

import pytest
from detectron2.config import LazyConfig, instantiate

from detclip2.cli import main as detclip2
from detclip2.utils.model_folder import save_weights
from tests.helpers.own_data import own_content, write_own_data
from tests.helpers.tiny_training import tiny_config


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The folder of a tiny model with random weights, as training writes it."""
    folder = tmp_path_factory.mktemp("base")
    cfg = tiny_config(folder)
    LazyConfig.save(cfg, str(folder / "config.yaml"))
    save_weights(instantiate(cfg.model), folder)
    return folder


def run(*words):
    return detclip2(["evaluate", *map(str, words), "--device", "cpu"])


def test_own_annotations(base, tmp_path, capsys):
    content = own_content(count=2)
    content["annotations"][0]["bbox"] = [4, 8, 0, 24]
    path = write_own_data(tmp_path / "data", content, "val.json")
    output = tmp_path / "results"
    words = ("--model", base, "--val", path, "--images", path.parent, "--output", output)
    assert run(*words, "--errors") == 0
    printed = capsys.readouterr().out
    assert "boxes without four numbers" in printed
    assert "Average Precision" not in printed
    report = json.loads((output / "evaluation.json").read_text())
    assert report["bbox"].keys() >= {"AP", "AP50", "AP-red square", "AP-blue square"}
    rows = {line.strip().split("  ")[0] for line in printed.splitlines()}
    assert rows >= {"AP", "AP50", "AP75", "red square", "blue square"}
    (protocol,) = report["protocols"]
    assert protocol["annotations"].startswith("val.json sha256 ")
    assert "Protocol: val (val.json sha256 " in printed
    assert (output / "errors" / "index.html").is_file()
    assert json.loads((output / "inference" / "coco_instances_results.json").read_text())

    assert run(*words) == 2
    assert "this folder has files" in capsys.readouterr().err


def test_the_test_sets_of_a_config(base, tmp_path, capsys):
    cfg = LazyConfig.load(str(base / "config.yaml"))
    cfg.dataloader.test.dataset.count = 2
    cfg.train.output_dir = str(tmp_path / "elsewhere")
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    words = ("--config", tmp_path / "config.yaml", "--weights", base / "model.safetensors")
    assert run(*words, "--output", tmp_path / "results") == 0
    printed = capsys.readouterr().out
    report = json.loads((tmp_path / "results" / "evaluation.json").read_text())
    assert report.keys() >= {"bbox", "bbox_fixed"}
    assert "bbox_fixed" in printed
    assert f"Protocol: {report['protocols'][0]['dataset']}" in printed
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--val", "val.json"), "--val and --images go together"),
        (("--errors",), "--errors needs --val"),
        (("--val", "no.json", "--images", "."), "no.json"),
        (("--config", "coco_swin_t_zero_shop", "--weights", "x"), "did you mean"),
    ],
)
def test_a_mistake_is_reported(tmp_path, capsys, words, sentence):
    assert run(*words, "--output", tmp_path / "results") == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
    assert not (tmp_path / "results").exists()
