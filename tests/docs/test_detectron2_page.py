"""The scripts of docs/detectron2.md, on the Detectron2 that is installed."""

import json
import runpy
import subprocess
import sys

import detectron2
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import DefaultPredictor

from detclip2 import OpenVocabularyPredictor
from detclip2.data.io.image import read_image
from detclip2.modeling.yacs import add_detclip_config
from detclip2.utils.model_folder import read_model_folder
from detclip2.utils.weights import read_weights
from tests.helpers.own_data import own_content, write_own_data
from tests.helpers.pages import blocks, write_files

PAGE = "docs/detectron2.md"
IS_STAND_IN = "subset" in detectron2.__version__


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The reader's folder with all files of the page; 2 iterations in place of 200."""
    for name in ("train", "val"):
        path = write_own_data(tmp_path / "images", own_content(4), f"{name}.json")
        path.rename(tmp_path / f"{name}.json")
    write_files(PAGE, tmp_path, "python", "yaml")
    nano = (tmp_path / "nano.yaml").read_text()
    (tmp_path / "nano.yaml").write_text(nano.replace("MAX_ITER: 200", "MAX_ITER: 2"))
    loop = (tmp_path / "own_loop.py").read_text()
    (tmp_path / "own_loop.py").write_text(loop.replace("max_iter=20", "max_iter=2"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("own_sets", None)
    for name in ("own_train", "own_val"):
        DatasetCatalog.pop(name, None)
        MetadataCatalog.pop(name, None)


def test_the_page_has_these_files():
    files = {title for kind in ("python", "yaml") for title, _ in blocks(PAGE, kind)}
    own = {"own_sets.py", "nano.yaml", "train_yacs.py", "lazy_config.py", "own_loop.py", "draw.py"}
    assert files == own


@pytest.mark.slow
@pytest.mark.processes
def test_yacs_in_a_script_of_its_own(folder):
    """In a new process: nothing is registered but by the script's own imports."""
    done = subprocess.run(
        [sys.executable, "train_yacs.py"], capture_output=True, text=True, cwd=folder
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip().splitlines()[-1].startswith("[")
    assert (folder / "output" / "yacs" / "model_final.pth").is_file()
    metrics = (folder / "output" / "yacs" / "metrics.json").read_text().splitlines()
    assert {"bbox/AP", "total_loss"} <= set().union(*map(json.loads, metrics))


def test_the_settings_of_the_page_are_those_of_emoji_nano(folder):
    """`DefaultPredictor` and `OpenVocabularyPredictor` give the same detections."""
    names = ["red apple", "fire engine"]
    cfg = get_cfg()
    add_detclip_config(cfg)
    cfg.merge_from_file("nano.yaml")
    assert ("cuda" if torch.cuda.is_available() else "cpu") == cfg.MODEL.DEVICE
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = str(folder / "start.pth")
    torch.save({"model": read_weights(read_model_folder("emoji_nano")[1])}, cfg.MODEL.WEIGHTS)
    cfg.MODEL.DETCLIP.VOCABULARY = names
    image = read_image("images/1.png")
    theirs = DefaultPredictor(cfg)(image[:, :, ::-1])["instances"]
    predictor = OpenVocabularyPredictor("emoji_nano", device="cpu")
    predictor.settings = type(predictor.settings)(160, 320)
    ours = predictor(image, vocabulary=names, score_threshold=0.05)
    assert len(ours) == len(theirs) > 0
    torch.testing.assert_close(ours.scores, theirs.scores, atol=0, rtol=1e-6)


def test_an_own_loop_and_evaluators(folder, capsys):
    runpy.run_path("own_loop.py", run_name="__main__")
    assert float(capsys.readouterr().out.strip().splitlines()[-1]) >= 0
    assert (folder / "output" / "loop" / "coco_instances_results.json").is_file()


def test_the_real_visualizer(folder):
    if IS_STAND_IN:
        with pytest.raises(ImportError, match="install"):
            runpy.run_path("draw.py", run_name="__main__")
    else:
        runpy.run_path("draw.py", run_name="__main__")
        assert (folder / "drawn.png").is_file()
