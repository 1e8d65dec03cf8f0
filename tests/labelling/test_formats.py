"""Formats, each read back by a program that is not ours."""

import json
import os
from xml.etree import ElementTree

import numpy as np
import pytest
import supervision as sv
import yaml
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detclip2.data.io.image_item import ImageItem
from detclip2.labelling import formats as module
from detclip2.labelling.formats import FORMATS, write_formats
from detclip2.labelling.names import FileNames
from detclip2.utils.errors import UserError

LABELS = ("red apple", "no", "1.0", "りんご, <&\"'> ", "a: b", "hot\tdog")
NAMES = ("a.jpg", "sub/b.png", "sub/deep/c.d.jpg", "empty.png")


def entries():
    """Of images of 640 x 480, with odd numbers."""
    generator = np.random.default_rng(0)
    for number, name in enumerate(NAMES):
        count = 0 if name == "empty.png" else 5
        corners = generator.random((count, 2, 2)).astype(np.float32)
        boxes = np.concatenate([corners.min(1), corners.max(1)], 1) * [640, 480, 640, 480]
        yield {
            "image": number,
            "file_name": name,
            "height": 480,
            "width": 640,
            "boxes": boxes.astype(np.float32).astype(str).astype(float).tolist(),
            "scores": generator.random(count).round(4).tolist(),
            "classes": [number, 1, 2, 3, 4][:count],
        }
    skip = {"skipped": "image-unreadable", "file_name": "bad.png", "reason": "..."}
    yield {"image": len(NAMES), **skip}


ITEMS = [ImageItem(name, f"/images/{name}") for name in (*NAMES, "bad.png")]


@pytest.fixture
def write(tmp_path):
    def write(name, labels=LABELS, of=entries, items=ITEMS):
        one = FORMATS[name](tmp_path, labels, "detclip2, a test")
        one.check()
        write_formats([one], of, items)
        return tmp_path

    return write


@pytest.fixture
def images(tmp_path):
    """The images in one folder, as supervision wants them."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name in NAMES:
        Image.new("RGB", (640, 480)).save(folder / name.rpartition("/")[2])
    return folder


def compare(dataset, atol):
    """Compare a data set of supervision with the entries."""
    truth = {os.path.basename(one["file_name"]): one for one in entries() if "boxes" in one}
    assert {os.path.basename(path) for path in dataset.image_paths} == set(truth)
    for path, detections in dataset.annotations.items():
        one = truth[os.path.basename(path)]
        expected = np.array(one["boxes"]).reshape(-1, 4)
        np.testing.assert_allclose(detections.xyxy.reshape(-1, 4), expected, atol=atol)
        if len(expected):
            assert [dataset.classes[c] for c in detections.class_id] == [
                LABELS[c] for c in one["classes"]
            ]


def flat(folder, suffix):
    """The files of a tree in one folder."""
    target = folder.with_name(f"{folder.name}-flat")
    target.mkdir()
    for path in folder.rglob(f"*{suffix}"):
        path.rename(target / path.name)
    return target


def test_coco_by_supervision(write, images):
    path = write("coco") / "coco.json"
    content = json.loads(path.read_text("utf-8"))
    for image in content["images"]:
        image["file_name"] = os.path.basename(image["file_name"])
    path.write_text(json.dumps(content))
    compare(sv.DetectionDataset.from_coco(str(images), str(path)), 1e-3)


def test_coco_by_pycocotools(write, capsys):
    path = write("coco") / "coco.json"
    coco = COCO(str(path))
    assert [one["file_name"] for one in coco.loadImgs(coco.getImgIds())] == list(NAMES)
    assert [one["name"] for one in coco.loadCats(coco.getCatIds())] == list(LABELS)
    assert min(coco.getCatIds()) == 1
    assert all(one["exhaustive_for"] == [] for one in coco.imgs.values())
    results = coco.loadRes(json.loads(path.read_text("utf-8"))["annotations"])
    evaluation = COCOeval(coco, results, "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1), "scores and boxes are those of one detector"
    scores = [score for one in entries() for score in one.get("scores", ())]
    assert [one["score"] for one in coco.loadAnns(coco.getAnnIds())] == scores


def test_yolo_by_supervision(write, images):
    folder = write("yolo") / "yolo"
    assert (folder / "labels" / "sub" / "deep" / "c.d.txt").is_file()
    assert yaml.safe_load((folder / "data.yaml").read_text("utf-8")) == {
        "nc": len(LABELS),
        "names": dict(enumerate(LABELS)),
    }
    scores = [float(v) for v in (folder / "scores" / "sub" / "b.txt").read_text().split()]
    assert scores == [*entries()][1]["scores"]
    labels = flat(folder / "labels", ".txt")
    dataset = sv.DetectionDataset.from_yolo(str(images), str(labels), str(folder / "data.yaml"))
    compare(dataset, 1e-3)


def test_voc_by_supervision(write, images):
    folder = write("voc") / "voc"
    root = ElementTree.parse(folder / "a.xml").getroot()
    assert root.findtext("filename") == "a.jpg"
    assert [float(e.text) for e in root.iter("score")] == next(entries())["scores"]
    dataset = sv.DetectionDataset.from_pascal_voc(str(images), str(flat(folder, ".xml")))
    compare(dataset, 2e-3)


def test_labelme_by_supervision(write, images):
    folder = write("labelme") / "labelme"
    content = json.loads((folder / "sub" / "b.json").read_text("utf-8"))
    assert content["imagePath"] == "b.png"
    assert [shape["score"] for shape in content["shapes"]] == [*entries()][1]["scores"]
    dataset = sv.DetectionDataset.from_labelme(str(images), str(flat(folder, ".json")))
    compare(dataset, 1e-3)


def test_label_studio_by_its_definition(write, monkeypatch):
    monkeypatch.setattr(module, "TASKS_OF_A_FILE", 3)
    folder = write("labelstudio") / "labelstudio"
    files = sorted(folder.glob("tasks-*.json"))
    assert [path.name for path in files] == ["tasks-0001.json", "tasks-0002.json"]
    tasks = [task for path in files for task in json.loads(path.read_text("utf-8"))]
    view = ElementTree.parse(folder / "interface.xml").getroot()
    [image], [control] = view.findall("Image"), view.findall("RectangleLabels")
    assert image.get("value") == "$image"
    assert [label.get("value") for label in control] == list(LABELS)
    for task, one in zip(tasks, entries(), strict=False):
        assert task["data"]["file_name"] == one["file_name"]
        assert task["data"]["image"] == f"/data/local-files/?d={one['file_name']}"
        [prediction] = task["predictions"]
        for region, box, score, label in zip(
            prediction["result"], one["boxes"], one["scores"], one["classes"], strict=True
        ):
            assert region["from_name"] == control.get("name")
            assert region["to_name"] == image.get("name") == control.get("toName")
            assert region["type"] == control.tag.lower()
            value = region["value"]
            assert value["rectanglelabels"] == [LABELS[label]]
            assert region["score"] == score
            x, y = (value[k] / 100 * n for k, n in (("x", 640), ("y", 480)))
            w, h = (value[k] / 100 * n for k, n in (("width", 640), ("height", 480)))
            np.testing.assert_allclose([x, y, x + w, y + h], box, atol=2e-3)
    assert len(tasks) == len(NAMES)
    assert "score" not in tasks[3]["predictions"][0]


def test_a_label_that_xml_cannot_hold_is_refused_before(tmp_path):
    with pytest.raises(UserError, match=r"--format voc: xml cannot hold the label 'a\\x0bb'"):
        FORMATS["voc"](tmp_path, ["a\x0bb"], "").check()


def one_entry(number, name):
    return {**next(entries()), "image": number, "file_name": name}


def test_images_that_differ_in_their_suffix_have_files_of_their_own(write, tmp_path):
    names = ("a.jpg", "a.png", "b.jpg", "a.webp")
    items = [ImageItem(name, name) for name in names]
    of = [one_entry(i, name) for i, name in enumerate(names)]
    folder = write("yolo", of=lambda: iter(of), items=items) / "yolo" / "labels"
    assert {path.name for path in folder.iterdir()} == {"a.txt", "a.1.txt", "b.txt", "a.3.txt"}
    one = FORMATS["labelme"](tmp_path, LABELS, "")
    assert write_formats([one], lambda: iter(of), items) == ["a.png", "a.webp"]


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("../../x.jpg", "x.txt"),
        ("/abs/x.jpg", "abs/x.txt"),
        ("a/../../x.jpg", "a/x.txt"),
        ("..\\..\\x.jpg", "x.txt"),
        ("C:\\x\\y.jpg", "C_/x/y.txt"),
        ("t.tar/../x.jpg", "t.tar/x.txt"),
        ("http://h:80/a/../b.jpg?c=/../d", "h_80/a/b.txt"),
        ("http://h/", "h.txt"),
        (".hidden", ".hidden.txt"),
        ("..", "image.txt"),
        ("what?.jpg", "what?.txt"),
        ("noname", "noname.txt"),
    ],
)
def test_no_name_leads_out_of_the_folder(name, path):
    assert str(FileNames.path_of(name, ".txt")) == path


def test_a_name_that_is_not_utf_8(write):
    name = os.fsdecode(b"caf\xe9\x01.png")
    of = [one_entry(0, name)]
    for one in FORMATS:
        folder = write(one, of=lambda: iter(of), items=[ImageItem(name, name)])
    assert len(json.loads((folder / "coco.json").read_text())["images"]) == 1
    assert ElementTree.parse(next((folder / "voc").iterdir())).findtext("filename")


@pytest.mark.parametrize("name", FORMATS)
def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch, name):
    def fill(*_):
        raise OSError(28, "No space left on device")

    one = FORMATS[name](tmp_path, LABELS, "")
    monkeypatch.setattr(module.Path, "replace", fill)
    with pytest.raises(UserError, match="No space left on device"):
        write_formats([one], entries, ITEMS)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_run_without_images(write):
    for name in FORMATS:
        folder = write(name, of=lambda: iter(()), items=[])
    assert json.loads((folder / "coco.json").read_text())["annotations"] == []
