"""ODinW on real images: parts of Aquarium's and BCCD's test sets, in GLIP's layout."""

import json
import math

import pytest
import torch
from detectron2.structures import Boxes, Instances
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detclip2 import cli
from detclip2.data.datasets.odinw import odinw_sets
from detclip2.evaluation.odinw import OdinwSettings, evaluate_odinw, found_sets, mean_of
from detclip2.utils.errors import UserError

SOURCES = {
    "Aquarium": ("aquarium_test/annotations.json", "aquarium_test/images", 4),
    "BCCD": ("bccd/val.json", "bccd/images", 3),
}


@pytest.fixture
def root(test_data, tmp_path):
    """A folder of ODinW with the first images of the two sets, as their split "test"."""
    root = tmp_path / "odinw"
    for one in odinw_sets(35, list(SOURCES)):
        json_file, images, count = SOURCES[one.name]
        content = json.loads((test_data / json_file).read_text())
        content["images"] = content["images"][:count]
        kept = {image["id"] for image in content["images"]}
        content["annotations"] = [b for b in content["annotations"] if b["image_id"] in kept]
        path = one.annotations(root, "test")
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(content))
        for image in content["images"]:
            (path.parent / image["file_name"]).symlink_to(test_data / images / image["file_name"])
    return root


def oracle(one, root):
    """Detections of most true boxes, in the classes of `one`, matched by name, not by id."""
    content = json.loads(one.annotations(root, "test").read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}

    def detect(paths, prompts):
        assert prompts == one.prompts(35)
        for path, image in zip(paths, content["images"], strict=True):
            assert path.is_file()
            boxes = [b for b in content["annotations"] if b["image_id"] == image["id"]]
            corners = torch.tensor([b["bbox"] for b in boxes]).reshape(-1, 4).float()
            corners[:, 2:] += corners[:, :2]
            classes = [one.classes.index(names[b["category_id"]]) for b in boxes]
            shift = torch.arange(len(boxes))[:, None] % 7  # some are too far away
            yield Instances(
                (image["height"], image["width"]),
                pred_boxes=Boxes(corners + shift),
                scores=torch.arange(len(boxes)) / (len(boxes) + 1),
                pred_classes=torch.tensor(classes, dtype=torch.int64),
            )

    return detect


def ap_of_files(annotations, results):
    """COCO's numbers, by pycocotools, from two files."""
    coco = COCO(str(annotations))
    evaluation = COCOeval(coco, coco.loadRes(str(results)), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return dict(zip(("AP", "AP50", "AP75"), 100 * evaluation.stats[:3], strict=True))


@pytest.mark.parametrize("name", SOURCES)
def test_ap_equals_pycocotools_on_the_files(root, tmp_path, name):
    """The ids of BCCD's file are in another order than the classes of ODinW."""
    (one,) = odinw_sets(35, [name])
    settings = OdinwSettings(root, 35, "test")
    result = evaluate_odinw(one, settings, oracle(one, root), tmp_path / "out")
    expected = ap_of_files(one.annotations(root, "test"), tmp_path / "out" / f"{name}.json")
    assert 10 < expected["AP"] < 99
    assert {metric: result[metric] for metric in expected} == pytest.approx(expected)
    assert result["images"] == SOURCES[name][2]
    assert set(result["classes"]) == set(one.classes)
    of_classes = [ap for ap in result["classes"].values() if not math.isnan(ap)]
    assert sum(of_classes) / len(of_classes) == pytest.approx(result["AP"])


def test_the_mean_is_over_the_measured_sets():
    nan = math.nan
    metrics = dict.fromkeys(("AP", "AP50", "AP75", "APs", "APm", "APl"), 0.0)
    results = {"a": {**metrics, "AP": 10.0, "APs": nan}, "b": {**metrics, "AP": 40.0, "APs": 6.0}}
    assert mean_of(results)["AP"] == 25
    assert mean_of(results)["APs"] == 6
    assert math.isnan(mean_of({"a": {**metrics, "AP": nan}})["AP"])


def run(root, nano_folder, output, *options):
    arguments = ["odinw", root, "--split", "test", "--model", nano_folder, "--device", "cpu"]
    arguments += ["--output", output, "--score-threshold", "0", *options]
    return cli.main([str(argument) for argument in arguments])


def test_the_command_measures_present_sets_and_names_missing_ones(
    root, nano_folder, tmp_path, capsys
):
    output = tmp_path / "out"
    assert run(root, nano_folder, output, "--benchmark", "35") == 0
    shown = capsys.readouterr().out
    assert "mean over 2 of the 35 data sets" in shown
    (not_found,) = (line for line in shown.splitlines() if line.startswith("not found: "))
    assert len(not_found.split(", ")) == 33
    (protocol,) = (line for line in shown.splitlines() if line.startswith("Protocol: "))
    assert "ODinW-35 test" in protocol
    assert "prompts: names, asked data set by data set: 10 names (" in protocol
    assert protocol.count("text encoder") == 1
    assert shown.count("sha256") == 2

    summary = json.loads((output / "odinw.json").read_text())
    assert (summary["mean_over"], summary["of"], len(summary["not_found"])) == (2, 35, 33)
    assert set(summary["sets"]) == {"Aquarium", "BCCD"}
    for one in odinw_sets(35, list(SOURCES)):
        found = json.loads((output / f"{one.name}.json").read_text())
        assert found
        assert max(map(len, _by_image(found).values())) <= 100
        expected = ap_of_files(one.annotations(root, "test"), output / f"{one.name}.json")
        measured = summary["sets"][one.name]
        assert {metric: measured[metric] for metric in expected} == pytest.approx(expected)
    mean = sum(of_set["AP"] for of_set in summary["sets"].values()) / 2
    assert summary["mean"]["AP"] == pytest.approx(mean)


def _by_image(found):
    images = {}
    for detection in found:
        images.setdefault(detection["image_id"], []).append(detection)
    return images


def test_unselected_sets_are_named_too(root, nano_folder, tmp_path, capsys):
    options = ["--sets", "Aquarium", "--prompts", "written"]
    assert run(root, nano_folder, tmp_path / "out", *options) == 0
    shown = capsys.readouterr().out
    assert "mean over 1 of the 13 data sets" in shown
    assert "not asked for: AerialMaritimeDrone_large, " in shown
    assert "puffin with orange beaks" in shown
    summary = json.loads((tmp_path / "out" / "odinw.json").read_text())
    assert (summary["not_found"], len(summary["not_asked_for"])) == ([], 12)


def test_mistakes_are_one_sentence(root, nano_folder, tmp_path, capsys):
    output = tmp_path / "out"

    def sentence(folder, *options):
        assert run(folder, nano_folder, output, *options) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert not list(output.glob("*"))
        return line

    assert "none of the 13 data sets is in this folder" in sentence(tmp_path / "elsewhere")
    assert "did you mean 'Aquarium'" in sentence(root, "--sets", "Aquariums")
    (aquarium,) = odinw_sets(13, ["Aquarium"])
    path = aquarium.annotations(root, "test")
    content = json.loads(path.read_text())
    next(path.parent.glob("*.jpg")).unlink()
    assert ".jpg: this image does not exist" in sentence(root)
    path.write_text(json.dumps({**content, "images": [{"id": 1}], "annotations": []}))
    assert "has no key 'file_name'" in sentence(root)
    path.write_text(json.dumps({**content, "images": []}))
    assert "no images" in sentence(root)


def test_scores_must_be_numbers(root, tmp_path):
    (one,) = odinw_sets(35, ["BCCD"])
    detect = oracle(one, root)

    def broken(paths, prompts):
        for instances in detect(paths, prompts):
            instances.scores[0] = math.nan
            yield instances

    with pytest.raises(UserError, match="not a finite number"):
        evaluate_odinw(one, OdinwSettings(root, 35, "test"), broken, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_empty_folder_is_reported_with_the_expected_layout(tmp_path):
    sets = odinw_sets(13)
    with pytest.raises(UserError, match="annotations_without_background"):
        found_sets(sets, OdinwSettings(tmp_path))
