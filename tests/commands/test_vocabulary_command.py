import argparse
import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, pairwise_iou
from PIL import Image
from safetensors.torch import load_file, save_file

from detclip2.cli import main
from detclip2.commands import vocabulary as command
from detclip2.commands.detection_arguments import vocabulary_of as predict_vocabulary
from detclip2.data.emojiscenes.categories import make_world
from detclip2.data.emojiscenes.scenes import EmojiScenes
from detclip2.inference.predictor import OpenVocabularyPredictor
from detclip2.inference.vocabulary import PROBE, Vocabulary
from detclip2.modeling.text.text_tower import BATCH_SIZE, TextTower
from detclip2.utils.errors import UserError
from detclip2.utils.model_folder import SHIPPED, read_model_folder


@pytest.fixture
def vocabulary(nano_folder, tmp_path, capsys):
    """Call the command: (exit code, stdout, stderr, the written vocabulary or None)."""

    def call(*argv, output="v.safetensors", model=("--model", nano_folder)):
        path = tmp_path / "out" / output
        code = main([*map(str, ("vocabulary", *argv, "--output", path, *model))])
        out, err = capsys.readouterr()
        return code, out, err, Vocabulary.load(path) if path.exists() else None

    return call


@pytest.mark.parametrize(("rule", "prompts"), [((), 1203), (("--synonyms", "max"), 1826)])
def test_lvis_names_are_encoded_in_batches(vocabulary, monkeypatch, rule, prompts):
    calls = []
    forward = TextTower.forward
    monkeypatch.setattr(
        TextTower, "forward", lambda self, texts: calls.append(texts) or forward(self, texts)
    )
    code, out, err, saved = vocabulary("lvis", *rule)
    assert code == 0, err
    assert len(calls) == math.ceil((prompts + 1) / BATCH_SIZE)  # with the probe
    texts = [text for call in calls for text in call]
    assert len(texts) == len(set(texts)) == prompts + 1
    assert PROBE in texts
    assert len(saved) == 1203
    assert saved.embeddings.shape == (prompts, 128)
    assert saved.encoder == "detclip2-nano"
    assert "1203 labels" in out
    assert f"{prompts} rows" in out


def test_options_equal_those_of_the_library(vocabulary, tmp_path, nano_folder, monkeypatch):
    names = tmp_path / "names.csv"
    names.write_text("name,synonyms,definition\ntruck,lorry;赤い車,it has wheels\n赤,,\n", "utf-8")
    predictor = OpenVocabularyPredictor(*read_model_folder(nano_folder), device="cpu")
    # Building the model is most of a call.
    monkeypatch.setattr(command, "load_predictor", lambda _: predictor)
    templates = ("{}", "a {}")
    for arguments, expected in [
        ((names,), Vocabulary.from_file(names)),
        ((names, "--synonyms", "max"), Vocabulary.from_file(names, synonyms="max")),
        (
            (names, "--template", "{}", "--template", "a {}"),
            Vocabulary.from_file(names, templates),
        ),
        (("coco",), Vocabulary.builtin("coco")),
        (
            ("coco", "--definitions", "--synonyms", "max"),
            Vocabulary.builtin("coco", synonyms="max", definitions=True),
        ),
    ]:
        code, _, err, saved = vocabulary(*arguments)
        assert code == 0, err
        expected = predictor.encode(expected)
        assert saved == expected
        assert torch.equal(saved.embeddings, expected.embeddings)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("missing.txt", None, "neither a file of names nor a built-in list (coco, lvis, obj"),
        ("empty.txt", "", "no names"),
        ("long.txt", "x" * 2000, "name 1 has 2,000"),
        ("bare.csv", "cat\ndog\n", "column `name`"),
    ],
)
def test_names_that_cannot_be_used(vocabulary, tmp_path, name, content, reason):
    if content is not None:
        (tmp_path / name).write_text(content)
    code, out, err, saved = vocabulary(tmp_path / name)
    assert code == 2
    assert name in err
    assert reason in err
    assert err.count("\n") == 1
    assert not out
    assert saved is None


def test_arguments_that_cannot_be_used(vocabulary, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("cat\n")
    for arguments, options, reason in [
        ((names,), {"output": "v.txt"}, "v.txt: a vocabulary's file name ends in .safetensors"),
        ((names, "--template", "a photo"), {}, 'must hold "{}" once'),
        ((names, "--definitions"), {}, "is for a built-in list"),
        ((names,), {"model": ("--model", tmp_path / "none")}, "no such model folder"),
        ((names,), {"model": ("--config", "c.py")}, "--config and --weights go together"),
    ]:
        code, _, err, saved = vocabulary(*arguments, **options)
        assert code == 2
        assert reason in err
        assert saved is None
    assert not (tmp_path / "out").exists()


def test_predict_reads_the_written_vocabulary(vocabulary, tmp_path, nano_folder, capsys):
    names = tmp_path / "names.csv"
    names.write_text("name,synonyms\napple,red apple; pomme\ncar,\n")
    assert vocabulary(names, "--synonyms", "max")[0] == 0
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "p.png")
    saved = tmp_path / "out" / "v.safetensors"
    argv = ["predict", tmp_path / "p.png", "--vocabulary", saved, "--output", tmp_path / "found"]
    assert main([*map(str, argv), "--model", str(nano_folder)]) == 0
    out = capsys.readouterr().out
    assert "apple" in out
    assert "pomme" not in out


@pytest.mark.parametrize(("given", "number"), [("coco", 80), ("lvis", 1203), ("objects365", 365)])
def test_predict_takes_a_builtin_list_by_its_name(given, number):
    args = argparse.Namespace(caption=None, vocabulary=given, names_file=None, names=None)
    assert len(predict_vocabulary(args)) == number


def test_predict_says_that_a_name_may_mean_a_builtin_list(caplog):
    args = argparse.Namespace(caption=None, vocabulary=None, names_file=None, names="coco")
    assert predict_vocabulary(args).labels == ("coco",)
    assert "its built-in list is --vocabulary coco" in caplog.text
    args.vocabulary = "cocoa"
    with pytest.raises(UserError, match=r"no such vocabulary file.*coco, lvis, objects365"):
        predict_vocabulary(args)


@pytest.fixture
def examples(tmp_path):
    """A folder with an unseen thing in some scenes; other scenes to find it in."""
    world = make_world(None)
    world = replace(world, unseen=world.unseen[:6])
    scenes = EmojiScenes(world, "val", count=20, size=160, contents=["unseen"])
    chosen = sorted({one["category_id"] for one in scenes[0]["annotations"]})[:1]
    folder = tmp_path / "examples"
    folder.mkdir()
    images, annotations, others = [], [], []
    for number in range(len(scenes)):
        scene = scenes[number]
        boxes = [one for one in scene["annotations"] if one["category_id"] in chosen]
        if not boxes:
            continue
        if len(images) == 4:
            others.append((scene["image"], boxes[0]["bbox"]))
            continue
        name = f"{number}.png"
        Image.fromarray(scene["image"]).save(folder / name)
        images.append({"id": number, "file_name": name, "height": 160, "width": 160})
        for one in boxes:
            x1, y1, x2, y2 = one["bbox"]
            box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "image_id": number, "category_id": 1}
            annotations.append({"id": len(annotations), **box})
    categories = [{"id": 1, "name": "my logo"}, {"id": 2, "name": "nothing"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "boxes.json").write_text(json.dumps(content))
    return folder, content, others


EMOJI = ("--model", "emoji_nano")


def test_example_boxes_stand_for_a_name(vocabulary, examples, tmp_path):
    folder, _, others = examples
    code, out, err, saved = vocabulary("--examples", folder, model=EMOJI)
    assert code == 0, err
    assert saved.labels == saved.of_examples == ("my logo",)
    assert "categories without a box" in out
    (tmp_path / "names.txt").write_text("My Logo\nred apple\n")
    code, _, err, mixed = vocabulary(tmp_path / "names.txt", "--examples", folder, model=EMOJI)
    assert code == 0, err
    assert mixed.labels == ("My Logo", "red apple")
    assert mixed.of_examples == ("My Logo",)
    torch.testing.assert_close(mixed.embeddings[:1], saved.embeddings)
    predictor = OpenVocabularyPredictor("emoji_nano", device="cpu")
    by_text = predictor.encode(["my logo", "red apple"])
    torch.testing.assert_close(mixed.embeddings[1:], by_text.embeddings[1:])
    best = {"text": 0, "examples": 0}
    for image, box in others:
        for way, asked in (("text", by_text), ("examples", mixed)):
            found = predictor(image, vocabulary=asked, score_threshold=0.01)
            found = found[found.pred_classes == 0]
            hit = pairwise_iou(found.pred_boxes[:1], Boxes(torch.tensor([box])))
            best[way] += int((hit > 0.5).sum())
    assert best["examples"] > best["text"]
    assert best["examples"] >= len(others) / 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder, content: (folder / "boxes.json").unlink(), "0 .json files"),
        (lambda folder, content: (folder / "b.json").write_text("{}"), "2 .json files"),
        (lambda folder, content: content.update(annotations=[]), "no box"),
        (
            lambda folder, content: [one.update(bbox=[500, 500, 9, 9]) for one in
                                     content["annotations"]],
            "no box",
        ),
        (
            lambda folder, content: [one.update(iscrowd=1) for one in content["annotations"]],
            "no example: all boxes are of crowds",
        ),
        (
            lambda folder, content: [one.update(bbox=[0, 0, 160, 1.5]) for one in
                                     content["annotations"]],
            "the model sees no object in the example boxes of 'my logo'",
        ),
        (
            lambda folder, content: [path.write_bytes(b"x") for path in folder.glob("*.png")],
            "cannot be read",
        ),
    ],
)  # fmt: skip
def test_examples_that_are_none(vocabulary, examples, change, message):
    folder, content, _ = examples
    change(folder, content)
    if (folder / "boxes.json").exists():
        (folder / "boxes.json").write_text(json.dumps(content))
    code, _, err, saved = vocabulary("--examples", folder, model=EMOJI)
    assert code == 2
    assert message in err
    assert saved is None


def test_one_unreadable_image_of_examples_is_skipped(vocabulary, examples):
    folder, content, _ = examples
    (folder / content["images"][0]["file_name"]).write_bytes(b"x")
    code, out, err, saved = vocabulary("--examples", folder, model=EMOJI)
    assert code == 0, err
    assert "images that cannot be read" in out
    assert saved.of_examples == ("my logo",)


def test_a_model_without_a_projector(vocabulary, examples, tmp_path):
    folder, _, _ = examples
    code, _, err, _ = vocabulary("--examples", folder)
    assert code == 2
    assert "this model has no examples.safetensors" in err
    code, _, err, _ = vocabulary("--examples", tmp_path / "none")
    assert code == 2
    assert "no such folder of examples" in err
    code, _, err, _ = vocabulary()
    assert code == 2
    assert "give a file of names, or --examples" in err
    changed = tmp_path / "changed"
    shutil.copytree(SHIPPED["emoji_nano"], changed)
    weights = load_file(changed / "model.safetensors")
    weights["align.bias"] += 1
    save_file(weights, changed / "model.safetensors")
    code, _, err, _ = vocabulary("--examples", folder, model=("--model", changed))
    assert code == 2
    assert "was fitted to other weights" in err
