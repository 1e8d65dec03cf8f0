import argparse
import math

import numpy as np
import pytest
import torch
from PIL import Image

from detclip2.cli import main
from detclip2.commands import vocabulary as command
from detclip2.commands.detection_arguments import vocabulary_of as predict_vocabulary
from detclip2.inference.predictor import OpenVocabularyPredictor
from detclip2.inference.vocabulary import PROBE, Vocabulary
from detclip2.modeling.text.text_tower import BATCH_SIZE, TextTower
from detclip2.utils.errors import UserError
from detclip2.utils.model_folder import read_model_folder


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
