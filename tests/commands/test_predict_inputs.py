"""What `detclip2 predict` takes beside image files, and how it detects in them."""

import csv
import functools
import http.server
import json
import threading
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from detclip2 import cli
from detclip2.commands import detection_arguments
from detclip2.commands import predict as module
from detclip2.commands.detection_arguments import with_thresholds
from detclip2.inference.calibration import GRID, Calibration
from detclip2.inference.vocabulary import Vocabulary
from detclip2.modeling.thresholds import DetectionThresholds
from tests.helpers.color_model import draw_image
from tests.helpers.label_runs import color_predictor
from tests.helpers.videos import write


@pytest.fixture
def predict(tmp_path, monkeypatch, capsys, nano_folder):
    """Run `detclip2 predict` with the detector of colours -> exit code, rows of its csv, stderr."""
    given = {}

    def load(args, **settings):
        given.update(settings)
        return color_predictor()

    monkeypatch.setattr(module, "load_predictor", load)

    def run(*files, names=("--names", "red, lime, blue"), more=()):
        results = tmp_path / "found.csv"
        results.unlink(missing_ok=True)
        argv = ["predict", *files, *names, "--output", tmp_path / "out", "--results", results]
        code = cli.main([*map(str, [*argv, "--model", nano_folder, *more])])
        rows = list(csv.DictReader(results.open(newline=""))) if results.exists() else []
        return code, rows, capsys.readouterr().err

    run.given = given
    return run


@pytest.fixture
def large(tmp_path):
    """A large image with small things."""
    image = draw_image(600, 800, red=(11, 13, 17, 19), blue=(701, 503, 709, 511))
    Image.fromarray(image).save(tmp_path / "large.png")
    return tmp_path / "large.png"


def test_tiles_find_what_is_small(predict, large):
    assert predict(large)[1] == []
    code, rows, _ = predict(large, more=("--tile", "80"))
    assert code == 0
    boxes = {row["label"]: [float(row[k]) for k in ("x1", "y1", "x2", "y2")] for row in rows}
    assert boxes == {
        "red": pytest.approx([11, 13, 17, 19], abs=1.5),  # tiles are resized
        "blue": pytest.approx([701, 503, 709, 511], abs=1.5),
    }


def test_an_address_and_one_that_is_not_there(predict, large, tmp_path, monkeypatch):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    Image.fromarray(draw_image(60, 80, red=(3, 5, 12, 20))).save(tmp_path / "x.png")
    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        root = f"http://127.0.0.1:{server.server_port}"
        code, rows, err = predict(f"{root}/x.png?size=1", f"{root}/no.png")
        server.shutdown()
    assert code == 2
    assert [(row["file_name"], row["label"]) for row in rows] == [(f"{root}/x.png?size=1", "red")]
    assert "no.png: the server answers 404" in err
    assert (tmp_path / "out" / "x.detections.png").is_file()


@pytest.fixture
def clip(tmp_path):
    """A red square that moves to the right, and a blue one that stays."""
    frames = [
        draw_image(60, 80, red=(3 * i, 4, 3 * i + 20, 24), blue=(30, 40, 50, 56)) for i in range(8)
    ]
    path = tmp_path / "clip.mkv"
    return write(path, frames, codec="ffv1", pixels="bgr0")


def asked(score_threshold=None):
    """A predictor whose config has a threshold of 0.4."""
    return SimpleNamespace(
        asked=DetectionThresholds(score_threshold=score_threshold),
        effective_thresholds=DetectionThresholds(score_threshold=score_threshold or 0.4),
    )


def vocabulary_of(calibrated, **thresholds):
    names = Vocabulary.from_names(["cat", "dog"])
    curves = Calibration(np.stack([GRID, GRID]).astype(np.float32), (0, 1))
    names = replace(names, calibration=curves) if calibrated else names
    return names.with_thresholds(thresholds) if thresholds else names


@pytest.mark.parametrize(
    ("calibrated", "common", "thresholds", "changed"),
    [
        (False, None, (0.9, 0.4), 0.4),
        (False, 0.2, (0.9, 0.2), 0.2),
        (True, None, (0.9, 0.06), 0.06),
        (True, 0.2, (0.9, 0.2), 0.2),
    ],
)
def test_the_threshold_of_a_name_leaves_the_others(calibrated, common, thresholds, changed):
    """The config's threshold is not one of calibrated scores."""
    own = vocabulary_of(calibrated, dog=0.06)
    found, settings = with_thresholds(asked(common), own, [("cat", 0.9)])
    assert found.thresholds == thresholds
    assert settings == {"score_threshold": changed}


def test_tracks_begin_at_the_threshold_of_what_is_reported():
    def least(vocabulary, common=None):
        return module._least_score(SimpleNamespace(**vars(asked(common)), vocabulary=vocabulary))

    assert least(None) == least(vocabulary_of(False, dog=0.06)) == 0.4
    assert least(vocabulary_of(True, cat=0.3, dog=0.06)) == 0.06
    assert least(vocabulary_of(True, dog=0.06), 0.2) == 0.2
    assert least(vocabulary_of(True)) is None


def test_tracks(predict, clip, tmp_path):
    pytest.importorskip("trackers", reason="the extra track is not installed")
    code, rows, _ = predict(clip, more=("--track", "--json", "--score-threshold", "0.2"))
    assert code == 0
    tracks = {label: [r["track"] for r in rows if r["label"] == label] for label in ("red", "blue")}
    assert tracks["red"][0] == tracks["blue"][0] == ""
    assert {*tracks["red"][1:]} == {"0"}
    assert {*tracks["blue"][1:]} == {"1"}
    content = json.loads((tmp_path / "out" / "clip.detections.mp4.json").read_text())
    assert [one.get("track") for one in content["frames"][5]["detections"]] == [0, 1]
    assert predict(clip)[1][3]["track"] == ""


def test_a_camera_until_a_number_of_frames(predict, clip, tmp_path, monkeypatch):
    import av

    really = av.open

    def fake(where, *more, format=None, **others):
        is_camera = format == "v4l2"
        others = {"timeout": (5, 5)} if is_camera else {**others, "format": format}
        return really(str(clip) if is_camera else where, *more, **others)

    monkeypatch.setattr(av, "open", fake)
    monkeypatch.setattr("detclip2.data.io.live_video.sys.platform", "linux")
    code, rows, _ = predict("camera:0", more=("--max-frames", "3", "--json"))
    assert code == 0
    assert {row["frame"] for row in rows} == {"0", "1", "2"}
    assert (tmp_path / "out" / "camera_0.detections.mp4").is_file()


def test_thresholds_of_names_and_everything(predict, large, tmp_path, monkeypatch):
    Image.fromarray(draw_image(60, 80, red=(3, 5, 12, 20), blue=(30, 30, 50, 41))).save(
        tmp_path / "x.png"
    )
    assert len(predict(tmp_path / "x.png")[1]) == 2
    rows = predict(tmp_path / "x.png", more=("--threshold", "blue=0.34"))[1]
    assert [row["label"] for row in rows] == ["red"]
    rows = predict(tmp_path / "x.png", more=("--threshold", "blue=0.05"))[1]
    assert len(rows) == 2
    code, _, err = predict(
        tmp_path / "x.png", names=("--caption", "a red dog"), more=("--threshold", "dog=0.1")
    )
    assert (code, "does not go with --caption" in err) == (2, True)
    monkeypatch.setattr(detection_arguments, "EVERYTHING", "coco")
    assert predict(tmp_path / "x.png", names=("--everything",))[0] == 0
    assert predict.given["class_agnostic_nms"] is True
