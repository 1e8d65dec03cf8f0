"""Corrected labels, back in fine-tuning: what nobody looked at is not background."""

import json

import pytest
from PIL import Image

from detclip2.finetuning.coco_check import read_own_data
from detclip2.finetuning.partial_labels import boxed_names, labels_of
from detclip2.labelling.corrections import (
    Corrected,
    Corrections,
    read_export,
    read_reviewed,
    to_training,
)
from detclip2.utils.errors import UserError

LABELS = ("cat", "dog", "bird")
CAT, DOG, BIRD = range(3)


def entry(number, **boxes):
    """An entry with boxes by label."""
    classes = [LABELS.index(label) for label in boxes]
    head = {"image": number, "file_name": f"d/{number}.png", "height": 50, "width": 100}
    return {**head, "boxes": [*boxes.values()], "scores": [0.5] * len(boxes), "classes": classes}


ENTRIES = [
    entry(0, cat=[0, 0, 10, 10], dog=[20, 20, 40, 40]),
    entry(1, cat=[0, 0, 10, 10]),
    entry(2),
    entry(3, bird=[5, 5, 9, 9]),
    {"image": 4, "skipped": "image-unreadable", "file_name": "d/4.png", "reason": ""},
]


def coco(tmp_path, images, names=("cat", "dog", "bird")):
    """As CVAT writes it: file name -> label and XYWH box of each object."""
    content = {
        "images": [
            {"id": i, "file_name": name, "width": 100, "height": 50}
            for i, name in enumerate(images, 1)
        ],
        "categories": [{"id": i, "name": name} for i, name in enumerate(names, 10)],
        "annotations": [],
    }
    for i, boxes in enumerate(images.values(), 1):
        for label, box in boxes:
            number = len(content["annotations"]) + 1
            one = {"id": number, "image_id": i, "category_id": 10 + names.index(label), "bbox": box}
            content["annotations"].append(one)
    path = tmp_path / "export.json"
    path.write_text(json.dumps(content))
    return read_export(path)


CORRECTED = {
    "d/0.png": [("cat", [1, 1, 12, 12])],  # the dog was none, and the cat is larger
    "d/1.png": [("cat", [0, 0, 10.4, 10])],  # as it was
    "d/2.png": [("bird", [3, 3, 20, 20])],  # was missed
    "d/3.png": [("bird", [5, 5, 4, 4])],  # as it was
}


def known(tmp_path, content):
    """File name -> boxed, negative and partial names, as fine-tuning reads them."""
    for image in content["images"]:
        path = tmp_path / image["file_name"]
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (image["width"], image["height"])).save(path)
    (tmp_path / "train.json").write_text(json.dumps(content))
    data = read_own_data(tmp_path / "train.json", tmp_path)
    boxed = boxed_names(data)
    result = {}
    for image in data.images:
        labels = labels_of(image, boxed[image["id"]], len(data.names))
        result[image["file_name"]] = tuple({data.names[i] for i in part} for part in labels)
    return result


def test_only_what_was_changed_counts_as_reviewed(tmp_path):
    content, summary = to_training(coco(tmp_path, CORRECTED), LABELS, ENTRIES)
    assert known(tmp_path, content) == {
        "d/0.png": ({"cat"}, {"dog"}, {"cat"}),
        "d/2.png": ({"bird"}, set(), {"bird"}),
    }
    assert (summary.reviewed, summary.not_reviewed, summary.removed) == (2, 2, 1)
    assert content["annotations"][0]["bbox"] == [1, 1, 12, 12]


def test_images_that_are_said_to_be_reviewed(tmp_path):
    export = coco(tmp_path, CORRECTED)
    content, _ = to_training(export, LABELS, ENTRIES, {"d/1.png", "d/0.png"}, ["cat", "bird"])
    assert known(tmp_path, content) == {
        "d/0.png": ({"cat"}, {"dog", "bird"}, set()),
        "d/1.png": ({"cat"}, {"bird"}, set()),
    }


def test_an_empty_image_that_was_reviewed_is_background_for_what_was_asked(tmp_path):
    export = coco(tmp_path, {"d/2.png": [], "d/3.png": [("bird", [5, 5, 4, 4])]})
    content, _ = to_training(export, LABELS, ENTRIES, {"d/2.png", "d/3.png"}, ["dog"])
    assert known(tmp_path, content)["d/2.png"] == (set(), {"dog"}, set())


def test_nothing_reviewed_is_refused(tmp_path):
    export = coco(tmp_path, {"d/1.png": [("cat", [0, 0, 10, 10])]})
    with pytest.raises(UserError, match="none of the 1 images was reviewed"):
        to_training(export, LABELS, ENTRIES)
    with pytest.raises(UserError, match="'owl' is no label"):
        to_training(export, LABELS, ENTRIES, complete=["owl"])


def test_new_names_and_renamed_images(tmp_path):
    images = {"upload/0.png": [("owl", [1, 1, 5, 5])], "new.png": [("cat", [1, 1, 5, 5])]}
    export = coco(tmp_path, images, ("cat", "dog", "bird", "owl"))
    content, summary = to_training(export, LABELS, ENTRIES)
    assert known(tmp_path, content) == {
        "d/0.png": ({"owl"}, {"cat", "dog"}, {"owl"}),
        "new.png": ({"cat"}, set(), {"cat"}),
    }
    assert summary.renamed == 1


def label_studio(tmp_path):
    def task(number, boxes, **more):
        result = [
            {
                "type": "rectanglelabels",
                "original_width": 100,
                "original_height": 50,
                "value": {"x": x, "y": y, "width": w, "height": h, "rotation": turn,
                          "rectanglelabels": [label]},
            }
            for label, (x, y, w, h), turn in boxes
        ]  # fmt: skip
        data = {"image": f"/data/local-files/?d=d/{number}.png", "file_name": f"d/{number}.png"}
        return {"id": number, "data": data, "annotations": [{"result": result, **more}],
                "predictions": [{"result": result}]}  # fmt: skip

    choice = {"type": "choices", "value": {"choices": ["x"]}}
    tasks = [
        task(0, [("cat", (10, 20, 30, 40), 0)]),
        task(1, [("cat", (0, 0, 10, 20), 0)]),
        task(2, [], was_cancelled=True),
        {**task(3, []), "annotations": []},
        task(4, [("dog", (50, 20, 10, 20), 90)]),
    ]
    tasks[0]["annotations"][0]["result"].append(choice)
    tasks[1]["annotations"].insert(0, {"result": [], "was_cancelled": False})
    path = tmp_path / "ls.json"
    path.write_text(json.dumps(tasks))
    return path


def test_label_studio_says_what_was_submitted(tmp_path):
    export = read_export(label_studio(tmp_path))
    assert export.unread == {"regions of type choices": 1}
    content, summary = to_training(export, LABELS, ENTRIES)
    assert (summary.reviewed, summary.not_reviewed) == (3, 2)
    boxes = {one["image_id"]: one["bbox"] for one in content["annotations"]}
    names = {image["id"]: image["file_name"] for image in content["images"]}
    boxes = {names[key]: box for key, box in boxes.items()}
    assert boxes["d/0.png"] == [10, 10, 30, 20]
    assert boxes["d/1.png"] == [0, 0, 10, 10]
    # Turned by 90 degrees about its corner: 10 x 10 px, to the left of it.
    assert boxes["d/4.png"] == pytest.approx([40, 10, 10, 10])
    assert known(tmp_path, content)["d/0.png"] == ({"cat"}, {"dog"}, {"cat"})


@pytest.mark.parametrize(
    "text", ["[1]", '[{"data": {}}]', "[", '[{"data": {"image": 1}, "annotations": [{}]}]']
)
def test_no_json_of_label_studio(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UserError, match="no json of Label Studio"):
        read_export(tmp_path / "x.json")


def test_what_cannot_be_read(tmp_path):
    for text in ("", "{", '{"images": []}'):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(UserError, match=r"x\.json"):
            read_export(tmp_path / "x.json")
    with pytest.raises(UserError, match="cannot be read"):
        read_export(tmp_path / "none.json")
    with pytest.raises(UserError, match="cannot be read"):
        read_reviewed(tmp_path / "none.txt")


def test_lists_of_reviewed_images(tmp_path):
    (tmp_path / "a.txt").write_text("\ufeffa.png\r\n\n d/b c.png \n")
    (tmp_path / "b.txt").write_text('["a.png", "d/b c.png"]')
    for name in ("a.txt", "b.txt"):
        assert read_reviewed(tmp_path / name) == {"a.png", "d/b c.png"}


def test_outlines_count_by_the_box_around_them(tmp_path):
    """In COCO's json polygons and RLE without a box, in Label Studio's polygons."""
    outline = [[10.0, 5.0, 30.0, 5.0, 30.0, 25.0, 10.0, 25.0]]
    export = {
        "images": [{"id": 1, "file_name": "d/1.png", "width": 100, "height": 50}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": outline}],
    }
    (tmp_path / "coco.json").write_text(json.dumps(export))
    region = {
        "type": "polygonlabels",
        "original_width": 100,
        "original_height": 50,
        "value": {"points": [[10, 10], [30, 10], [30, 50], [10, 50]], "polygonlabels": ["cat"]},
    }
    task = {"data": {"image": "", "file_name": "d/1.png"}, "annotations": [{"result": [region]}]}
    (tmp_path / "studio.json").write_text(json.dumps([task]))
    for name in ("coco.json", "studio.json"):
        corrections = read_export(tmp_path / name)
        assert not corrections.unread
        content, summary = to_training(corrections, LABELS, ENTRIES, ["d/1.png"])
        assert known(tmp_path, content) == {"d/1.png": ({"cat"}, set(), {"cat"})}
        assert content["annotations"][0]["bbox"] == pytest.approx([10, 5, 20, 20], abs=1)
        assert summary.removed == 0


@pytest.mark.parametrize("points", [[[1, None], [2, 3], [4, 5]], []])
def test_what_a_person_drew_and_is_not_read_is_not_background(tmp_path, points):
    """Neither the brush of Label Studio, nor points without numbers, nor an annotation of COCO."""
    kind = "polygonlabels" if points else "brushlabels"
    value = {kind: ["cat"], "points": points}
    region = {"type": kind, "original_width": 100, "original_height": 50, "value": value}
    result = [region, {"type": "relation", "from_id": "a", "to_id": "b"}]
    task = {"data": {"image": "", "file_name": "d/0.png"}, "annotations": [{"result": result}]}
    (tmp_path / "studio.json").write_text(json.dumps([task]))
    export = {
        "images": [{"id": 1, "file_name": "d/0.png"}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1}],
    }
    (tmp_path / "coco.json").write_text(json.dumps(export))
    for name in ("coco.json", "studio.json"):
        corrections = read_export(tmp_path / name)
        assert corrections.unread.total() == (1 if name == "coco.json" else 2)
        content, summary = to_training(corrections, LABELS, ENTRIES, ["d/0.png"], ["cat"])
        names = {one["id"]: one["name"] for one in content["categories"]}
        [image] = content["images"]
        assert [names[i] for i in image["neg_category_ids"]] == ["dog"]
        assert [names[i] for i in image["not_exhaustive_category_ids"]] == ["cat"]
        assert summary.removed == 1  # the dog


def test_crowds_stay_crowds(tmp_path):
    export = {
        "images": [{"id": 1, "file_name": "d/0.png", "width": 100, "height": 50}],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "sheep"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 50, 50], "iscrowd": 1},
            {"id": 2, "image_id": 1, "category_id": 2, "bbox": [0, 0, 9, 9], "iscrowd": 0},
        ],
    }
    (tmp_path / "coco.json").write_text(json.dumps(export))
    content, summary = to_training(read_export(tmp_path / "coco.json"), LABELS, ENTRIES)
    assert [one["iscrowd"] for one in content["annotations"]] == [0, 1]
    assert (summary.boxes, summary.removed) == (1, 1)
    boxed = {"sheep", "cat"}  # fine-tuning counts crowds, which its losses skip
    assert known(tmp_path, content) == {"d/0.png": (boxed, {"dog"}, boxed)}


def entry_of(name, *boxes):
    """An entry of cats."""
    head = {"image": 0, "file_name": name, "height": 50, "width": 50}
    return {**head, "boxes": [*boxes], "scores": [0.5] * len(boxes), "classes": [0] * len(boxes)}


def test_a_complete_label_with_a_box_is_not_negative():
    images = Corrections([Corrected("a.jpg", [("cat", [1, 1, 5, 5])], True)])
    content, _ = to_training(images, ["cat"], [entry_of("a.jpg")], complete=["cat"])
    assert content["images"][0]["neg_category_ids"] == []


@pytest.mark.parametrize(("moved", "reviewed"), [(0.9, 0), (1.5, 1), (3, 1)])
def test_a_box_that_was_moved_by_more_than_rounding_is_a_change(moved, reviewed):
    boxes = [("cat", [10 + moved, 10, 20, 20])]
    images = [Corrected("a.jpg", boxes, None), Corrected("b.jpg", [], None)]
    entries = [entry_of(name, [10, 10, 30, 30]) for name in ("a.jpg", "b.jpg")]
    assert to_training(Corrections(images), ["cat"], entries)[1].reviewed == 1 + reviewed


def test_each_box_of_a_tool_is_the_same_as_one_of_the_run():
    boxes = [("cat", [10, 10, 20, 20]), ("cat", [0, 0, 5, 5])]
    entry = entry_of("a.jpg", [10, 10, 30, 30], [10, 10, 30, 30])
    images = Corrections([Corrected("a.jpg", boxes, None)])
    assert to_training(images, ["cat"], [entry])[1].reviewed == 1


def test_a_renamed_image_that_may_be_two_is_neither():
    images = Corrections([Corrected("a.jpg", [("cat", [1, 1, 5, 5])], True)])
    entries = [entry_of(f"{folder}/a.jpg", [10, 10, 30, 30]) for folder in "xy"]
    content, summary = to_training(images, ["cat"], entries)
    assert (content["images"][0]["file_name"], summary.renamed) == ("a.jpg", 0)


def test_reviewed_images_may_have_the_names_of_the_run():
    images = Corrections([Corrected("a.jpg", [], None)])
    entries = [entry_of("folder/a.jpg", [10, 10, 30, 30])]
    content, _ = to_training(images, ["cat"], entries, reviewed={"folder/a.jpg"})
    assert content["images"][0]["file_name"] == "folder/a.jpg"
