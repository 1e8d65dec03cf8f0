import io
import json
import logging
import os
import shlex
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from detclip2 import cli
from detclip2.inference.predictor import OpenVocabularyPredictor
from detclip2.modeling.thresholds import MEANINGS
from detclip2.utils import model_folder
from tests.helpers.videos import COUNT, cut, write

NAMES = "red apple, fire engine"


@pytest.fixture
def predict(nano_folder, tmp_path, capsys):
    """Run `detclip2 predict` -> exit code, stdout, stderr, annotated files."""

    def run(*images, names=("--names", NAMES), model=("--model", nano_folder), more=()):
        output = tmp_path / "output"
        argv = [*images, *names, "--output", output, *model, "--device", "cpu", *more]
        try:
            code = cli.main(["predict", *map(str, argv)])
        except SystemExit as error:  # argparse
            code = error.code
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err, sorted(output.glob("*"))

    return run


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.jpg"
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def sentence(err):
    """The only line on stderr that the command itself writes."""
    lines = [line for line in err.splitlines() if line.startswith("detclip2")]
    assert len(lines) == 1, err
    return lines[0]


def test_prints_a_table_and_writes_the_image(predict, photo, nano_folder):
    code, out, _, written = predict(photo, more=("--max-detections", 3))
    assert code == 0
    assert [path.name for path in written] == ["photo.detections.jpg"]
    assert str(written[0]) in out
    assert Image.open(written[0]).size == (80, 60)
    predictor = OpenVocabularyPredictor(*model_folder.read_model_folder(nano_folder), device="cpu")
    expected = predictor(photo, vocabulary=NAMES, max_detections=3)
    rows = [line.split() for line in out.splitlines() if "0.0" in line]
    assert [" ".join(row[:2]) for row in rows] == expected.labels
    assert [float(row[2]) for row in rows] == pytest.approx(expected.scores.tolist(), abs=5e-4)
    boxes = [[float(x.strip(",")) for x in row[3:]] for row in rows]
    np.testing.assert_allclose(boxes, expected.pred_boxes.tensor, atol=0.51)


def test_a_caption_instead_of_names(predict, photo):
    _, by_names, _, _ = predict(photo, names=("--names", "Man, small dogs"))
    code, out, _, _ = predict(photo, names=("--caption", "A Man next to two small dogs"))
    assert code == 0
    assert out == by_names
    code, _, err, _ = predict(photo, names=("--caption", "and so on"))
    assert code == 2
    assert "no noun phrase in 'and so on'" in sentence(err)
    assert predict(photo, more=("--caption", "a dog"))[0] == 2, "names or a caption"


def test_nothing_found(predict, photo):
    code, out, _, written = predict(photo, more=("--score-threshold", "0.99"))
    assert code == 0
    assert "0 found" in out
    assert len(written) == 1


def test_a_broken_image_does_not_stop_the_others(predict, photo, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(photo.read_bytes()[:500])
    code, out, err, written = predict(broken, photo)
    assert code == 2
    assert str(broken) in sentence(err)
    assert "photo.jpg: " in out
    assert [path.name for path in written] == ["photo.detections.jpg"]


def test_a_folder_and_equal_names(predict, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        for name in ("x.jpg", "y.png"):
            Image.new("RGB", (20, 20)).save(tmp_path / folder / name)
    (tmp_path / "a" / "notes.txt").touch()
    code, _, err, written = predict(tmp_path / "a", tmp_path / "b")
    assert code == 0, err
    assert [path.name for path in written] == [
        "x.detections-2.jpg",
        "x.detections.jpg",
        "y.detections-2.png",
        "y.detections.png",
    ]
    (tmp_path / "c").mkdir()
    assert predict(tmp_path / "c")[0] == 2


def test_a_name_that_is_not_utf_8(predict, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in (b"caf\xe9.png", b"z.png"):
        Image.new("RGB", (20, 20)).save(os.fsencode(folder) + b"/" + name, "png")
    code, out, err, written = predict(folder, more=("--json",))
    assert code == 0, err
    assert "caf\\udce9.png" in out
    assert len(written) == 4
    names = {os.fsencode(json.loads(p.read_bytes())["file_name"]) for p in written[1::2]}
    assert names == {os.fsencode(folder) + b"/caf\xe9.png", os.fsencode(folder) + b"/z.png"}


def test_many_images_have_one_summary_and_one_file(predict, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(6):
        Image.new("RGB", (20, 20)).save(folder / f"{i}.png")
    results = tmp_path / "all.json"
    more = ("--max-detections", 1, "--score-threshold", 0, "--results", results)
    code, out, err, written = predict(folder, more=more)
    assert code == 0, err
    assert "6 images: 6 found with scores from 0, nothing in 0 of them" in out
    assert "0.png" not in out
    content = json.loads(results.read_text())
    assert [Path(image["file_name"]).name for image in content["images"]] == [
        f"{i}.png" for i in range(6)
    ]
    assert len(content["annotations"]) == 6 == len(written)
    assert predict(folder, more=("--results", "x.txt"))[0] == 2


def test_a_missing_file_does_not_stop_the_others(predict, photo, tmp_path):
    code, out, err, _ = predict(photo, tmp_path / "no.png")
    assert (code, "photo.jpg: " in out) == (2, True)
    assert "no.png: this file does not exist" in sentence(err)
    code, _, err, _ = predict("http://127.0.0.1:9/a.jpg")
    assert code == 2
    assert "http://127.0.0.1:9/a.jpg: cannot be reached" in sentence(err)


def test_the_default_model_says_what_it_knows(photo, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("DETCLIP2_MODEL", raising=False)
    argv = ["predict", photo, "--names", "cat", "--output", tmp_path / "o", "--device", "cpu"]
    assert cli.main([*map(str, argv)]) == 0
    config = model_folder.SHIPPED[model_folder.DEFAULT] / "config.yaml"
    assert sentence(capsys.readouterr().err) == f"detclip2: {model_folder.knowledge(config)}"
    with pytest.warns(UserWarning, match=r"photo_nano is a small model.*finetune"):
        OpenVocabularyPredictor(device="cpu")


def test_input_images_are_never_overwritten(predict, tmp_path):
    output = tmp_path / "output"
    output.mkdir()
    for name in ("x.png", "x.detections.png"):
        Image.new("RGB", (20, 20), "teal").save(output / name)
    before = {path: path.read_bytes() for path in output.iterdir()}
    code, _, _, written = predict(output / "x.png", output / "x.detections.png")
    assert code == 0
    assert len(written) == 4
    assert {path: path.read_bytes() for path in before} == before


def odd_images():
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = 6
    return {
        "one_wide.png": (Image.new("RGB", (1, 300)), {}),
        "one_high.png": (Image.new("RGB", (3000, 1)), {}),
        "one.png": (Image.new("RGB", (1, 1)), {}),
        "grey.png": (image.convert("L"), {}),
        "grey16.png": (Image.fromarray(pixels[..., 0].astype(np.uint16) * 257), {}),
        "palette.gif": (image.convert("P"), {}),
        "cmyk.jpg": (image.convert("CMYK"), {}),
        "rgba.png": (image.convert("RGBA"), {}),
        "turned.jpg": (image, {"exif": exif}),
    }


@pytest.mark.parametrize("name", odd_images())
def test_odd_images_are_processed(predict, tmp_path, name):
    image, options = odd_images()[name]
    image.save(tmp_path / name, **options)
    code, _, err, written = predict(tmp_path / name)
    assert code == 0, err
    assert len(written) == 1
    size = image.size[::-1] if name == "turned.jpg" else image.size
    assert Image.open(written[0]).size == size


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore::PIL.Image.DecompressionBombWarning"
)  # files opened by this test
def test_100_megapixels_are_processed(predict, tmp_path):
    Image.new("L", (12_500, 8_000), 128).save(tmp_path / "large.jpg", quality=20)
    code, _, err, written = predict(tmp_path / "large.jpg", more=("--max-detections", 2))
    assert code == 0, err
    assert Image.open(written[0]).size == (12_500, 8_000)
    written[0].unlink()  # pytest keeps folders of past runs


def test_real_images(predict, tmp_path):
    folder = os.environ.get("DETCLIP2_TEST_DATA")
    if not folder:
        pytest.skip("real data: DETCLIP2_TEST_DATA is not set")
    images = sorted(Path(folder, "coco_open", "val2017").glob("*.jpg"))[:3]
    assert images
    code, _, err, written = predict(*images, names=("--names", "person, dog, car"))
    assert code == 0, err
    for original, annotated in zip(images, written, strict=True):
        assert Image.open(annotated).size == Image.open(original).size


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "does not exist"),
        (b"", "empty"),
        (b"these are notes", "not an image"),
        ("cut", "truncated"),
    ],
)
def test_images_that_cannot_be_processed(predict, tmp_path, photo, content, reason):
    path = tmp_path / "wrong.jpg"
    if content is not None:
        path.write_bytes(photo.read_bytes()[:-200] if content == "cut" else content)
    code, out, err, written = predict(path)
    assert code == 2
    assert str(path) in sentence(err)
    assert reason in sentence(err)
    assert written == []
    assert "found" not in out


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        ("", "no names"),
        ("cat,,dog", "name 2 is empty"),
        ("cat, " + "x" * 10_000, "name 2 has 10,000"),
        ("\udcff", "not valid text"),
    ],
)
def test_names_that_cannot_be_names(predict, photo, names, reason):
    code, _, err, written = predict(photo, names=("--names", names))
    assert code == 2
    assert reason in sentence(err)
    assert written == []


def test_repeated_names_are_reported(predict, photo, caplog):
    with caplog.at_level(logging.WARNING):
        code, out, _, _ = predict(photo, names=("--names", "cat, dog, cat"))
    assert code == 0
    assert "'cat'" in caplog.text
    lines = [line.split() for line in out.splitlines() if " 0.0" in line]
    assert len({tuple(line) for line in lines}) == len(lines) > 0


@pytest.mark.parametrize("name", ["りんご", "تفاحة", "пожарная машина", "🍎", "[red]x[/]", "a\nb"])
def test_names_in_any_script(predict, photo, name):
    code, out, _, _ = predict(photo, names=("--names", name))
    assert code == 0
    assert name.splitlines()[0] in out


def test_a_terminal_without_unicode(nano_folder, photo, tmp_path, monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", stream)
    argv = ["predict", photo, "--names", "りんご", "--output", tmp_path, "--model", nano_folder]
    assert cli.main([*map(str, argv)]) == 0
    stream.flush()
    assert rb"\u308a" in stream.buffer.getvalue()


@pytest.mark.slow
def test_names_from_files_and_saved_vocabularies(predict, photo, tmp_path, nano_folder):
    names = tmp_path / "names.txt"
    names.write_text("\n".join(f"thing {i}" for i in range(5000)))
    code, out, err, _ = predict(photo, names=("--names-file", names))
    assert code == 0, err
    saved = tmp_path / "v.safetensors"
    predictor = OpenVocabularyPredictor(*model_folder.read_model_folder(nano_folder), device="cpu")
    predictor.encode(names).save(saved)
    code, again, err, _ = predict(photo, names=("--vocabulary", saved))
    assert code == 0, err
    assert again == out
    code, _, err, _ = predict(photo, names=("--names-file", tmp_path / "missing.txt"))
    assert code == 2
    assert "missing.txt" in sentence(err)
    code, _, err, _ = predict(photo, names=("--vocabulary", names))
    assert code == 2
    assert "names.txt" in sentence(err)


def test_configs_that_are_wrong(predict, photo, tmp_path, nano_folder):
    weights = nano_folder / "model.safetensors"
    good = (nano_folder / "config.yaml").read_text()
    cases = {
        "missing.yaml": (None, "does not exist"),
        "broken.py": ("model = (", "SyntaxError"),
        "misspelt.yaml": (good.replace("num_convs", "num_convz"), "did you mean 'num_convs'"),
        "empty.yaml": ("{}", "'inference' is missing"),
    }
    for name, (content, reason) in cases.items():
        if content is not None:
            (tmp_path / name).write_text(content)
        model = ("--config", tmp_path / name, "--weights", weights)
        code, _, err, written = predict(photo, model=model)
        assert code == 2
        assert name in sentence(err)
        assert reason in sentence(err)
        assert written == []


def test_weights_that_are_wrong(predict, photo, tmp_path, nano_folder):
    state = load_file(nano_folder / "model.safetensors")
    name = next(iter(state))
    save_file({k: v for k, v in state.items() if k != name}, tmp_path / "less.safetensors")
    torch.save({"model": state, "hook": tmp_path}, tmp_path / "pickled.pth")
    (tmp_path / "broken.safetensors").write_bytes(b"x" * 100)
    cases = {
        "missing.safetensors": "no weights file",
        "less.safetensors": f"missing {name}",
        "pickled.pth": "pickle",
        "broken.safetensors": "cannot be read",
    }
    for file, reason in cases.items():
        model = ("--config", nano_folder / "config.yaml", "--weights", tmp_path / file)
        code, _, err, _ = predict(photo, model=model)
        assert code == 2
        assert file in sentence(err)
        assert reason in sentence(err)


def test_a_shipped_model_by_its_name(predict, photo, tmp_path, nano_folder, monkeypatch):
    monkeypatch.setitem(model_folder.SHIPPED, "emoji_nano", nano_folder)
    assert predict(photo, model=("--model", "emoji_nano"))[1] == predict(photo)[1]
    monkeypatch.chdir(tmp_path)
    code, _, err, _ = predict(photo, model=("--model", "./emoji_nano"))
    assert code == 2
    assert "emoji_nano: there is no such model folder" in sentence(err)


def test_which_model(predict, photo, tmp_path, nano_folder, monkeypatch):
    monkeypatch.setenv("DETCLIP2_MODEL", str(nano_folder))
    assert predict(photo, model=())[0] == 0
    monkeypatch.setenv("DETCLIP2_MODEL", str(tmp_path / "nowhere"))
    code, _, err, _ = predict(photo, model=())
    assert code == 2
    assert "DETCLIP2_MODEL" in sentence(err)
    config = nano_folder / "config.yaml"
    for model in [
        ("--config", config),
        ("--weights", config),
        ("--model", nano_folder, "--config", config),
    ]:
        code, _, err, _ = predict(photo, model=model)
        assert code == 2
        assert "--config" in sentence(err)
    (tmp_path / "half").mkdir()
    code, _, err, _ = predict(photo, model=("--model", tmp_path / "half"))
    assert code == 2
    assert "config.yaml" in sentence(err)


@pytest.mark.parametrize(
    "more",
    [
        ("--score-threshold", "2"),
        ("--nms-threshold", "nan"),
        ("--score-threshold", "much"),
        ("--max-detections", "0"),
        ("--device", "toaster"),
    ],
)
def test_settings_out_of_range(predict, photo, more):
    code, _, err, written = predict(photo, more=more)
    assert code == 2
    assert more[1] in err
    assert written == []


def test_output_that_cannot_be_made(nano_folder, photo, capsys):
    argv = ["predict", photo, "--names", "cat", "--model", nano_folder, "--output", photo / "x"]
    assert cli.main([*map(str, argv)]) == 2
    assert str(photo / "x") in sentence(capsys.readouterr().err)


def test_help_of_every_command(capsys):
    for argv in ([], *([command] for command in cli.COMMANDS)):
        with pytest.raises(SystemExit) as error:
            cli.main([*argv, "--help"])
        assert error.value.code == 0
        assert "usage: detclip2" in capsys.readouterr().out


def test_the_help_has_one_line_for_each_command(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 80 for line in lines)
    for command, meaning in cli.COMMANDS.items():
        assert [line.split(maxsplit=1) for line in lines].count([command, meaning]) == 1


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_the_help_of_a_command_has_an_example_that_parses(command, capsys):
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    _, _, epilog = capsys.readouterr().out.partition("\nexample:\n")
    program, *words = shlex.split(epilog.splitlines()[0])
    assert program == "detclip2"
    assert cli._parse(words).command == command


def test_a_command_that_does_not_exist(capsys):
    with pytest.raises(SystemExit) as error:
        cli.main(["detect"])
    assert error.value.code == 2
    assert "detect" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "hint"),
    [
        (["predct"], "did you mean predict?"),
        (["predict", "a.jpg", "--names", "x", "--output", "y", "--jsn"], "did you mean --json?"),
        (["predict", "a.jpg"], "--help"),
    ],
)
def test_errors_of_usage_are_one_line(argv, hint, capsys):
    with pytest.raises(SystemExit) as error:
        cli.main(argv)
    err = capsys.readouterr().err
    assert (error.value.code, err.count("\n")) == (2, 1)
    assert hint in err


def test_no_command_prints_the_help(capsys):
    with pytest.raises(SystemExit) as error:
        cli.main([])
    assert error.value.code == 0
    assert "commands:" in capsys.readouterr().out


def test_a_video(predict, tmp_path):
    clip = write(tmp_path / "clip.mp4")
    code, out, err, written = predict(clip, more=("--json", "--max-detections", "2"))
    assert code == 0, err
    assert err == ""
    assert [path.name for path in written] == ["clip.detections.mp4", "clip.detections.mp4.json"]
    assert f"{clip}: {COUNT} frames" in out
    assert f"annotated video: {written[0]}" in out
    frames = json.loads(written[1].read_text())["frames"]
    assert [len(frame["detections"]) for frame in frames] == [2] * COUNT
    counts = Counter(label for f in frames for label in {d["label"] for d in f["detections"]})
    rows = [line.split() for line in out.splitlines() if " 0." in line]
    assert {" ".join(row[:2]): int(row[2]) for row in rows} == counts


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_broken_video_does_not_stop_the_others(predict, tmp_path, photo, share):
    clip = cut(write(tmp_path / "clip.mp4", noise=True, options={"movflags": "faststart"}), share)
    code, out, err, written = predict(clip, photo, more=("--json",))
    assert code == 2
    assert str(clip) in sentence(err)
    assert "photo.jpg: " in out
    names = ["photo.detections.jpg", "photo.detections.jpg.json"]
    assert [path.name for path in written] == names
    assert not list((tmp_path / "output").glob(".*"))


def test_the_help_says_what_the_settings_mean(capsys):
    with pytest.raises(SystemExit):
        cli.main(["predict", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for meaning in MEANINGS.values():
        assert meaning in text
