"""Experiments on real images, run on synthetic ones."""

import json
import random
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detclip2.utils.model_folder import SHIPPED
from projects.EmojiScenes.evidence.__main__ import main
from projects.EmojiScenes.evidence.photographs import chosen_images, joined, portable_path

pytestmark = pytest.mark.slow

EMOJI_NANO = SHIPPED["emoji_nano"]


def write_coco(folder, json_file, count, first=1, captions=None):
    """Images with one square each, in COCO's format; categories "cat" and "dog"."""
    rng = np.random.default_rng(first)
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    texts = {"images": content["images"], "annotations": []}
    for i in range(first, first + count):
        pixels = rng.integers(0, 255, (64, 80, 3), dtype=np.uint8)
        pixels[20:50, 10:40] = (255, 0, 0) if i % 2 else (0, 0, 255)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        content["images"].append({"id": i, "file_name": f"{i}.png", "height": 64, "width": 80})
        box = {"bbox": [10, 20, 30, 30], "area": 900, "iscrowd": 0}
        content["annotations"].append({"id": i, "image_id": i, "category_id": 1 + i % 2, **box})
        caption = f"a {'dog' if i % 2 else 'cat'} in the grass"
        texts["annotations"].append({"id": i, "image_id": i, "caption": caption})
    json_file.parent.mkdir(parents=True, exist_ok=True)
    json_file.write_text(json.dumps(content))
    if captions is not None:
        captions.write_text(json.dumps(texts))
    return content


def arguments(tmp_path, *others):
    return ["photos", *others, "--data", str(tmp_path / "data"), "--output", str(tmp_path / "out"),
            "--results", str(tmp_path / "results")]  # fmt: skip


def test_overfitting_uses_boxes_grounding_and_captions(tmp_path):
    data = tmp_path / "data" / "coco_open"
    for first, split in ((1, "train2017"), (11, "val2017")):
        notes = data / "annotations"
        files = notes / f"instances_{split}.json", notes / f"captions_{split}.json"
        write_coco(data / split, files[0], 3, first, files[1])
    settings = [
        "train.max_iter=4", "train.source_starts=null", "lr_multiplier.warmup_iterations=1",
        "train.source_ratios={detection:1,grounding:1,pairs:1}", "inference.min_size=64",
        *(f"dataloader.train.{source}.{key}" for source in ("detection", "grounding", "pairs")
          for key in ("total_batch_size=2", "num_workers=0")),
    ]  # fmt: skip
    command = arguments(tmp_path, "overfit", "--set", *settings)
    assert main(command) == 0
    file = tmp_path / "results" / "photos" / "overfit-seed0.json"
    record = json.loads(file.read_text())
    assert record["training_images"] == 6
    assert record["command"].endswith(f" overfit --set {shlex.join(settings)} --seed 0")
    assert 0 <= record["results"]["bbox"]["AP50"] <= 100
    grounding = json.loads((tmp_path / "out/photos/overfit-seed0/json/grounding.json").read_text())
    assert len(grounding["images"]) == len(grounding["annotations"]) == 6
    assert grounding["images"][0]["file_name"] == "train2017/1.png"


def test_blood_cells_from_few_images(tmp_path):
    data = tmp_path / "data" / "bccd"
    for part, first in (("train", 1), ("val", 21), ("test", 31)):
        write_coco(data / "images", data / f"{part}.json", 4, first)
    command = arguments(tmp_path, "bccd", "--images", "2", "--iterations", "2")
    assert main(command) == 0
    record = json.loads((tmp_path / "results/photos/bccd-scratch-2-seed0.json").read_text())
    assert record["training_images"] == 2
    assert record["label"] == "blood cells, from scratch"
    assert "--model" not in record["command"]
    assert 0 <= record["results"]["bbox"]["AP50"] <= 100
    model = tmp_path / "out/photos/scratch-seed0"
    assert main([*command, "--model", str(model), "--label", "my own"]) == 0
    record = json.loads((tmp_path / "results/photos/bccd-given-2-seed0.json").read_text())
    assert record["label"] == "blood cells, from my own"
    assert "--model scratch-seed0 --label 'my own' --seed" in record["command"]


def test_a_folder_of_the_project_has_a_relative_path():
    assert str(portable_path(EMOJI_NANO)) == "detclip2/resources/models/emoji_nano"
    assert str(portable_path(Path("/somewhere/else"))) == "else"


def test_files_of_two_folders_are_joined(tmp_path):
    parts = {
        name: write_coco(tmp_path / name, tmp_path / f"{name}.json", 2, first)
        for name, first in (("a", 1), ("b", 5))
    }
    whole = joined(parts)
    names = [image["file_name"] for image in whole["images"]]
    assert names == ["a/1.png", "a/2.png", "b/5.png", "b/6.png"]
    assert [one["image_id"] for one in whole["annotations"]] == [1, 2, 5, 6]
    assert whole["categories"] == parts["a"]["categories"]


def test_fewer_images_are_a_subset_of_more(tmp_path):
    content = write_coco(tmp_path, tmp_path / "x.json", 20)
    few, many = (chosen_images(content, number, 3) for number in (5, 10))
    ids = [{image["id"] for image in part["images"]} for part in (few, many)]
    assert ids[0] < ids[1]
    assert [len(part) for part in ids] == [5, 10]
    assert {one["image_id"] for one in few["annotations"]} == ids[0]
    random.Random(3).shuffle(content["images"])
    other = chosen_images(content, 5, 4)
    assert {image["id"] for image in other["images"]} != ids[0]


def test_missing_data_is_reported(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("DETCLIP2_TEST_DATA", raising=False)
    assert main(["photos", "overfit", "--output", str(tmp_path), "--results", str(tmp_path)]) == 2
    assert "--data" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["photos", "landscapes"])
