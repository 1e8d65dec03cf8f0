"""The commands of docs/calibration.md, run as printed, and its numbers."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from detclip2 import cli
from tests.helpers.own_data import own_content, write_own_data

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "calibration.md").read_text(encoding="utf-8")


def test_the_commands_of_the_page(sensitive_model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DETCLIP2_MODEL", str(sensitive_model))
    (tmp_path / "names.txt").write_text("red square\nblue square\nwhale\n")
    path = write_own_data(tmp_path / "images", own_content(count=12), "val.json")
    shutil.move(path, tmp_path / "val.json")
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "photo.jpg")
    commands = re.findall(r"^    detclip2 (.+)$", PAGE, re.MULTILINE)
    assert [command.split()[0] for command in commands] == ["vocabulary", "calibrate", "predict"]
    for command in commands:
        assert cli.main(command.split()) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    assert "expected calibration error: " in out
    assert "found with calibrated scores from " in out
    files = {file.name for file in tmp_path.iterdir()}
    assert files >= {"names.calibration.json", "names.calibration.png", "found"}


def test_the_numbers_of_the_page_are_those_of_the_json():
    results = json.loads((DOCS / "calibration.json").read_text(encoding="utf-8"))
    assert results["command"] in PAGE
    for key in ("calibrated_on_all_names", "calibrated_on_base_names"):
        for name, row in results[key].items():
            cells = [
                f"{row['detections']:,}",
                *(f"{row[k]:.3f}" for k in ("error_before", "error_after")),
                *(f"{100 * row[k]:.0f} %" for k in ("precision", "recall")),
            ]
            assert f"| {name} | {' | '.join(cells)} |" in PAGE
    moved = results["names"]
    for name in ("emoji_nano", "GLIP"):
        row = moved[name]
        numbers = [f"{row[k]:.3f}" for k in ("mean_score", "mean_change", "largest_change")]
        assert f"| {row['pairs']} | {' | '.join(numbers)} |" in PAGE
    assert results["calibrated_on_all_names"]["all"]["error_after"] <= 0.05
