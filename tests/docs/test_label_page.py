"""The commands of docs/label.md and docs/scale.md, run as a reader would."""

import json
import re
import shutil
from pathlib import Path

import pytest
from detectron2.config import LazyConfig
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

from detclip2 import cli
from tests.helpers.label_runs import write_images

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def folder(tmp_path, monkeypatch, nano_folder, nano_config):
    """The reader's working directory, with a model, images, a list, and what a person did."""
    model = tmp_path / "model"
    model.mkdir()
    monkeypatch.setenv("DETCLIP2_MODEL", str(model))
    cfg = OmegaConf.create(nano_config, flags={"allow_objects": True})
    cfg.inference = {"min_size": 64, "max_size": 96, "batch_size": 4, "score_threshold": 0.2}
    LazyConfig.save(cfg, str(model / "config.yaml"))
    weights = load_file(nano_folder / "model.safetensors")
    weights["align.bias"] += 4  # so that the untrained model finds something
    save_file(weights, model / "model.safetensors")
    write_images(tmp_path / "images", 3, ())
    (tmp_path / "list.txt").write_text("images/00.png\nimages/02.png\n")
    (tmp_path / "names.txt").write_text("person\ncar\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def commands(page):
    for block in re.findall(r"```sh\n(.*?)```", (DOCS / page).read_text(), re.DOTALL):
        for line in block.replace("\\\n", "").splitlines():
            command, *arguments = re.findall(r'"[^"]*"|\S+', line)
            assert command == "detclip2"
            yield [argument.strip('"') for argument in arguments]


def test_the_commands_of_the_page(folder, monkeypatch):
    from detclip2.labelling import run as module

    def in_this_process(output, part, settings, devices, *more):
        for small, device in zip(part.split(len(devices)), devices, strict=True):
            module.label_part(output, small, lambda device=device: settings.build(device), *more)

    monkeypatch.setattr(module, "label_on_devices", in_this_process)
    for arguments in commands("label.md"):
        if "corrected" in arguments and not Path("export.json").exists():
            content = json.loads(Path("labels/coco.json").read_text())
            content["annotations"] = content["annotations"][1:]
            Path("export.json").write_text(json.dumps(content))
        assert cli.main(arguments) == 0
    labels = {path.name for path in Path("labels").iterdir()}
    assert {"coco.json", "yolo", "voc", "labelme", "labelstudio"} <= labels
    for name in ("two", "parts"):
        ours, theirs = (json.loads(Path(f, "coco.json").read_text()) for f in (name, "labels"))
        assert len(ours["annotations"]) == len(theirs["annotations"]) > 0
    assert json.loads(Path("train.json").read_text())["images"]


def test_the_commands_of_scale(folder, capsys):
    for arguments in commands("scale.md"):
        assert cli.main(arguments) == 0
    out = capsys.readouterr().out
    assert "images: 2,000,000, measured on 3 of 3" in out
    assert "16 processes: " in out
    shutil.rmtree(folder / "images")
    assert cli.main(["plan", "--label", "images", "--gpus", "1"]) == 2
