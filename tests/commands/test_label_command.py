"""``detclip2 label`` and ``corrected``, from images to files of other tools and back."""

import io
import json
import os
import stat
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import supervision as sv

from detclip2 import cli
from detclip2.commands import label as module
from detclip2.finetuning.coco_check import read_own_data
from detclip2.inference.predictor import OpenVocabularyPredictor
from detclip2.labelling import journal as journal_module
from tests.helpers.label_runs import color_predictor, true_boxes, write_images

NAMES = "red, lime, blue"


@pytest.fixture
def images(tmp_path):
    return write_images(tmp_path / "images")


@pytest.fixture
def label(tmp_path, monkeypatch, capsys, nano_folder):
    """Run `detclip2 label` with the detector of colours -> exit code, stdout, stderr."""
    output = tmp_path / "output"
    loaded = []

    def load(args, **settings):
        loaded.append(settings)
        return color_predictor()

    monkeypatch.setattr(module, "load_predictor", load)

    def run(*images, names=("--names", NAMES), more=(), output=output):
        argv = ["label", *images, *names, "--output", output, "--model", nano_folder, *more]
        try:
            code = cli.main([*map(str, argv)])
        except SystemExit as error:  # argparse
            code = error.code
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    run.output = output
    run.loaded = loaded
    return run


def boxes_by_file(output):
    content = json.loads((output / "coco.json").read_text())
    names = {one["id"]: one["file_name"] for one in content["images"]}
    labels = {one["id"]: one["name"] for one in content["categories"]}
    found = {name: {} for name in names.values()}
    for one in content["annotations"]:
        found[names[one["image_id"]]][labels[one["category_id"]]] = one["bbox"]
    return found


def expected(count=7, bad=(3,)):
    result = {}
    for i in set(range(count)) - set(bad):
        boxes = {("red", "lime", "blue")[c]: box for c, box in true_boxes(i).items()}
        result[f"{i:02d}.png"] = {
            name: [x1, y1, x2 - x1, y2 - y1] for name, (x1, y1, x2, y2) in boxes.items()
        }
    return result


def test_a_folder_to_all_formats(label, images):
    code, out, err = label(images, more=("--format", "coco,yolo,voc,labelme,labelstudio"))
    assert code == 0
    assert boxes_by_file(label.output) == expected()
    assert "6 images, 12 boxes; nothing in 0 images; 1 labels were not found" in out
    assert "skipped 1: the image file is missing, broken or no image" in out
    report = json.loads((label.output / "report.json").read_text())
    assert report["labels"]["blue"] == {"images": 6, "boxes": 6}
    assert report["labels"]["lime"] == {"images": 0, "boxes": 0}
    assert report["skipped"]["image-unreadable"]["images"] == 1
    assert "03.png" in report["skipped"]["image-unreadable"]["examples"][0]
    written = {path.name for path in label.output.iterdir()}
    assert written == {"plan.json", "images.jsonl", "journal", "report.json", "coco.json", "yolo",
                       "voc", "labelme", "labelstudio"}  # fmt: skip
    assert "7 of 7 images" in err
    (images / "03.png").unlink()
    yolo = label.output / "yolo"
    dataset = sv.DetectionDataset.from_yolo(
        str(images), str(yolo / "labels"), str(yolo / "data.yaml")
    )
    assert dataset.classes == ["red", "lime", "blue"]
    for path, found in dataset.annotations.items():
        truth = true_boxes(int(os.path.basename(path)[:2]))
        np.testing.assert_allclose(found.xyxy, [*truth.values()], atol=1e-3)


def test_a_repeated_command_writes_another_format_and_detects_nothing(label, images):
    assert label(images)[0] == 0
    before = (label.output / "coco.json").read_bytes()
    code, out, _ = label(images, more=("--format", "yolo,coco"))
    assert (code, "7 of 7 images are done already" in out) == (0, True)
    assert (label.output / "yolo" / "data.yaml").is_file()
    assert (label.output / "coco.json").read_bytes() == before


def test_parts_give_the_same_as_one_run(label, images, tmp_path):
    other = tmp_path / "other"
    label(images, output=other)
    for part in ("3/3", "1/3"):
        code, out, _ = label(images, more=("--part", part))
        assert code == 0
        assert "of other parts are left" in out
        assert not (label.output / "coco.json").exists()
    code, out, _ = label(images, more=("--part", "2/3"))
    assert "written: " in out
    for name in ("coco.json", "report.json", "plan.json", "images.jsonl"):
        assert (label.output / name).read_bytes() == (other / name).read_bytes()
    assert "--part 4/3" in label(images, more=("--part", "4/3"))[2]


def test_parts_that_differ_are_refused(label, images):
    assert label(images, more=("--part", "1/2"))[0] == 0
    for names, more, words in (
        ("red, lime", (), "had 3 names and has 2 (without 'blue')"),
        ("red, lime, green", (), "(without 'blue' and with 'green')"),
        (NAMES, ("--threshold", "blue=0.9"), "prompts or thresholds"),
        (NAMES, ("--tile", "64"), "tile was not set and is 64"),
    ):
        code, _, err = label(images, names=("--names", names), more=("--part", "2/2", *more))
        assert code == 2
        assert words in err
    (images / "new.png").write_bytes((images / "00.png").read_bytes())
    code, _, err = label(images, more=("--part", "2/2"))
    assert (code, "there were 7 images and are 8" in err) == (2, True)


def test_a_disk_that_fills_loses_nothing(label, images, monkeypatch):
    write, lines = os.write, [0]

    def fill(file, data):
        is_journal = stat.S_ISREG(os.fstat(file).st_mode)  # processes talk through pipes
        lines[0] += is_journal
        if is_journal and lines[0] > 3:
            raise OSError(28, "No space left on device")
        return write(file, data)

    monkeypatch.setattr(journal_module.os, "write", fill)
    code, _, err = label(images)
    assert code == 2
    [line] = [one for one in err.splitlines() if one.startswith("detclip2: ")]
    assert "No space left on device" in line
    assert "repeat the command to continue" in line
    monkeypatch.setattr(journal_module.os, "write", write)
    code, out, _ = label(images)
    assert (code, "3 of 7 images are done already" in out) == (0, True)
    assert boxes_by_file(label.output) == expected()


def test_an_interrupt_says_how_to_continue(label, images, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(journal_module.Journal, "add", interrupt)
    code, _, err = label(images)
    assert code == 2
    assert "0 of 7 images are done: repeat the command to continue" in err


def test_a_list_with_an_image_twice(label, images):
    (images / "list.txt").write_text("00.png\n01.png\n./00.png\nmissing.png\n00.png\n")
    code, out, _ = label(images / "list.txt")
    assert code == 0
    assert "2 images were listed more than once, and are done once" in out
    assert boxes_by_file(label.output).keys() == {"00.png", "01.png"}
    assert "missing.png: this image does not exist" in out


def test_tars_folders_in_depth_and_what_is_passed_over(label, images, tmp_path):
    deep = write_images(tmp_path / "tree" / "a" / "b", 2, ())
    (tmp_path / "tree" / "x.mp4").touch()
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        for path in sorted(images.iterdir()):
            content = path.read_bytes()
            info = tarfile.TarInfo(f"d/{path.name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    code, _, err = label(tmp_path / "tree")
    assert code == 0
    assert {*boxes_by_file(label.output)} == {"a/b/00.png", "a/b/01.png"}
    assert "1 video(s): `detclip2 predict` reads them" in err
    code, _, _ = label(tmp_path / "t.tar", output=tmp_path / "of_tar")
    assert code == 0
    found = boxes_by_file(tmp_path / "of_tar")
    assert found == {f"t.tar/d/{name}": boxes for name, boxes in expected().items()}
    code, _, err = label(deep, tmp_path / "none.tar", output=tmp_path / "not_begun")
    assert (code, "none.tar: cannot be read" in err) == (2, True)
    assert not (tmp_path / "not_begun" / "plan.json").exists()


def test_thresholds_of_names(label, images):
    assert label(images, more=("--threshold", "blue=0.4", "--threshold", "red=0"))[0] == 0
    assert all(boxes.keys() == {"red"} for boxes in boxes_by_file(label.output).values())
    code, _, err = label(images, more=("--threshold", "owl=0.4"))
    assert (code, "owl=0.4: this name is not in the vocabulary" in err) == (2, True)
    for bad in ("2", "red=x", "red=-1"):
        assert label(images, more=(f"--threshold={bad}",))[0] == 2
    assert "twice" in label(images, more=("--threshold", "0.1", "--score-threshold", "0.2"))[2]


def test_mistakes_are_one_sentence(label, images, tmp_path):
    for more, words in (
        (("--format", "coco,xml"), "'xml' is not one of"),
        (("--ray", "local", "--part", "1/2"), "give no --part"),
        (("--devices", "cpu,cpu", "--device", "cpu"), "give one of"),
    ):
        code, _, err = label(images, more=more)
        assert (code, words in err) == (2, True), err
    (tmp_path / "empty").mkdir()
    assert "no image or video in this folder" in label(tmp_path / "empty")[2]
    assert "this folder has files" in label(images, output=images)[2]


def test_corrected_labels_are_data_to_train_on(label, images, tmp_path, capsys):
    label(images)
    content = json.loads((label.output / "coco.json").read_text())
    first, second = content["images"][0]["id"], content["images"][1]["id"]
    # What a person did: of the first image the blue box is none; of the second red was enlarged.
    kept = [a for a in content["annotations"] if (a["image_id"], a["category_id"]) != (first, 3)]
    for one in kept:
        if (one["image_id"], one["category_id"]) == (second, 1):
            one["bbox"][2] += 9
    for image in content["images"]:
        del image["exhaustive_for"]  # tools drop what they do not know
    (tmp_path / "export.json").write_text(json.dumps({**content, "annotations": kept}))
    argv = ["corrected", tmp_path / "export.json", "--labels", label.output]
    argv += ["--output", tmp_path / "train.json"]
    assert cli.main([*map(str, argv)]) == 0
    out = capsys.readouterr().out
    assert "2 reviewed images with 3 boxes; in them 1 names were found and removed" in out
    assert "4 images were not reviewed" in out
    data = read_own_data(tmp_path / "train.json", images)
    assert [image["file_name"] for image in data.images] == ["00.png", "01.png"]
    assert data.names == ["red", "blue"]
    # Without a list of negatives, what is neither boxed nor partial is negative: blue in the first.
    assert [image.get("neg_category_ids") for image in data.images] == [None, None]
    assert [image["not_exhaustive_category_ids"] for image in data.images] == [[0], [0, 1]]
    argv += ["--reviewed", "all", "--complete", "all"]
    assert cli.main([*map(str, argv)]) == 0
    data = read_own_data(tmp_path / "train.json", images)
    assert len(data.images) == 6
    assert data.names == ["red", "lime", "blue"]
    assert all("neg_category_ids" not in image for image in data.images), "all is known"


def test_labels_as_they_are_teach_no_background(label, images):
    label(images)
    (images / "03.png").unlink()
    data = read_own_data(label.output / "coco.json", images)
    assert [image["neg_category_ids"] for image in data.images] == [[]] * 6
    assert [image["not_exhaustive_category_ids"] for image in data.images] == [[0, 2]] * 6


def test_the_model_that_ships_on_real_images(tmp_path, test_data, capsys):
    source = sorted((test_data / "coco_open").rglob("*.jpg"))[:2]
    (tmp_path / "list.txt").write_text("\n".join(map(str, source)))
    argv = ["label", tmp_path / "list.txt", "--names", "person, dog, car", "--output"]
    argv += [tmp_path / "out", "--device", "cpu", "--threshold", "0.2"]
    assert cli.main([*map(str, argv)]) == 0
    predictor = OpenVocabularyPredictor("photo_nano", device="cpu", score_threshold=0.2)
    content = json.loads((tmp_path / "out" / "coco.json").read_text())
    scores = {image["file_name"]: [] for image in content["images"]}
    names = {image["id"]: image["file_name"] for image in content["images"]}
    for one in content["annotations"]:
        scores[names[one["image_id"]]].append(one["score"])
    for path in source:
        found = predictor(path, vocabulary=["person", "dog", "car"])
        np.testing.assert_allclose(scores[str(path)], found.scores.numpy(), rtol=1e-5)


@pytest.mark.processes
def test_two_processes_and_one_give_the_same(images, tmp_path, nano_folder):
    def run(output, *more):
        argv = [sys.executable, "-m", "detclip2.cli", "label", images, "--names", NAMES]
        argv += ["--model", nano_folder, "--output", output, "--threshold", "0.001", *more]
        return subprocess.run([*map(str, argv)], capture_output=True, text=True, check=False)

    one, two = tmp_path / "one", tmp_path / "two"
    done = run(one, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    done = run(two, "--devices", "cpu,cpu")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (two / "journal").iterdir()} == {
        "part-1-of-2.jsonl", "part-2-of-2.jsonl"
    }  # fmt: skip
    contents = [json.loads((folder / "coco.json").read_text()) for folder in (one, two)]
    assert contents[0]["images"] == contents[1]["images"]
    first, second = (content["annotations"] for content in contents)
    assert len(first) == len(second) > 0
    np.testing.assert_allclose([a["score"] for a in first], [a["score"] for a in second], rtol=1e-5)
