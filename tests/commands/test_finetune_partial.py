"""``detclip2 finetune`` on several files, each with some names labelled."""

import json

import pytest
from detectron2.config import LazyConfig, instantiate

from detclip2.cli import main as detclip2
from detclip2.finetuning.coco_check import FINDINGS
from detclip2.utils.model_folder import save_weights
from tests.helpers.own_data import own_content, write_own_data
from tests.helpers.tiny_training import tiny_config

TOO_SHORT = ("--max-minutes", 1e-9)  # for any training
SHORTEST = ("--iterations", 1, "--batch-size", 1)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    cfg = tiny_config(folder)
    LazyConfig.save(cfg, str(folder / "config.yaml"))
    save_weights(instantiate(cfg.model), folder)
    return folder


def half(category, name, count=3):
    """Squares of one color."""
    content = own_content(count)
    content["categories"] = [{"id": category, "name": name}]
    content["annotations"] = [a for a in content["annotations"] if a["category_id"] == category]
    return content


@pytest.fixture
def halves(tmp_path):
    """Two folders with red and with blue squares labelled, and a third with both."""
    red = write_own_data(tmp_path / "red", half(1, "red square"))
    blue = write_own_data(tmp_path / "blue", half(2, "Blue Squares"))
    both = write_own_data(tmp_path / "both", own_content(2))
    return red, blue, both


def run(base, output, train, val, images, *words):
    arguments = [
        *("finetune", "--model", base, "--output", output, "--num-workers", 0, "--device", "cpu"),
        *("--train", *train, "--val", *val, "--images", *images, *words),
    ]
    return detclip2([str(word) for word in arguments])


def written(output, part):
    content = json.loads((output / "data" / f"{part}.json").read_text())
    names = {one["id"]: one["name"] for one in content["categories"]}
    lists = {
        image["file_name"]: sorted(names[i] for i in image["neg_category_ids"])
        if "neg_category_ids" in image
        else None
        for image in content["images"]
    }
    return list(names.values()), lists


def test_files_are_joined_and_what_each_knows_is_shown(base, halves, tmp_path, capsys):
    red, blue, both = halves
    folders = [path.parent for path in (red, blue, both, blue)]
    output = tmp_path / "output"
    assert run(base, output, [red, blue], [both, blue], folders, *SHORTEST) == 0
    captured = capsys.readouterr()
    names, lists = written(output, "train")
    assert names == ["red square", "Blue Squares"]
    assert lists == {f"{part}/{i}.png": [] for part in ("red", "blue") for i in (1, 2, 3)}
    names, lists = written(output, "val")
    assert names == ["red square", "Blue Squares"]
    assert lists["both/1.png"] is None
    assert lists["blue/1.png"] == []
    lines = [" ".join(line.split()) for line in captured.out.splitlines()]
    assert "Blue Squares blue square both/train.json plural" in lines
    table = lines.index(next(line for line in lines if "train: positive" in line))
    assert lines[table + 2 : table + 4] in (
        ["red square 3 0 3 2 0 3", "Blue Squares 3 0 3 5 0 0"],
        ["Blue Squares 3 0 3 5 0 0", "red square 3 0 3 2 0 3"],
    )
    cfg = LazyConfig.load(str(output / "config.yaml"))
    assert cfg.dataloader.train.own.records.image_root == str(tmp_path)
    assert cfg.dataloader.test.dataset.image_root == str(tmp_path)


@pytest.mark.slow
def test_joined_files_train_and_are_measured_by_known_names(base, halves, tmp_path):
    red, blue, both = halves
    output = tmp_path / "output"
    words = ["--iterations", 2, "--batch-size", 2]
    folders = [path.parent for path in (red, blue, both, blue)]
    assert run(base, output, [red, blue], [both, blue], folders, *words) == 0
    results = json.loads((output / "finetune.json").read_text())
    assert {"AP-red square", "AP-Blue Squares"} <= results["after"].keys()
    assert "federated" in (output / "log.txt").read_text()
    _, lists = written(output, "val")
    content = json.loads((output / "data" / "val.json").read_text())
    files = {image["id"]: image["file_name"] for image in content["images"]}
    found = json.loads((output / "inference" / "coco_instances_results.json").read_text())
    red_id = 1 + written(output, "val")[0].index("red square")
    assert {files[one["image_id"]] for one in found if one["category_id"] == red_id} <= {
        file for file, absent in lists.items() if absent is None
    }


def test_exhaustive_makes_what_is_not_listed_background(base, halves, tmp_path, capsys):
    red, blue, both = halves
    words = ["--exhaustive", "--distinct", "blue square", *SHORTEST]
    folders = [path.parent for path in (red, blue, both)]
    assert run(base, tmp_path / "output", [red, blue], [both], folders, *words) == 0
    names, lists = written(tmp_path / "output", "train")
    assert names == ["red square", "Blue Squares", "blue square"]
    assert set(lists.values()) == {None}
    assert "train: unknown" not in capsys.readouterr().out


def test_names_of_val_alone_are_no_negatives_in_training(base, halves, tmp_path, capsys):
    red, _, both = halves
    folders = [red.parent, both.parent]
    assert run(base, tmp_path / "output", [red], [both], folders, *SHORTEST) == 0
    assert written(tmp_path / "output", "train")[0] == ["red square"]
    assert written(tmp_path / "output", "val")[0] == ["red square", "blue square"]
    assert "measured, not trained" in capsys.readouterr().out


def test_findings_of_joined_files_are_reported(base, tmp_path, capsys):
    """The same images in both files, with contradicting labels."""
    first, second = own_content(3), own_content(3)
    first["images"][0]["neg_category_ids"] = [1, 77]
    first["annotations"] = [a for a in first["annotations"] if a["image_id"] != 3]
    second["images"].append(
        {"id": 9, "file_name": "9.png", "width": 64, "height": 48, "exhaustive_for": []}
    )
    folder = tmp_path / "data"
    files = [write_own_data(folder, content, name)
             for content, name in ((first, "first.json"), (second, "second.json"))]  # fmt: skip
    assert run(base, tmp_path / "output", files, files[:1], [folder], *TOO_SHORT) == 2
    printed = " ".join(capsys.readouterr().out.split())
    for kind in ("image-unlabelled", "image-shared", "box-shared", "label-unknown",
                 "label-contradicted"):  # fmt: skip
        assert " ".join(FINDINGS[kind][0].split()[:3]) in printed, kind


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda content: content.update(categories=[]), "'categories' has no entry"),
        (lambda content: content.pop("categories"), "has no key 'categories'"),
        (lambda content: content["images"][0].update(exhaustive_for="all"), "vocabularies"),
    ],
)
def test_one_unusable_file_is_named(base, halves, tmp_path, capsys, change, sentence):
    red, blue, both = halves
    content = json.loads(blue.read_text())
    change(content)
    blue.write_text(json.dumps(content))
    folders = [path.parent for path in (red, blue, both)]
    assert run(base, tmp_path / "output", [red, blue], [both], folders) == 2
    error = capsys.readouterr().err
    assert f"{blue}" in error
    assert sentence in error
    assert error.count("\n") == 1


def test_the_number_of_folders_must_fit(base, halves, tmp_path, capsys):
    red, blue, both = halves
    folders = [red.parent, blue.parent]
    assert run(base, tmp_path / "output", [red, blue], [both], folders) == 2
    assert "--images has 2 folders; expected one for all, or 3" in capsys.readouterr().err
