import json
from pathlib import Path

import numpy as np
import pytest
import torch

from detclip2.data.datasets.detection import detection_set, names_of_json
from detclip2.data.mappers import DetectionMapper
from detclip2.data.sample import check_sample
from detclip2.finetuning.coco_check import OwnData, read_own_data
from detclip2.finetuning.join import common_folder, join, rebase
from detclip2.finetuning.partial_labels import boxed_names, count_labels, labels_of
from detclip2.modeling.text.text_batch import TextBatch
from tests.helpers.own_data import own_content, write_own_data

SIZE = 100


def own(names, images, root="images", path="set.json"):
    """A set of `images`: file -> {name: corners of its boxes of 10 x 10}, with further keys."""
    data = OwnData(Path(path), Path(root), list(names), [() for _ in names])
    for number, (file, boxes) in enumerate(images.items(), 1):
        entry = {"id": number, "file_name": file, "width": SIZE, "height": SIZE}
        keys = {key: boxes.get(key) for key in boxes if key.endswith("_ids")}
        data.images.append({**entry, **keys})
        for name in set(boxes) - set(keys):
            for x, y in boxes[name]:
                data.annotations.append(
                    {
                        "id": len(data.annotations) + 1,
                        "image_id": number,
                        "category_id": names.index(name),
                        "bbox": [x, y, 10, 10],
                        "area": 100,
                        "iscrowd": 0,
                    }
                )
    return data


def joined(*sets, **options):
    return join(sets, [one.names for one in sets], **options)


def table(data):
    """File -> name -> "box", "no", "?", "part" (not exhaustive) or "both" (that, and a box)."""
    rows = {}
    boxed = boxed_names(data)
    for image in data.images:
        has, lacks, partial = labels_of(image, boxed[image["id"]], len(data.names))
        rows[image["file_name"]] = {
            name: "no" if i in lacks
            else ("both" if i in partial else "box") if i in has
            else "part" if i in partial else "?"
            for i, name in enumerate(data.names)
        }  # fmt: skip
    return rows


def test_what_a_file_does_not_list_is_unknown_in_its_images():
    a = own(["cat", "dog"], {"1": {"cat": [(0, 0)]}, "2": {}})
    b = own(["dog", "cow"], {"3": {"cow": [(0, 0), (20, 0)], "dog": [(50, 50)]}})
    data = joined(a, b)
    assert table(data) == {
        "1": {"cat": "box", "dog": "no", "cow": "?"},
        "2": {"cat": "no", "dog": "no", "cow": "?"},
        "3": {"cat": "?", "dog": "box", "cow": "box"},
    }
    assert [tuple(count) for count in count_labels(data, data.names)] == [
        (1, 1, 1), (1, 2, 0), (1, 0, 2),
    ]  # fmt: skip
    assert "?" not in str(table(joined(a, b, exhaustive=True)))


def test_random_sets_equal_the_union_of_what_each_says():
    """Each file labels some names in some images of one world, whole or with LVIS's lists."""
    rng = np.random.default_rng(0)
    world = ["a", "b", "c", "d", "e"]
    truth = {
        (str(i), name): {(20 * j, 20 * k) for j, k in rng.integers(0, 4, (rng.integers(0, 3), 2))}
        for i in range(8)
        for name in world
    }
    for _ in range(20):
        sets, known = [], {}
        for _ in range(rng.integers(2, 5)):
            names = [n for n in rng.permutation(world).tolist() if rng.random() < 0.6] or ["a"]
            images = [str(i) for i in rng.permutation(8)[: rng.integers(1, 7)]]
            content = {i: {n: sorted(truth[i, n]) for n in names} for i in images}
            for i in images:
                told = set(names)
                if rng.random() < 0.5:  # negatives are listed, and not all
                    absent = [n for n in names if not truth[i, n] and rng.random() < 0.5]
                    content[i]["neg_category_ids"] = [names.index(n) for n in absent]
                    told = {n for n in names if truth[i, n]} | set(absent)
                known.setdefault(i, set()).update(told)
            sets.append(own(names, content))
        data = joined(*sets)
        by_file = table(data)
        assert set(by_file) == set(known)
        for file, row in by_file.items():
            for name, state in row.items():
                right = ("box" if truth[file, name] else "no") if name in known[file] else "?"
                assert state == right
        files = {image["id"]: image["file_name"] for image in data.images}
        boxes = {}
        for one in data.annotations:
            key = files[one["image_id"]], data.names[one["category_id"]]
            assert boxes.setdefault(key, {}).setdefault(tuple(one["bbox"][:2]), one) is one
        for key, corners in truth.items():
            if key[1] in known.get(key[0], ()):
                assert boxes.get(key, {}).keys() == corners
        assert [one["id"] for one in data.annotations] == list(range(1, len(data.annotations) + 1))


def test_a_file_joined_with_itself_is_that_file():
    a = own(["cat", "dog"], {"1": {"cat": [(0, 0), (0, 50)]}, "2": {"dog": [(5, 5)]}})
    data = joined(a, a)
    assert data.names == a.names
    assert data.images == a.images
    assert data.annotations == a.annotations
    assert {kind: len(places) for kind, places in data.findings.items()} == {
        "image-shared": 2, "box-shared": 3,
    }  # fmt: skip


def test_a_single_file_is_unchanged_but_for_its_names():
    a = own(["cats"], {"1": {"cats": [(0, 0)]}, "1 ": {}})
    data = join([a], [["cat"]])
    assert data.names == ["cat"]
    assert (data.images, data.annotations) == (a.images, a.annotations)


def test_a_box_has_priority_over_a_file_that_says_absent():
    a = own(["cat"], {"1": {}})
    b = own(["cat"], {"1": {"cat": [(0, 0)]}})
    for sets in ((a, b), (b, a)):
        data = joined(*sets)
        assert table(data) == {"1": {"cat": "box"}}
        assert len(data.annotations) == 1
        assert len(data.findings["label-contradicted"]) == 1


def test_one_file_that_boxes_all_completes_one_that_does_not():
    a = own(["cat", "dog"], {"1": {"cat": [(0, 0)], "not_exhaustive_category_ids": [0, 1]}})
    b = own(["cat"], {"1": {"cat": [(1, 0), (40, 40)]}})
    c = own(["dog"], {"1": {}})
    assert table(joined(a, a)) == {"1": {"cat": "both", "dog": "part"}}
    data = joined(a, b)
    assert table(data) == {"1": {"cat": "box", "dog": "part"}}
    assert [one["bbox"][:2] for one in data.annotations] == [[0, 0], [40, 40]]
    assert table(joined(a, c))["1"]["dog"] == "part"  # what contradicts is not learned


def test_boxes_of_two_files_are_one_only_on_one_object():
    """An IoU of 0.82 is one object, of 0.67 two; each box is matched once."""
    a = own(["cat"], {"1": {"cat": [(0, 0), (50, 0)]}})
    b = own(["cat"], {"1": {"cat": [(1, 0), (0.5, 0), (52, 0)]}})
    data = joined(a, b)
    corners = [one["bbox"][0] for one in data.annotations]
    assert corners == [0, 50, 1, 52]
    assert len(data.findings["box-shared"]) == 1


def test_findings_tell_the_files_and_are_those_of_the_whole():
    a = own(["cat"], {"1": {"cat": [(0, 0)]}}, path="one/train.json")
    a.findings = {"category-alone": ["'cat'"], "box-flipped": ["annotation 1 in 1"]}
    b = own(["dog"], {"2": {}}, path="two/train.json")
    data = joined(a, b)
    assert data.findings == {
        "box-flipped": ["one/train.json: annotation 1 in 1"],
        "category-empty": ["'dog'"],
        "image-empty": ["2"],
    }


def test_images_of_several_folders(tmp_path):
    paths = []
    for folder in ("a", "b"):
        content = own_content(2)
        paths.append(write_own_data(tmp_path / folder, content))
    sets = [read_own_data(path, path.parent) for path in paths]
    data = joined(*sets)
    assert data.image_root == tmp_path
    assert [image["file_name"] for image in data.images] == ["a/1.png", "a/2.png", "b/1.png",
                                                             "b/2.png"]  # fmt: skip
    assert all((data.image_root / image["file_name"]).is_file() for image in data.images)
    again = rebase(sets[0], tmp_path)
    assert again.images == data.images[:2]
    # A folder and its parent: the images are the same files.
    same = [sets[0], rebase(sets[0], tmp_path)]
    assert [image["file_name"] for image in joined(*same).images] == ["a/1.png", "a/2.png"]
    assert common_folder([Path("x"), Path("x")]) == Path("x")


def test_unknown_names_are_neither_positives_nor_negatives_of_samples(tmp_path):
    """From two files to the pairs of image and phrase that losses count."""
    first, second = own_content(3), own_content(3)
    for content, category in ((first, 1), (second, 2)):
        content["categories"] = [{"id": 1, "name": "square"}, {"id": 2, "name": "disc"}][
            category - 1 : category
        ]
        content["annotations"] = [
            one for one in content["annotations"] if one["category_id"] == category
        ]
    for image in second["images"][1:]:  # the first image is in both files
        image["file_name"] = f"other {image['file_name']}"
    paths = [write_own_data(tmp_path / "data", content, name)
             for content, name in ((first, "a.json"), (second, "b.json"))]  # fmt: skip
    data = joined(*(read_own_data(path, path.parent) for path in paths))
    written = tmp_path / "data" / "joined.json"
    written.write_text(json.dumps(data.to_coco(data.names)))
    records = detection_set("joined_for_samples", str(written), str(data.image_root))
    mapper = DetectionMapper(names_of_json(str(written)))
    samples = [mapper(record, np.random.default_rng(0)) for record in records]
    for sample in samples:
        check_sample(sample)
    text = TextBatch.from_samples(samples, lambda phrases: torch.zeros(len(phrases), 1))
    counted = {
        Path(sample["file_name"]).name: {
            text.phrases[m] for m in range(len(text.phrases)) if valid[m]
        }
        for sample, valid in zip(samples, text.negatives_valid(), strict=True)
    }
    assert counted == {
        "1.png": {"square", "disc"},
        "2.png": {"square"},
        "3.png": {"square"},
        "other 2.png": {"disc"},
        "other 3.png": {"disc"},
    }


@pytest.mark.parametrize("count", [2, 3])
def test_equal_names_but_for_case_are_one(count):
    sets = [own([name], {name: {name: [(0, 0)]}}) for name in ("cat", "Cat", "CAT")[:count]]
    data = joined(*sets)
    assert data.names == ["cat"]
    assert {one["category_id"] for one in data.annotations} == {0}
