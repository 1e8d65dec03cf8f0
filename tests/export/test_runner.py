"""The runner: the predictor's detections without PyTorch."""

import configparser
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.helper import set_model_props
from packaging.requirements import Requirement
from PIL import Image
from safetensors.numpy import load_file, save_file

from detclip2.cli import main
from detclip2.export import Runner, write_onnx, write_openvino
from detclip2.export.graph import info_of
from detclip2.export.info import GraphInfo
from detclip2.export.runner import prepared
from detclip2.inference import predictor
from detclip2.inference.calibration import GRID, Calibration
from detclip2.inference.vocabulary import Vocabulary
from detclip2.utils.errors import UserError
from tests.helpers.exported import image_of

ROOT = Path(__file__).parents[2]


def picture(height, width):
    """(H, W, 3) uint8."""
    side = 4 * (max(height, width) // 4 + 1)
    pixels = image_of(side, side)[0].transpose(1, 2, 0).astype(np.uint8)
    return np.ascontiguousarray(pixels[:height, :width])


@pytest.fixture(scope="module")
def names(nano_predictor, tmp_path_factory):
    """A vocabulary file for the nano model."""
    path = tmp_path_factory.mktemp("names") / "names.safetensors"
    nano_predictor.encode(["red apple", "fire engine"]).save(path)
    return path


def assert_same(found, expected):
    assert len(found) == len(expected) > 0
    assert found.image_size == expected.image_size
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
    # Detections of almost equal scores may change places.
    assert sorted(found.labels) == sorted(expected.labels)
    boxes, classes = expected.pred_boxes.tensor.numpy(), expected.pred_classes.numpy()
    for box, number in zip(found.boxes, found.classes, strict=True):
        assert np.abs(boxes[classes == number] - box).max(axis=1).min() < 0.05


def by_pillow(image, size):
    """`resize` as the runner does it, without PyTorch."""
    return np.array(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))


@pytest.mark.parametrize("size", [(70, 70), (60, 200), (333, 80), (1, 50)])
def test_equal_to_the_predictor(free_graph, tiny_predictor, size, monkeypatch):
    """Of the same pixels; resizing itself differs by one grey level, and seldom by two."""
    image = picture(*size)
    runner = Runner(free_graph, threads=1)
    found = runner(image)
    pixels, (height, width) = prepared(image, runner.info)
    resized = tiny_predictor.resized(image)
    difference = np.abs(resized.numpy().astype(int) - pixels[0, :, :height, :width])
    assert difference.max() <= 2
    assert (difference > 1).mean() < 1e-3
    expected = tiny_predictor(image)
    np.testing.assert_allclose(found.scores, expected.scores, atol=2e-3)
    monkeypatch.setattr(predictor, "resize", by_pillow)
    assert_same(found, tiny_predictor(image))
    assert {"пёс", "bat"} & {*found.labels}
    assert [label for label, _, _ in found] == found.labels


def test_settings_replace_those_of_the_file(free_graph, tiny_predictor):
    image = picture(64, 96)
    settings = {"score_threshold": 0.2, "max_detections": 5, "class_agnostic_nms": True}
    runner = Runner(free_graph, threads=1, **settings, nms_threshold=None)
    assert_same(runner(image), tiny_predictor(image, **settings))
    assert runner.info.nms_threshold == 0.6


def test_the_vocabulary_is_an_input(nano_graph, names, nano_predictor):
    image = picture(96, 128)
    found = Runner(nano_graph, names, threads=1, max_detections=30)(image)
    nano_predictor.set_vocabulary(names)
    assert_same(found, nano_predictor(image, max_detections=30))


def test_openvino_gives_the_same(free_graph, tmp_path):
    pytest.importorskip("openvino")
    write_openvino(onnx.load(free_graph), tmp_path / "out" / "free.xml")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"free.xml", "free.bin"}
    image = picture(70, 120)
    expected = Runner(free_graph, threads=1)(image)
    runner = Runner(tmp_path / "out" / "free.xml", threads=1)
    assert runner.labels == ("red apple", "пёс", "bat")
    found = runner(image)
    assert found.labels == expected.labels
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=0.05)


def test_missing_runtimes_are_named(free_graph, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"free.onnx: .* pip install 'detclip2\[runner\]'"):
        Runner(free_graph)
    with pytest.raises(UserError, match=r"pip install 'detclip2\[openvino\]'"):
        write_openvino(onnx.ModelProto(), tmp_path / "x.xml")
    (tmp_path / "x.xml").write_text("")
    with pytest.raises(UserError, match=r"pip install 'detclip2\[openvino\]'"):
        Runner(tmp_path / "x.xml")


def changed(path, target, **change):
    """A copy of a vocabulary file with other arrays or metadata."""
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        metadata = file.metadata()
    arrays = load_file(path)
    for key, value in change.items():
        (arrays if key in arrays else metadata)[key] = value
    save_file(arrays, target, metadata)
    return target


def test_vocabularies_that_do_not_fit(nano_graph, free_graph, names, tmp_path):
    with pytest.raises(UserError, match="the vocabulary is an input of this graph: give one"):
        Runner(nano_graph)
    with pytest.raises(UserError, match="folded into this graph, so it takes no other"):
        Runner(free_graph, names)
    other = changed(names, tmp_path / "a.safetensors", encoder="another")
    with pytest.raises(UserError, match=r"made by the text encoder 'another' and .* expects"):
        Runner(nano_graph, other)
    probe = np.eye(128, dtype=np.float32)[0]
    with pytest.raises(UserError, match="with other weights"):
        Runner(nano_graph, changed(names, tmp_path / "b.safetensors", probe=probe))
    narrow = {"embeddings": np.eye(2, 64, dtype=np.float32), "probe": probe[:64], "width": "64"}
    with pytest.raises(UserError, match=r"64 wide and those of .* are 128"):
        Runner(nano_graph, changed(names, tmp_path / "c.safetensors", **narrow))
    with pytest.raises(UserError, match="no such vocabulary file"):
        Runner(nano_graph, tmp_path / "none.safetensors")


def test_thresholds_come_with_the_vocabulary(nano_graph, names, tmp_path):
    image = picture(96, 128)
    everything = Runner(nano_graph, names, threads=1)(image)
    assert {*everything.labels} == {"red apple", "fire engine"}
    vocabulary = Vocabulary.load(names).with_thresholds({"red apple": 1.0})
    vocabulary.save(tmp_path / "v.safetensors")
    found = Runner(nano_graph, tmp_path / "v.safetensors", threads=1)(image)
    assert {*found.labels} == {"fire engine"}


def test_graphs_that_cannot_be_run(nano_graph, tmp_path):
    with pytest.raises(UserError, match=r"none.onnx: there is no such graph file"):
        Runner(tmp_path / "none.onnx")
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(nano_graph.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"damaged.onnx: ONNX Runtime cannot load this graph"):
        Runner(damaged)
    graph = onnx.load(nano_graph)
    del graph.metadata_props[:]
    set_model_props(graph, {"author": "somebody"})
    write_onnx(graph, tmp_path / "other.onnx")
    with pytest.raises(UserError, match="it has no metadata of detclip2"):
        Runner(tmp_path / "other.onnx")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"score_treshold": 0.1}, "no setting 'score_treshold'; there are score_threshold"),
        ({"nms_threshold": 1.5}, "nms_threshold is 1.5; expected a number from 0 to 1"),
        ({"max_detections": 0}, "max_detections is 0; expected at least 1"),
    ],
)
def test_settings_out_of_range(free_graph, settings, message):
    with pytest.raises(UserError, match=message):
        Runner(free_graph, **settings)


def test_the_command_prints_and_writes_json(free_graph, tmp_path, capsys):
    Image.fromarray(picture(64, 96)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"")
    files = [str(tmp_path / name) for name in ("b.png", "a.png")]
    arguments = ["run", str(free_graph), *files, "--threads", "1"]
    assert main([*arguments, "--json"]) == 2  # one file is broken
    out, err = capsys.readouterr()
    assert "b.png: this image is empty" in err
    (record,) = map(json.loads, out.splitlines())
    found = Runner(free_graph, threads=1)(tmp_path / "a.png")
    assert (record["height"], record["width"]) == (64, 96)
    assert [row["label"] for row in record["detections"]] == found.labels
    x, y, width, height = record["detections"][0]["bbox"]
    assert [x, y, x + width, y + height] == pytest.approx(found.boxes[0].tolist())
    assert main([*arguments, "--score-threshold", "1"]) == 2
    assert "a.png: 0 found" in capsys.readouterr().out


def blocked_modules():
    """The packages of setup.cfg that the extra `runner` does not have, and a name for each."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")

    def names(text):
        lines = (line.strip() for line in text.splitlines())
        return {Requirement(line).name for line in lines if line and not line.startswith("#")}

    extras = config["options.extras_require"]
    others = names(config["options"]["install_requires"]) | names(extras["export"])
    others -= names(extras["runner"])
    assert {"torch", "transformers", "onnx"} <= others
    modules = {"opencv-python-headless": "cv2", "hydra-core": "hydra", "PyYAML": "yaml"}
    return sorted({"detectron2", *(modules.get(name, name) for name in others)})


RUN = """
import sys
for name in sys.argv.pop().split(","):
    sys.modules[name] = None  # importing it fails
from detclip2.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.processes
def test_a_process_needs_only_the_packages_of_its_extra(nano_graph, names, tmp_path):
    Image.fromarray(picture(96, 128)).save(tmp_path / "a.png")
    arguments = [nano_graph, tmp_path / "a.png", "--vocabulary", names, "--json"]
    done = subprocess.run(
        [sys.executable, "-c", RUN, "run", *map(str, arguments), ",".join(blocked_modules())],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": str(tmp_path / "home")},
    )
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "home").exists()  # where ONNX Runtime notes what it reports to its maker
    detections = json.loads(done.stdout)["detections"]
    found = Runner(nano_graph, names, threads=1)(tmp_path / "a.png")
    assert len(detections) == len(found) > 0
    scores = [row["score"] for row in detections]
    np.testing.assert_allclose(scores, found.scores, atol=1e-5)


@pytest.mark.parametrize("settings", [{}, {"score_threshold": 0.2}, {"score_threshold": 0.0}])
@pytest.mark.parametrize("thresholds", [None, (0.16, 0.1)])
def test_calibrated_scores_equal_those_of_the_predictor(
    nano_graph, names, nano_predictor, tmp_path, settings, thresholds
):
    maps = np.stack([GRID, GRID**2, np.minimum(3 * GRID, 1)]).astype(np.float32)
    calibrated = replace(
        Vocabulary.load(names), calibration=Calibration(maps, (1, 2)), thresholds=thresholds
    )
    calibrated.save(tmp_path / "calibrated.safetensors")
    image = picture(96, 128)
    runner = Runner(nano_graph, tmp_path / "calibrated.safetensors", threads=1, **settings)
    nano_predictor.set_vocabulary(calibrated)
    expected = nano_predictor(image, **settings)
    assert_same(runner(image), expected)
    assert (np.diff(runner(image).scores) <= 0).all()
    folded = info_of(nano_predictor, calibrated, None)
    again = GraphInfo.from_properties(folded.properties(), "graph")
    assert again == folded
    np.testing.assert_array_equal(again.calibration.maps, maps)


def test_a_graph_from_before_calibrations_is_read(nano_predictor):
    info = info_of(nano_predictor, None, None)
    old = {key: text for key, text in info.properties().items() if "map" not in key}
    assert GraphInfo.from_properties(old, "graph") == info
    del old["detclip2.encoder"]
    with pytest.raises(UserError, match="damaged"):
        GraphInfo.from_properties(old, "graph")
