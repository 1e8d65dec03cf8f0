"""Every command that reads files, on damaged ones: it works, or ends with 2 and a sentence."""

import contextlib
import io
import shutil
from unittest import mock

import pytest
import yaml
from hypothesis import given

from detclip2.cli import main
from detclip2.data.datasets.odinw import odinw_sets
from detclip2.utils.errors import UserError
from detclip2.utils.model_folder import CONFIG_NAME
from tests.helpers.damage import damaged_bytes, json_files, json_lines, trees
from tests.helpers.fuzzing import check_sentence, fewer, rewrite
from tests.property.test_binary_files import FORMATS, SHARD, encoded
from tests.property.test_coco_files import COCO, FRACTIONS, PARTLY
from tests.property.test_text_files import CSV, NAMES, PAIR, PAIRS, TSV

pytestmark = pytest.mark.slow
IMAGES = damaged_bytes(*(encoded(*one) for one in FORMATS.items()))
TEXTS = damaged_bytes(NAMES, CSV, text=True)
SOURCE = {
    "_target_": "detclip2.data.sources.Source", "total_batch_size": 2, "num_workers": 0,
    "records": {
        "_target_": "detclip2.data.datasets.captions.CaptionJsonl",
        "jsonl_file": "captions.jsonl", "image_root": ".",
    },
    "mapper": {
        "_target_": "detclip2.data.mappers.CaptionMapper", "max_phrases": 4,
        "augmentations": [{"_target_": "detectron2.data.transforms.Resize", "shape": [8, 8]}],
    },
}  # fmt: skip
CONFIG = {"dataloader": {"train": {"own": SOURCE}}, "images": {"own": 2}, "train": {"max_iter": 4}}
INFERENCE = {"min_size": 96, "max_size": 160, "batch_size": 4, "score_threshold": 0.0}


@pytest.fixture
def run(folder, monkeypatch):
    """Runs a command in the folder with a new output; the code is 0 or 2, with a sentence."""
    monkeypatch.chdir(folder)

    def run(*arguments):
        shutil.rmtree("output", ignore_errors=True)
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()) as errors,
        ):
            try:
                code = main([str(argument) for argument in arguments])
            except SystemExit as end:  # of a training, which may be one of several processes
                code = end.code
        assert code in (0, 2)
        assert "Traceback" not in errors.getvalue()
        if code == 2:
            sentences = [x for x in errors.getvalue().splitlines() if x.startswith("detclip2: ")]
            assert len(sentences) == 1
            check_sentence(sentences[0])

    return run


def check(files, function, divisor=50):
    """Call a function with damaged files, of which there are fewer than for readers."""
    fewer(divisor)(given(files)(function))()


def test_predict_images(run, folder, nano_folder):
    def one(content):
        rewrite(folder / "damaged.png", content)
        run("predict", "damaged.png", "--names", "red", "--model", nano_folder, "--output",
            "output", "--json")  # fmt: skip

    check(IMAGES, one)


@pytest.mark.parametrize("name", ["names.txt", "names.csv"])
def test_predict_names(run, folder, nano_folder, name):
    def one(content):
        rewrite(folder / name, content)
        run("predict", "a.png", "--names-file", name, "--model", nano_folder, "--output", "output")

    check(TEXTS, one, 100)


def test_predict_with_a_config(run, folder, nano_folder):
    shutil.copytree(nano_folder, folder / "model")
    original = yaml.safe_load((nano_folder / CONFIG_NAME).read_bytes())

    def one(tree):
        config = yaml.safe_dump({**original, "inference": tree}).encode()
        rewrite(folder / "model" / CONFIG_NAME, config)
        run("predict", "a.png", "--names", "red", "--model", "model", "--output", "output")

    check(trees(INFERENCE, most=2), one, 100)


def test_vocabulary(run, folder, nano_folder):
    def one(content):
        rewrite(folder / "names.txt", content)
        run("vocabulary", "names.txt", "--model", nano_folder, "--output", "v.safetensors")

    check(TEXTS, one, 100)


def test_explain(run, folder, nano_folder):
    def one(content):
        rewrite(folder / "damaged.png", content)
        run("explain", "damaged.png", "--caption", "a red dog", "--model", nano_folder, "--output",
            "figure.png")  # fmt: skip

    check(IMAGES, one, 100)


def test_finetune(run, folder, nano_folder):
    """All before the training: its data is read, joined, reported and written."""
    stop = mock.patch(
        "detclip2.commands.finetune.finetune_config", side_effect=UserError("data is read")
    )

    def one(content):
        rewrite(folder / "train.json", content)
        with stop:
            run("finetune", "--train", "train.json", "--val", "train.json", "--images", ".",
                "--model", nano_folder, "--output", "output")  # fmt: skip

    check(json_files(COCO, FRACTIONS, PARTLY), one, 20)


@pytest.mark.parametrize(
    ("name", "files", "more"),
    [
        ("captions.txt", damaged_bytes(NAMES, text=True), ()),
        ("captions.tsv", damaged_bytes(TSV, text=True), ("--image-name", "{md5}.jpg")),
        ("captions.jsonl", json_lines(PAIR, PAIRS), ()),
        ("shard.tar", damaged_bytes(SHARD), ("--copy-shards",)),
    ],
)
def test_phrases(run, folder, name, files, more):
    def one(content):
        rewrite(folder / name, content)
        run("phrases", name, "--output", "output", "--workers", 1, "--backend", "rules", *more)

    check(files, one, 40)


@pytest.mark.parametrize(
    "command", [("plan", "--no-measure", "--gpus", 1), ("train", "--eval-only")]
)
def test_configs(run, folder, command):
    """Keys of the model and the output folder are as they should be: they take memory and disk."""

    def one(tree):
        if isinstance(tree, dict) and isinstance(tree.get("train"), dict):
            tree["train"]["output_dir"] = "output"
        elif command[0] == "train":
            return
        rewrite(folder / "config.yaml", yaml.safe_dump(tree).encode())
        run(*command, "--config", "config.yaml")

    check(trees(CONFIG), one)


def test_show_data_of_configs(run, folder):
    rewrite(folder / "captions.jsonl", b'{"image": "a.png", "caption": "a red dog"}\n' * 3)

    def one(tree):
        rewrite(folder / "config.yaml", yaml.safe_dump(tree).encode())
        run("show-data", "--config", "config.yaml", "--count", 1, "--output", "output")

    check(trees(CONFIG), one)


def test_show_data_of_captions(run, folder):
    rewrite(folder / "config.yaml", yaml.safe_dump(CONFIG).encode())

    def one(content):
        rewrite(folder / "captions.jsonl", content)
        run("show-data", "--config", "config.yaml", "--count", 1, "--output", "output")

    check(json_lines(PAIR, PAIRS), one)


def test_odinw(run, folder, nano_folder):
    name = "AerialMaritimeDrone_large"
    [one] = odinw_sets(13, [name])
    file = one.annotations(folder, "valid")
    file.parent.mkdir(parents=True)
    for image in ("a.png", "b.png"):
        shutil.copy(folder / image, file.parent)
    content = {**COCO, "categories": [{"id": i, "name": n} for i, n in enumerate(one.classes, 1)]}

    def evaluate(content):
        rewrite(file, content)
        run("odinw", folder, "--sets", name, "--model", nano_folder, "--output", "output")

    check(json_files(content), evaluate, 100)
