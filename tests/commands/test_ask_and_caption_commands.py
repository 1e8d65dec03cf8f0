import json

import numpy as np
import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import LazyConfig, instantiate
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import save_file

from detclip2 import cli, get_config
from detclip2.inference.language import ask, describe
from detclip2.inference.predictor import OpenVocabularyPredictor
from detclip2.modeling.heads.answer_head import AnswerHead
from detclip2.modeling.heads.caption_head import CaptionHead
from detclip2.utils.model_folder import read_model_folder
from detclip2.visualization.language import draw_grounded

QUESTION = "is there a red dog?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model folder of GLIPv2's nano size with random weights."""
    path = tmp_path_factory.mktemp("glipv2")
    model = get_config("models/glipv2.py").nano
    model.answer_head = L(AnswerHead)(answers=["yes", "no", "red"], text_width=128)
    model.caption_head = L(CaptionHead)(beam_size=2, max_tokens=4)
    model.postprocess.min_probability = 0.0
    inference = get_config("data/test_mapper.py").inference
    inference.update(min_size=64, max_size=96, score_threshold=0.0)
    content = {"model": model, "inference": inference}
    config = OmegaConf.create(content, flags={"allow_objects": True})
    LazyConfig.save(config, str(path / "config.yaml"))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_file(instantiate(model).state_dict(), path / "model.safetensors")
    return path


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def run(folder, capsys):
    """Run a command with the model -> exit code, stdout, stderr."""

    def run_command(*argv):
        code = cli.main([*map(str, argv), "--model", str(folder), "--device", "cpu"])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return run_command


def test_ask(run, folder, photo, tmp_path):
    files = tmp_path / "figure.png", tmp_path / "answer.json"
    code, out, err = run("ask", photo, QUESTION, "--output", files[0], "--json", files[1])
    assert code == 0, err
    predictor = OpenVocabularyPredictor(*read_model_folder(folder), device="cpu")
    found = ask(predictor, photo, QUESTION)
    lines = out.splitlines()
    assert lines[0] == f"{found.answers[0]}: {found.probabilities[0]:.2f}"
    content = json.loads(files[1].read_text("utf-8"))
    assert content["question"] == QUESTION
    assert [row["answer"] for row in content["answers"]] == list(found.answers)
    assert content["phrases"] == found.phrases()
    assert len(content["phrases"]) == len(lines) - len(found.answers) > 0
    np.testing.assert_array_equal(np.asarray(Image.open(files[0])), draw_grounded(found))


def test_a_threshold_drops_boxes(run, photo):
    code, out, _ = run("ask", photo, QUESTION, "--threshold", "1")
    assert (code, len(out.splitlines())) == (0, 3)


def test_caption(run, folder, photo, tmp_path):
    path = tmp_path / "caption.json"
    code, out, err = run("caption", photo, "--json", path, "--beam", "1")
    assert code == 0, err
    predictor = OpenVocabularyPredictor(*read_model_folder(folder), device="cpu")
    found = describe(predictor, photo, beam_size=1)
    content = json.loads(path.read_text("utf-8"))
    assert content["caption"] == found.text
    assert content["is_complete"] == found.is_complete
    assert out.startswith(found.text)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["ask", "none.png", QUESTION], "this image does not exist"),
        (["ask", "{photo}", " ? "], "has no words"),
        (["ask", "{photo}", "is there a dog " * 1000], "shorten it"),
        (["ask", "{photo}", QUESTION, "--output", "x.gif"], "must end in .jpg or .jpeg or .png"),
        (["ask", "{photo}", QUESTION, "--output", "{photo}"], "would replace the image"),
        (["ask", "{photo}", QUESTION, "--json", "x.txt"], "must end in .json"),
        (["ask", "{photo}", QUESTION, "--threshold", "7"], "expected a number from 0 to 1"),
        (["caption", "{photo}", "--beam", "0"], "expected at least 1"),
    ],
)
def test_mistakes_are_sentences(run, photo, argv, message):
    before = photo.read_bytes()
    argv = [word.replace("{photo}", str(photo)) for word in argv]
    code, _, err = run(*argv)
    assert code == 2
    assert message in " ".join(err.split())
    assert err.count("\n") == 1
    assert photo.read_bytes() == before
