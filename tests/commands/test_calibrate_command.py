"""``detclip2 calibrate`` with a model whose detections are known."""

import json
from dataclasses import replace

import pytest
from PIL import Image

from detclip2.cli import main
from detclip2.commands import calibrate as command
from detclip2.inference.vocabulary import Vocabulary
from detclip2.modeling.thresholds import DetectionThresholds
from tests.helpers.color_model import draw_image

BOXES = {"red": (4, 4, 20, 20), "lime": (30, 4, 50, 20), "blue": (4, 30, 20, 50)}
RIGHT = {"red": 1.0, "lime": 0.5, "blue": 0.25}
"""The share of images in which a colour that is seen has a box."""
COUNT = 48


def content(names=BOXES, count=COUNT):
    """Every colour is in every image, and has a box in some."""
    names = list(names)
    annotations = [
        {"id": i, "image_id": number, "category_id": category, "bbox": [x1, y1, x2 - x1, y2 - y1]}
        for number in range(count)
        for category, name in enumerate(names)
        if number // 2 % (1 / RIGHT[name]) == 0
        for i, (x1, y1, x2, y2) in [(9 * number + category, BOXES[name])]
    ]
    images = [{"id": i, "file_name": f"{i}.png", "width": 80, "height": 60} for i in range(count)]
    categories = [{"id": i, "name": name} for i, name in enumerate(names)]
    return {"images": images, "annotations": annotations, "categories": categories}


@pytest.fixture
def calibrate(colors, tmp_path, monkeypatch, capsys):
    """Call the command on annotations: (exit code, stdout, stderr)."""
    monkeypatch.setattr(command, "load_predictor", lambda args: colors)
    image = Image.fromarray(draw_image(**BOXES))
    for number in range(COUNT):
        image.save(tmp_path / f"{number}.png", compress_level=0)

    def call(annotations, *words, labels=tuple(BOXES)):
        (tmp_path / "val.json").write_text(json.dumps(annotations))
        if not (tmp_path / "v.safetensors").exists():
            colors.encode(labels).save(tmp_path / "v.safetensors")
        files = {"--vocabulary": "v.safetensors", "--val": "val.json", "--images": ""}
        given = [part for key, name in files.items() for part in (key, str(tmp_path / name))]
        code = main(["calibrate", *given, *map(str, words)])
        return code, *capsys.readouterr()

    return call


def test_the_share_of_right_detections_becomes_the_score(calibrate, colors, tmp_path):
    code, out, err = calibrate(content())
    assert code == 0, err
    colors.set_vocabulary(tmp_path / "v.safetensors")
    found = colors(tmp_path / "0.png", score_threshold=0.01, thresholds=None)
    kept = dict(zip(found.labels, found.scores.tolist(), strict=True))
    assert kept["red"] == pytest.approx(1, abs=0.01)
    assert kept["lime"] == pytest.approx(0.5, abs=0.05)
    report = json.loads((tmp_path / "v.calibration.json").read_text())
    errors = report["expected_calibration_error"]
    # Of the model: red 1 (right), lime 1/2 (right), blue 1/3 of which 1/4 are.
    assert errors["before"] == pytest.approx((1 / 3 - 1 / 4) / 3, abs=1e-3)
    assert errors["after"] < 0.05
    rows = {row["label"]: row for row in report["labels"]}
    assert {name: row["boxes"] for name, row in rows.items()} == {"red": 48, "lime": 24, "blue": 12}
    assert {name: row["map"] for name, row in rows.items()} == {
        "red": "own", "lime": "own", "blue": "pooled",
    }  # fmt: skip
    assert report["all"]["boxes"] == 84
    assert report["annotations"][0].startswith("val.json sha256 ")
    assert Image.open(tmp_path / "v.calibration.png").width > 100
    assert f"expected calibration error: {errors['before']:.3f} before" in out
    assert {line.split()[0] for line in out.splitlines() if line.strip()} >= {"red", "lime", "all"}


def test_a_precision_drops_what_is_less_often_right(calibrate, colors, tmp_path):
    assert calibrate(content(), "--precision", 0.9)[0] == 0
    colors.set_vocabulary(tmp_path / "v.safetensors")
    assert colors(tmp_path / "0.png").labels == ["red"]
    code, _, _ = calibrate(content(), "--precision", 0.3, "--output", tmp_path / "w.safetensors")
    assert code == 0
    colors.set_vocabulary(tmp_path / "w.safetensors")
    assert colors(tmp_path / "0.png").labels[:2] == ["red", "lime"]
    report = json.loads((tmp_path / "w.calibration.json").read_text())
    assert report["precision_asked"] == 0.3
    assert report["all"]["precision"] >= 0.3


def test_labels_without_a_score_of_that_precision_are_listed(calibrate):
    annotations = content(["lime"])
    code, out, _ = calibrate(annotations, "--precision", 0.9, labels=["lime", "red"])
    assert code == 0
    assert "1 labels have no score from which on a share of 0.9 is right" in out
    assert "such as lime" in out
    assert "1 labels are not in --val, and get the pooled map, such as red" in out


def test_names_that_are_no_labels_are_skipped(calibrate, tmp_path):
    code, out, _ = calibrate(content(), labels=["lime", "red"])
    assert code == 0
    assert "1 names of --val are no labels, and skipped, such as blue" in out
    report = json.loads((tmp_path / "v.calibration.json").read_text())
    assert [row["label"] for row in report["labels"]] == ["lime", "red"]


def test_a_synonym_of_the_annotations_may_be_the_label(calibrate, tmp_path):
    annotations = content()
    annotations["categories"][0] |= {"name": "scarlet", "synonyms": ["Red"]}
    assert calibrate(annotations)[0] == 0
    report = json.loads((tmp_path / "v.calibration.json").read_text())
    assert [row["label"] for row in report["labels"]] == ["red", "lime", "blue"]


def test_unknown_names_are_no_wrong_detections(calibrate, tmp_path):
    annotations = content()
    boxed = {(box["image_id"], box["category_id"]) for box in annotations["annotations"]}
    for image in annotations["images"]:  # lime is unknown where it has no box
        absent = [] if (image["id"], 2) in boxed else [2]
        image["neg_category_ids"] = absent
    assert calibrate(annotations)[0] == 0
    report = json.loads((tmp_path / "v.calibration.json").read_text())
    assert {row["label"]: row["precision"] for row in report["labels"]}["lime"] == 1


def test_a_second_calibration_replaces_the_first(calibrate, tmp_path):
    assert calibrate(content(), "--precision", 0.9)[0] == 0
    first = Vocabulary.load(tmp_path / "v.safetensors")
    assert calibrate(content(), "--precision", 0.9)[0] == 0
    second = Vocabulary.load(tmp_path / "v.safetensors")
    assert second == first
    assert (second.calibration.maps == first.calibration.maps).all()


@pytest.mark.parametrize(
    ("annotations", "words", "sentence"),
    [
        (content(count=1), (), "there are 3 boxes of labels to calibrate by; at least 20"),
        (content() | {"categories": [{"id": i, "name": f"thing {i}"} for i in range(3)]}, (),
         "no name of --val (thing 0, thing 1, thing 2, ...) is a label of the vocabulary (red, "),
        (content(), ("--precision", "1.5"), "1.5 is not between 0 and 1"),
        (content(), ("--output", "v.json"), "v.json: a vocabulary's file name ends in"),
    ],
)  # fmt: skip
def test_a_mistake_is_reported(calibrate, tmp_path, annotations, words, sentence):
    try:
        code, _, err = calibrate(annotations, *words)
    except SystemExit as exit_of_parser:
        code, err = exit_of_parser.code, sentence
    assert code == 2
    assert sentence in err
    assert not (tmp_path / "v.calibration.json").exists()


def test_images_in_which_nothing_is_found(calibrate, tmp_path):
    for number in range(COUNT):
        Image.fromarray(draw_image()).save(tmp_path / f"{number}.png")
    code, _, err = calibrate(content())
    assert code == 2
    assert "there are 0 detections to calibrate by" in err
    assert Vocabulary.load(tmp_path / "v.safetensors").calibration is None


def test_a_model_that_reads_names_is_refused(calibrate, colors, tmp_path):
    colors.encode(list(BOXES)).save(tmp_path / "v.safetensors")
    colors.model.reads_names = True
    code, _, err = calibrate(content())
    assert code == 2
    assert "its scores depend on the other names" in err
    assert err.count("\n") == 1


def test_the_error_is_that_of_what_the_model_reports(calibrate, colors, tmp_path):
    """Without a threshold in the config the model's own counts, 0.5."""
    colors.settings = replace(colors.settings, thresholds=DetectionThresholds())
    assert calibrate(content())[0] == 0
    report = json.loads((tmp_path / "v.calibration.json").read_text())
    assert report["expected_calibration_error"]["model_scores_from"] == 0.5


def test_earlier_thresholds_take_no_part(calibrate, colors, tmp_path):
    encoded = colors.encode(list(BOXES))
    replace(encoded, thresholds=(1.0, 1.0, 1.0)).save(tmp_path / "v.safetensors")
    assert calibrate(content())[0] == 0
    report = json.loads((tmp_path / "v.calibration.json").read_text())
    assert report["all"]["kept"] > 60
