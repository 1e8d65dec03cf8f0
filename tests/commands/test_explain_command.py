import numpy as np
import pytest
from PIL import Image

from detclip2 import cli
from detclip2.inference.explain import explain
from detclip2.inference.predictor import OpenVocabularyPredictor
from detclip2.utils.model_folder import read_model_folder
from detclip2.visualization.explanation import draw_explanation

CAPTION = "a red apple on the fire engine"


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def run(nano_folder, photo, tmp_path, capsys):
    """Run `detclip2 explain` -> exit code, stdout, stderr."""

    def run_explain(image=photo, caption=CAPTION, output=tmp_path / "figure.png", more=()):
        argv = ["explain", image, "--caption", caption, "--output", output, *more]
        code = cli.main([*map(str, argv), "--model", str(nano_folder), "--device", "cpu"])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return run_explain


def test_the_figure_and_the_table(run, nano_folder, photo, tmp_path):
    code, out, err = run()
    assert code == 0, err
    predictor = OpenVocabularyPredictor(*read_model_folder(nano_folder), device="cpu")
    explanation = explain(predictor, photo, CAPTION)
    figure = np.asarray(Image.open(tmp_path / "figure.png"))
    np.testing.assert_array_equal(figure, draw_explanation(explanation))
    for phrase, score, box in zip(
        explanation.phrases, explanation.scores, explanation.boxes, strict=True
    ):
        [line] = [line for line in out.splitlines() if line.strip().startswith(phrase)]
        assert f"{score:.3f}" in line
        assert ", ".join(f"{corner:.0f}" for corner in box) in line
    assert str(tmp_path / "figure.png") in out


def test_a_jpeg_in_a_new_folder(run, tmp_path):
    path = tmp_path / "new" / "figure.JPG"
    assert run(output=path)[0] == 0
    assert Image.open(path).format == "JPEG"
    assert [file.name for file in path.parent.iterdir()] == ["figure.JPG"]


def test_mistakes_are_sentences(run, photo, tmp_path):
    before = photo.read_bytes()
    for words, arguments in {
        "the caption is empty": {"caption": "  "},
        "no noun phrase in 'and so on'": {"caption": "and so on"},
        "must end in .png or .jpg": {"output": tmp_path / "figure.gif"},
        "would replace the image": {"output": photo},
        "this image does not exist": {"image": tmp_path / "no.png"},
        "cannot be written": {"output": photo / "figure.png"},
        "give --model, or --config": {"more": ["--weights", "x.safetensors"]},
    }.items():
        code, _, err = run(**arguments)
        assert code == 2, words
        assert words in err
        assert len(err.strip().splitlines()) == 1
    assert photo.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["photo.png"]


def test_the_caption_is_needed(photo, tmp_path, capsys):
    with pytest.raises(SystemExit) as error:
        cli.main(["explain", str(photo), "--output", str(tmp_path / "x.png")])
    assert error.value.code == 2
    assert "--caption" in capsys.readouterr().err
