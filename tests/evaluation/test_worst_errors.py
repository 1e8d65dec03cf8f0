import json
import math
import re

import numpy as np
from PIL import ImageColor

from detclip2.evaluation.worst_errors import (
    FOUND,
    MISSED,
    ImageErrors,
    draw_errors,
    errors_of,
    write_worst_errors,
)
from tests.helpers.own_data import own_content, write_own_data


def detection(image_id, category_id, bbox, score):
    return {"image_id": image_id, "category_id": category_id, "bbox": bbox, "score": score}


RED, BLUE = [4, 8, 20, 24], [34, 8, 20, 24]


def test_counts_of_matches_and_errors_by_hand():
    content = own_content(count=3)
    detections = [
        detection(1, 1, RED, 0.9),
        detection(1, 1, RED, 0.8),  # a duplicate
        detection(1, 2, BLUE, 0.2),  # below the threshold
        detection(2, 1, RED, 0.9),
        detection(2, 2, BLUE, 0.9),
        detection(3, 2, RED, 0.7),  # a wrong name
    ]
    errors = errors_of(content, detections, 0.3)
    assert [one.image["id"] for one in errors] == [3, 1, 2]
    counts = [(len(one.found), len(one.missed), len(one.wrong)) for one in errors]
    assert counts == [(0, 2, 1), (1, 1, 1), (2, 0, 0)]
    assert [round(one.weight, 3) for one in errors] == [2.7, 1.8, 0.0]


def test_a_crowd_is_neither_a_miss_nor_a_false_positive():
    content = own_content(count=1)
    content["annotations"][0]["iscrowd"] = 1
    (errors,) = errors_of(content, [detection(1, 1, [6, 10, 10, 10], 0.9)], 0.3)
    assert (len(errors.found), len(errors.missed), len(errors.wrong)) == (0, 1, 0)


def test_the_page_shows_the_images_with_errors(tmp_path):
    content = own_content(count=3)
    content["images"][0]["file_name"] = "<a>&.png"
    path = write_own_data(tmp_path / "data", content)
    found = [detection(i, k, box, 0.9) for i in (2, 3) for k, box in ((1, RED), (2, BLUE))]
    (tmp_path / "found.json").write_text(json.dumps(found))
    page = write_worst_errors(path, tmp_path / "found.json", path.parent, tmp_path / "errors")
    files = sorted(p.name for p in page.parent.iterdir())
    assert files == ["01.jpg", "detections.json", "index.html"]
    text = page.read_text()
    caption = "&lt;a&gt;&amp;.png: 0 found, 2 missed, 0 wrong"
    assert f'alt="{caption}"><figcaption>{caption}</figcaption>' in text
    assert "2.png" not in text


def cells(page):
    return [re.findall(r"<td>(.*?)</td>", row) for row in re.findall(r"<tr>(<td>.*?)</tr>", page)]


def test_the_page_has_a_summary_by_category(tmp_path):
    path = write_own_data(tmp_path / "data", own_content(count=2))
    found = [detection(1, 1, RED, 0.9), detection(1, 2, RED, 0.8), detection(2, 2, BLUE, 0.7)]
    (tmp_path / "found.json").write_text(json.dumps(found))
    ap = {"AP": 50.04, "AP-red square": math.nan}
    where = (path, tmp_path / "found.json", path.parent, tmp_path / "errors")
    page = write_worst_errors(*where, results=ap).read_text()
    assert json.loads((tmp_path / "errors" / "detections.json").read_text()) == found
    assert cells(page) == [
        ["all", "50.0", "2", "2", "1"],
        ["blue square", "-", "1", "1", "1"],
        ["red square", "-", "1", "1", "0"],
    ]


def test_found_boxes_lie_over_wrong_ones_and_every_box_has_a_label():
    content = own_content(count=1)
    box = {"image_id": 1, "category_id": 1, "bbox": [200, 300, 200, 150]}
    content["annotations"] = [{**box, "id": 1}]
    image = np.full((700, 800, 3), 255, np.uint8)
    wrong = {**box, "category_id": 2, "score": 0.9}
    (errors,) = errors_of(content, [{**box, "score": 0.5}, wrong], 0.3)
    assert (len(errors.found), len(errors.wrong)) == (1, 1)
    drawn = draw_errors(image, errors, {1: "red", 2: "blue"})
    assert drawn.size == (800, 700)
    assert drawn.getpixel((300, 450)) == ImageColor.getrgb(FOUND)
    assert drawn.getpixel((202, 290)) == ImageColor.getrgb(FOUND)  # the label, above the box
    small = draw_errors(image[:70, :80], errors, {1: "red", 2: "blue"})
    assert small.size == (640, 560)


def test_labels_stay_inside_the_image():
    box = {"image_id": 1, "category_id": 1, "bbox": [590, 0, 50, 50], "id": 1}
    errors = ImageErrors({}, [], [box], [])
    name = "a very long name"
    drawn = np.asarray(draw_errors(np.zeros((640, 640, 3), np.uint8), errors, {1: name}))
    colored = (drawn == ImageColor.getrgb(MISSED)).all(axis=2)
    assert colored[:20, 520].any()  # the label reaches to the left of the box
    assert colored[0, 636]


def test_a_page_without_errors_or_without_detections(tmp_path):
    content = own_content(count=1)
    path = write_own_data(tmp_path / "data", content)
    page = write_worst_errors(path, tmp_path / "none.json", path.parent, tmp_path / "one")
    assert "0 found, 2 missed" in page.read_text()
    (tmp_path / "empty.json").write_text("[]")
    content["annotations"] = []
    path = write_own_data(tmp_path / "data", content)
    page = write_worst_errors(path, tmp_path / "empty.json", path.parent, tmp_path / "two")
    assert "There is no error." in page.read_text()


def test_what_is_not_exhaustive_is_no_wrong_detection():
    image = {"id": 1, "not_exhaustive_category_ids": [5]}
    detection = {"image_id": 1, "category_id": 5, "bbox": [0, 0, 9, 9], "score": 0.9}
    [found] = errors_of({"images": [image], "annotations": []}, [detection], 0.3)
    assert found.wrong == []
