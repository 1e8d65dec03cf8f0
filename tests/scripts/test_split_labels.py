import json

import pytest

from detclip2.data.io.coco_json import read_coco_json
from detclip2.utils.errors import UserError
from scripts.split_labels import main, split_labels
from tests.helpers import toy_coco


def test_each_part_has_its_images_and_the_boxes_of_its_names():
    content = toy_coco.content(num_images=9)
    first, second = split_labels(content, [["eel"], ["fish", "crab"]])
    assert len(first["images"]) == 5
    ids = [{image["id"] for image in part["images"]} for part in (first, second)]
    assert not ids[0] & ids[1]
    assert ids[0] | ids[1] == {image["id"] for image in content["images"]}
    for part, names, images in ((first, {8}, ids[0]), (second, {3, 7}, ids[1])):
        assert {category["id"] for category in part["categories"]} == names
        assert part["annotations"] == [
            one
            for one in content["annotations"]
            if one["image_id"] in images and one["category_id"] in names
        ]
    assert split_labels(content, [["eel"], ["fish", "crab"]]) == [first, second]
    assert split_labels(content, [["eel"], ["fish", "crab"]], seed=1) != [first, second]
    with pytest.raises(UserError, match="no category 'shark'"):
        split_labels(content, [["shark"]])


def test_the_command_writes_the_parts(tmp_path, capsys):
    content = toy_coco.content()
    path = tmp_path / "train.json"
    path.write_text(json.dumps(content))
    words = ["--names", "fish", "--names", "crab", "eel", "--output", str(tmp_path / "parts")]
    assert main([str(path), *words]) == 0
    assert "boxes of crab, eel" in capsys.readouterr().out
    parts = [read_coco_json(tmp_path / "parts" / f"part{i}.json") for i in (1, 2)]
    assert parts == split_labels(content, [["fish"], ["crab", "eel"]])
    assert main([str(path), "--names", "cod", "--output", str(tmp_path)]) == 2
    assert "no category 'cod'" in capsys.readouterr().err
