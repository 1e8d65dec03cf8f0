import json

from detclip2.evaluation.worst_errors import errors_of, write_worst_errors
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
    assert sorted(p.name for p in page.parent.iterdir()) == ["01.jpg", "index.html"]
    text = page.read_text()
    assert "&lt;a&gt;&amp;.png: 0 found, 2 missed, 0 wrong" in text
    assert "2.png" not in text


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
