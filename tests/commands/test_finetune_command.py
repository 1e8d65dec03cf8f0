import argparse
import json
import math
from pathlib import Path

import numpy as np
import pytest
from detectron2.config import LazyConfig, instantiate
from rich.console import Console

from detclip2.cli import main as detclip2
from detclip2.commands import finetune
from detclip2.commands.resumed_arguments import check_resumed, noted
from detclip2.finetuning.coco_check import FINDINGS, OwnData
from detclip2.finetuning.config import Mixed, iterations_for
from detclip2.finetuning.report import report_data
from detclip2.inference.vocabulary import Vocabulary
from detclip2.utils.errors import UserError
from detclip2.utils.model_folder import read_model_folder, save_weights
from detclip2.utils.weights import read_weights
from tests.helpers.own_data import own_content, write_own_data
from tests.helpers.tiny_training import PROJECT, tiny_config


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The folder of a tiny model with random weights, as training writes it."""
    folder = tmp_path_factory.mktemp("base")
    cfg = tiny_config(folder)
    LazyConfig.save(cfg, str(folder / "config.yaml"))
    save_weights(instantiate(cfg.model), folder)
    return folder


@pytest.fixture
def command(base, tmp_path):
    """Arguments of a valid command."""
    path = write_own_data(tmp_path / "data", own_content())
    write_own_data(tmp_path / "data", own_content(count=2), "val.json")
    return [
        *("finetune", "--model", base, "--images", path.parent, "--output", tmp_path / "output"),
        *("--train", path, "--val", path.parent / "val.json"),
        *("--num-workers", 0, "--device", "cpu"),
    ]


def run(words):
    return detclip2([str(word) for word in words])


@pytest.mark.slow
def test_annotations_become_a_model_its_config_and_its_errors(command, base, tmp_path, capsys):
    mixed = LazyConfig.load(str(PROJECT / "configs" / "emoji_nano_detection.py"))
    mixed.dataloader.test.dataset.count = 3
    LazyConfig.save(mixed, str(tmp_path / "mixed.yaml"))
    mix = f"{tmp_path / 'mixed.yaml'}/detection"
    words = ["--iterations", 4, "--batch-size", 2, "--mix", mix, "--mix-share", 0.5]
    assert run([*command, *words]) == 0
    printed = capsys.readouterr().out
    assert "red square" in printed
    assert "images that are also in train" in printed
    output = tmp_path / "output"
    config, weights = read_model_folder(output)
    results = json.loads((output / "finetune.json").read_text())
    assert results["before"].keys() == results["after"].keys() >= {"AP", "AP-red square"}
    forgotten = results["zero_shot"]
    assert forgotten["before"].keys() == forgotten["after"].keys() >= {"AP", "AP50", "AP75"}
    assert forgotten["before"] != results["before"]
    assert len(list((output / "zero_shot" / "data").rglob("*.jpg"))) == 3
    assert "AP of names from --mix" in printed
    assert (output / "errors" / "index.html").is_file()
    assert "Average Precision" not in printed
    assert "training: 4 of 4 iterations, loss" in printed
    assert f"the weights after {results['iterations']} of 4 iterations are kept" in printed
    assert "may be forgotten" not in printed
    assert any(
        not before.equal(after)
        for before, after in zip(
            read_weights(base / "model.safetensors").values(),
            read_weights(weights).values(),
            strict=True,
        )
    )
    cfg = LazyConfig.load(str(config))
    assert cfg.train.max_iter == 4
    assert cfg.train.source_ratios == {"own": 0.5, "mixed": 0.5}
    assert cfg.optimizer.lr == pytest.approx(
        tiny_config("").optimizer.lr * math.sqrt(2 / 4)
    )  # the base's batch is 4

    # Repeating it is refused, and --resume of a finished run only evaluates.
    assert run([*command, *words]) == 2
    assert "this folder has files" in capsys.readouterr().err
    assert run([*command, "--resume", "--iterations", 50]) == 2
    sentence = "was begun with --iterations 4, not --iterations 50"
    assert sentence in capsys.readouterr().err
    assert run([*command, "--resume"]) == 0
    np.testing.assert_equal(json.loads((output / "finetune.json").read_text()), results)


@pytest.mark.parametrize(
    ("begun", "resumed", "sentence"),
    [
        ([], [], None),
        (["--lr", 0.1, "--seed", 3], [], None),  # what is not given stays
        (["--lr", 0.1, "--seed", 3], ["--seed", 3, "--lr", "1e-1"], None),
        (["--train", "./{data}/train.json"], ["--train", "{data}/../{data}/train.json"], None),
        (["--lr", 0.1], ["--lr", 0.01], "with --lr 0.1, not --lr 0.01"),
        ([], ["--seed", 0], "with no --seed, not --seed 0"),
        (["--iterations", 9], ["--max-minutes", 2], "no --max-minutes, not --max-minutes 2.0"),
        ([], ["--train", "other.json"], "other.json"),
        ([], ["--mix-share", 0.5], "with no --mix-share"),
        ([], ["--num-workers", 7], "with --num-workers 0, not --num-workers 7"),
    ],
)
def test_resuming_with_other_arguments_is_refused(tmp_path, monkeypatch, begun, resumed, sentence):
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    parser = argparse.ArgumentParser()
    finetune.add_arguments(parser)

    def parsed(*words):
        common = ["--train", "a", "--val", "b", "--images", "c", "--output", "d"]
        words = [str(word).format(data="data") for word in words]
        return parser.parse_args([*common, "--num-workers", "0", *words])

    before = json.loads(json.dumps(noted(parsed(*begun))))
    if sentence is None:
        check_resumed(parsed("--resume", *resumed), before)
        return
    with pytest.raises(UserError) as error:
        check_resumed(parsed("--resume", *resumed), before)
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--train", "no.json"], "no.json"),
        (["--images", "."], "images are not in"),
        (["--output", "{data}/train.json"], "cannot be written to"),
        (["--mix", "emoji"], "expected CONFIG/SOURCE"),
        (["--mix", "no.py/detection"], "no.py: this config does not exist"),
        (["--model", "nowhere"], "there is no such model folder"),
        (["--resume"], "there is no fine-tuning to continue"),
        (["--device", "cuda"], "device 'cuda' cannot be used"),
    ],
)
def test_a_mistake_is_reported_before_training(command, tmp_path, capsys, words, sentence):
    words = [word.format(data=tmp_path / "data") for word in words]
    assert run([*command, *words]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
    assert not (tmp_path / "output" / "model.safetensors").exists()


def shipped_without_data(name):
    """Its config, whose data are on no other disk; the config's file and that of the weights."""
    config, weights = read_model_folder(name)
    return LazyConfig.load(str(config)), config, weights


def test_names_that_may_be_forgotten_are_named():
    config, weights = read_model_folder("emoji_nano")
    cfg = LazyConfig.load(str(config))
    known = Vocabulary.load(weights.with_name("vocabulary.safetensors")).labels
    said = finetune._forgotten(cfg, config, weights, [known[0].upper(), "red square"])
    assert said.startswith(f"the {len(known) - 1:,} other names that the model knows, such as ")
    assert known[1] in said
    assert f"--mix {config}/detection trains on them too" in said
    assert Mixed.of(f"{config}/detection", Path("output")).source
    said = finetune._forgotten(*shipped_without_data("photo_nano"), [])
    assert said.endswith("--mix CONFIG/SOURCE trains on them too")
    del cfg.dataloader
    said = finetune._forgotten(cfg, config, Path("model.safetensors"), [])
    assert said.startswith("the names that the model knew before may be forgotten; --mix CONFIG/")


@pytest.mark.parametrize("part", ["train", "val"])
def test_a_single_category_is_a_problem_of_training_alone(part, capsys):
    data = OwnData(Path("a.json"), Path(), names=["red"], synonyms=[()])
    data.note("category-alone", "'red'")
    report_data(Console(), {part: data}, ["red"])
    assert ("a single category" in capsys.readouterr().out) is (part == "train")


@pytest.mark.parametrize("size", ["10", "100000", "-1"])
def test_absurd_sizes_are_refused(command, capsys, size):
    with pytest.raises(SystemExit) as stopped:
        run([*command, f"--size={size}"])
    assert stopped.value.code == 2
    assert f"{size} is not between 32 and 4096 px" in capsys.readouterr().err


def faulty_content():
    """Faults of every kind at once; images 4 to 8 have a usable box."""
    content = own_content(count=8)
    images, boxes = content["images"], content["annotations"]
    for one in [*images, *content["categories"]]:
        one["id"] = f"number {one['id']}"
    for one in boxes:
        one.update(image_id=f"number {one['image_id']}", category_id=f"number {one['category_id']}")
    content["categories"] += [
        {"id": "twice", "name": "Red_Square"},
        {"id": "empty", "name": "cup, été 🍎"},
    ]
    images[0]["file_name"] = "gone/1.png"
    images[1]["width"] = 640
    boxes[4:6] = []  # image 3
    boxes[-1]["attributes"] = {"occluded": True}
    boxes[-2].update(bbox=None, segmentation=[[4.0, 8.0, 24.0, 8.0, 24.0, 32.0, 4.0, 32.0]])
    boxes[-3]["bbox"] = [54, 32, -20, -24]
    boxes[-4]["bbox"] = [-10, 8, 34, 24]
    boxes[-5]["bbox"] = [4, 8, 0, 24]
    boxes[-6]["category_id"] = 77
    boxes[-7]["image_id"] = 77
    return content


def test_every_fault_is_reported_before_training(command, tmp_path, capsys):
    """The time is too short for any training."""
    val = write_own_data(tmp_path / "faulty", own_content(count=8), "val.json")
    train = val.with_name("train.json")
    train.write_text(json.dumps(faulty_content()))
    words = ["--train", train, "--val", val, "--images", val.parent]
    assert run([*command, *words, "--max-minutes", 1e-9]) == 2
    captured = capsys.readouterr()
    assert "one iteration takes" in captured.err
    kinds = {
        *("key-unknown", "id-not-integer", "box-derived", "box-flipped", "box-outside"),
        *("box-unusable", "image-unknown", "category-unknown", "category-twice"),
        *("category-empty", "image-missing", "image-mismatched", "image-empty"),
    }
    caught = {kind for kind, (what, _) in FINDINGS.items()
            if " ".join(what.split()[:4]) in captured.out}  # fmt: skip
    assert caught == kinds
    assert "cup, été 🍎" in captured.out
    assert not (tmp_path / "output" / "model.safetensors").exists()


def test_a_base_without_optimizer_is_reported(command, base, tmp_path, capsys):
    cfg = LazyConfig.load(str(base / "config.yaml"))
    del cfg["optimizer"]
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    (tmp_path / "model.safetensors").write_bytes((base / "model.safetensors").read_bytes())
    assert run([*command, "--model", tmp_path]) == 2
    assert "key 'optimizer' is missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("images", "batch", "iterations"),
    [
        (100_000, 64, 37_500),  # the paper's 24 epochs of LVIS
        (205, 8, 1000),  # the minimum ...
        (16, 8, 500),  # ... but not more than 250 epochs
        (1, 1, 250),
    ],
)
def test_the_schedule_follows_from_the_number_of_images(images, batch, iterations):
    assert iterations_for(images, batch) == iterations


def test_the_mixed_source_needs_no_other_key():
    mixed = Mixed.of(f"{PROJECT / 'configs' / 'emoji_nano_pairs.py'}/pairs", Path("output"))
    assert "${" not in str(mixed)
    assert mixed.source["records"]["size"] == 128
    assert mixed.test["test"]["dataset"]["folder"] == "output/data"
    with pytest.raises(UserError, match=r"has the sources \['detection', 'pairs'\], not 'pears'"):
        Mixed.of(f"{PROJECT / 'configs' / 'emoji_nano_pairs.py'}/pears", Path("output"))


def test_a_mixed_source_without_its_folder_says_what_to_set(monkeypatch):
    monkeypatch.delenv("DETCLIP2_TEST_DATA", raising=False)
    with pytest.raises(UserError, match=r"coco_open_nano/detection: .*export DETCLIP2_TEST_DATA="):
        Mixed.of("coco_open_nano/detection", Path("output"))


def test_a_config_without_a_test_set_can_be_mixed_in(tmp_path):
    cfg = LazyConfig.load(str(PROJECT / "configs" / "emoji_nano_pairs.py"))
    for key in ("test", "evaluator", "vocabulary"):  # the last two refer to the first
        del cfg.dataloader[key]
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    assert Mixed.of(f"{tmp_path / 'config.yaml'}/pairs", tmp_path).test is None


@pytest.mark.parametrize("made", [True, False])
def test_a_refused_run_leaves_its_folder_as_it_was(command, tmp_path, capsys, monkeypatch, made):
    """Also if it fails after it has written files."""
    output = tmp_path / "new" / "own"
    if made:
        output.mkdir(parents=True)
    words = [str(output) if before == "--output" else word
             for before, word in zip(["", *command], command, strict=False)]  # fmt: skip
    seen = []

    def fails(*args):
        seen.extend(path.name for path in output.iterdir())
        raise UserError("no measure today")

    monkeypatch.setattr(finetune, "measure", fails)
    assert run(words) == 2
    assert "no measure today" in capsys.readouterr().err
    assert "config.yaml" in seen
    assert output.exists() is output.parent.exists() is made
    assert not made or not any(output.iterdir())
