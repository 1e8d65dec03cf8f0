"""Runs: each image once, whatever stops them; parts, plans and lists."""

import os
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from PIL import Image

from detclip2.data.io.image_item import ImageItem
from detclip2.inference.calibration import GRID, Calibration
from detclip2.inference.vocabulary import Vocabulary
from detclip2.labelling.detector import Detector, entry
from detclip2.labelling.image_list import ImageList, write_image_list
from detclip2.labelling.journal import FOLDER
from detclip2.labelling.part import Part
from detclip2.labelling.plan import prepare, read_plan, vocabulary_identity
from detclip2.labelling.progress import Progress
from detclip2.labelling.run import label_part, remaining
from detclip2.utils.errors import UserError
from tests.helpers import label_runs
from tests.helpers.label_runs import LABELS, begin, check, found, make_detector, write_images

ALL = Part(0, 1)


@pytest.fixture
def images(tmp_path):
    return write_images(tmp_path / "images")


@pytest.fixture
def output(tmp_path):
    return tmp_path / "output"


def test_every_image_has_its_boxes_or_a_reason(images, output):
    begin(output, images)
    steps = []
    label_part(output, ALL, make_detector, advance=steps.append)
    entries = found(output, 7)
    check(entries)
    assert "03.png" in entries[3]["reason"]
    assert sum(steps) == 7


def test_parts_and_another_number_of_parts(images, output):
    begin(output, images)
    label_part(output, Part(1, 3), make_detector)
    assert [one["image"] for one in found(output, 7)] == [1, 4]
    assert remaining(output, Part(1, 3)).tolist() == []
    assert remaining(output, Part(1, 2)).tolist() == [3, 5]
    label_part(output, Part(1, 2), make_detector)
    label_part(output, ALL, make_detector)
    check(found(output, 7))
    numbers = [
        line for path in (output / FOLDER).iterdir() for line in path.read_text().splitlines()
    ]
    assert len(numbers) == 7


def test_a_finished_part_needs_no_model(images, output):
    begin(output, images)
    label_part(output, ALL, make_detector)
    label_part(output, ALL, lambda: pytest.fail("the model is loaded"))


KILLED = """
import os, signal, sys
from pathlib import Path
from detclip2.labelling.part import Part
from detclip2.labelling.run import label_part
from tests.helpers.label_runs import make_detector

def kill(number):
    global left
    left -= number
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

for _ in range(4):  # forks of a process without threads
    left, child = 2, os.fork()
    if child == 0:
        label_part(Path(sys.argv[1]), Part(0, 1), make_detector, advance=kill)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.processes
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_run_that_is_killed_goes_on_where_it_was(images, output):
    begin(output, images)
    command = [sys.executable, "-c", KILLED, str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=250)
    assert done.stdout.split() == ["-9", "-9", "-9", "0"]
    check(found(output, 7))
    journal = output / FOLDER / ALL.journal
    assert len(journal.read_text().splitlines()) == 7, "an image is done twice"


def test_images_are_read_ahead_in_threads_and_few_are_in_memory(images, output, monkeypatch):
    begin(output, images)
    threads, alive, most = set(), set(), []
    read = ImageItem.read

    class Pixels(np.ndarray):
        def __del__(self):
            alive.discard(id(self))

    def note(item):
        threads.add(threading.current_thread().name)
        pixels = read(item).view(Pixels)
        alive.add(id(pixels))
        most.append(len(alive))
        return pixels

    monkeypatch.setattr(ImageItem, "read", note)
    label_part(output, ALL, make_detector)
    assert threading.current_thread().name not in threads
    assert max(most) <= 2 * 2 + 2


def test_skipped_images_are_tried_again_on_demand(images, output):
    begin(output, images)
    label_part(output, ALL, make_detector)
    Image.fromarray(label_runs.draw_image(60, 80, red=(3, 5, 12, 20), blue=(30, 30, 50, 41))).save(
        images / "03.png"
    )
    label_part(output, ALL, make_detector)
    assert "skipped" in found(output, 7)[3]
    label_part(output, ALL, make_detector, retry_skipped=True)
    check(found(output, 7), bad=())


def test_drawn_images(images, output):
    begin(output, images)
    label_part(output, ALL, make_detector)
    assert not (output / "drawn").exists()
    begin(other := output.with_name("other"), images)
    label_part(other, ALL, lambda: make_detector(drawn=other / "drawn"))
    drawn = sorted(path.name for path in (other / "drawn").iterdir())
    assert drawn == [f"0{i}.{i}.jpg" for i in (0, 1, 2, 4, 5, 6)]


def test_a_run_that_differs_is_refused_with_what_differs(images, output):
    plan = begin(output, images)
    assert plan == begin(output, images)
    with pytest.raises(UserError, match="had 3 names and has 2 \\(without 'lime'\\)"):
        begin(output, images, ("red", "blue"))
    with pytest.raises(UserError, match="in another order"):
        begin(output, images, ("lime", "red", "blue"))
    items = [ImageItem(path.name, str(path)) for path in sorted(images.iterdir())]
    for key, value, words in (
        ("settings", {"score_threshold": 0.2}, "score_threshold was 0.1 and is 0.2"),
        ("settings", {"score_threshold": 0.1, "tile": 64}, "tile was not set and is 64"),
        ("model", "other", "the model was m and is other"),
        ("vocabulary", "w", "other embeddings, prompts or thresholds"),
    ):
        with pytest.raises(UserError, match=words):
            prepare(output, items, {**label_runs.plan(), key: value})
    with pytest.raises(UserError, match="there were 7 images and are 6"):
        prepare(output, items[:6], label_runs.plan())
    with pytest.raises(UserError, match="in another order"):
        prepare(output, items[::-1], label_runs.plan())
    assert read_plan(output) == plan
    assert len(ImageList(output / "images.jsonl")) == 7
    assert not [path for path in output.iterdir() if path.name.startswith(".")]
    (output / "images.jsonl").write_text("[]")
    with pytest.raises(UserError, match="is not the list that this run began with"):
        begin(output, images)


def test_folders_that_are_no_run(tmp_path, images):
    with pytest.raises(UserError, match="this folder has files"):
        begin(images, images)
    with pytest.raises(UserError, match="there are no images"):
        prepare(tmp_path / "x", [], label_runs.plan())
    with pytest.raises(UserError, match="there is no run"):
        read_plan(tmp_path / "x")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be used"):
        begin(tmp_path / "file", images)
    (tmp_path / "x" / "plan.json").write_text('{"format": "detclip2-labels-0"}')
    with pytest.raises(UserError, match="another version"):
        read_plan(tmp_path / "x")
    (tmp_path / "x" / "plan.json").write_text('{"format"')
    with pytest.raises(UserError, match="is damaged"):
        read_plan(tmp_path / "x")


def test_the_same_image_twice_is_one(tmp_path):
    folder = write_images(tmp_path / "images", 3, ())
    a, b = (ImageItem(n, str(folder / n)) for n in ("00.png", "01.png"))
    again = ImageItem("x", str(folder / "." / "00.png"))
    members = [ImageItem("t/a", "t.tar", offset, 9) for offset in (512, 1024, 512)]
    urls = [ImageItem(u, u) for u in ("http://h/a", "http://h/a?b", "http://h/a")]
    path = tmp_path / "list"
    repeated, _ = write_image_list(path, [a, b, again, *members, *urls, b])
    listed = ImageList(path)
    assert repeated == 4
    assert [one.name for one in listed] == [
        "00.png",
        "01.png",
        "t/a",
        "t/a",
        *(u.name for u in urls[:2]),
    ]
    assert listed[0].path == str(folder / "00.png")
    assert listed[2] == ImageItem("t/a", os.path.abspath("t.tar"), 512, 9)


def test_names_that_are_not_utf_8_in_a_list(tmp_path):
    name = os.fsdecode(b"caf\xe9\n.png")
    write_image_list(tmp_path / "list", [ImageItem(name, name)])
    assert ImageList(tmp_path / "list")[0] == ImageItem(name, os.path.abspath(name))


def test_numbers_come_back_exactly():
    generator = torch.Generator().manual_seed(0)
    boxes = torch.rand(200, 4, generator=generator) * 5000
    scores = torch.rand(200, generator=generator)
    instances = Instances(
        (9, 9), pred_boxes=Boxes(boxes), scores=scores, pred_classes=torch.arange(200)
    )
    one = entry(0, ImageItem("a", "a"), instances)
    assert torch.equal(torch.tensor(one["boxes"], dtype=torch.float32), boxes)
    assert torch.equal(torch.tensor(one["scores"], dtype=torch.float32), scores)
    assert max(map(len, map(str, one["scores"]))) < 14, "no more digits than float32 has"


def calibrated(vocabulary, last, labels=11):
    """With a calibration of so many labels, the last of whose maps ends at a value."""
    maps = np.tile(GRID.astype(np.float32) / 2, (labels, 1))
    maps[-1, -1] = last
    return replace(vocabulary, calibration=Calibration(maps, tuple(range(len(vocabulary)))))


def test_a_calibrated_vocabulary_labels_as_it_predicts(images, output):
    """The model's own threshold is none of calibrated scores."""
    predictor = label_runs.color_predictor()
    predictor.settings = replace(
        predictor.settings, thresholds=replace(predictor.thresholds, score_threshold=0.3)
    )
    vocabulary = calibrated(predictor.encode(list(LABELS)), 0.5)
    vocabulary = replace(vocabulary, thresholds=(0.1, 0.1, 0.1))
    begin(output, images)
    for asked, labels in (({}, [0, 2]), ({"score_threshold": 0.2}, [0])):
        settings = replace(label_runs.settings(), vocabulary=vocabulary, settings=asked)
        detector = Detector(predictor, settings)
        [one] = detector.entries([(0, ImageItem("0", str(images / "00.png")))])
        direct = predictor(images / "00.png", vocabulary=vocabulary, **asked)
        assert one["classes"] == direct.pred_classes.tolist() == labels
        assert one["scores"] == pytest.approx(direct.scores.tolist())


def test_the_identity_of_a_vocabulary_is_that_of_all_of_it():
    vocabularies = [
        Vocabulary.from_names(list(LABELS)),
        Vocabulary.from_names(list(LABELS), templates=["a {}"]),
        Vocabulary.from_names(list(LABELS)).with_thresholds({"red": 0.5}),
        Vocabulary.from_names(list(LABELS)).encode(lambda phrases: torch.eye(len(phrases))),
        Vocabulary.from_names(list(LABELS)).encode(lambda phrases: -torch.eye(len(phrases))),
        calibrated(Vocabulary.from_names(list(LABELS)), 0.5),
        calibrated(Vocabulary.from_names(list(LABELS)), 0.6),
    ]
    assert len({*map(vocabulary_identity, vocabularies)}) == len(vocabularies)
    assert vocabulary_identity(vocabularies[0]) == vocabulary_identity(
        Vocabulary.from_names(list(LABELS))
    )


def test_progress(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr("detclip2.labelling.progress.time.monotonic", lambda: now[0])
    progress = Progress(1000, 200)
    with progress.shown():
        for _ in range(400):
            now[0] += 0.5
            progress.advance(1)
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == "600 of 1,000 images, 2.0 images/s, 0:03:20 left"
    assert len(lines) == 5
