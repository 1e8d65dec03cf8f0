"""Levels of tuning, from the command to predictions."""

import json

import pytest
import torch
from detectron2.config import LazyConfig, instantiate

from detclip2.cli import main as detclip2
from detclip2.inference.predictor import OpenVocabularyPredictor
from detclip2.inference.vocabulary import Vocabulary
from detclip2.utils.model_folder import save_weights
from detclip2.utils.weights import read_weights
from tests.helpers.own_data import own_content, write_own_data
from tests.helpers.tiny_training import PROJECT, tiny_config, tiny_glip_config

MODELS = {"detclip": tiny_config, "glip": tiny_glip_config}


@pytest.fixture(scope="module", params=MODELS)
def base(request, tmp_path_factory):
    """The folder of a tiny model with random weights."""
    folder = tmp_path_factory.mktemp(request.param)
    cfg = MODELS[request.param](folder)
    if request.param == "glip":
        cfg.model.postprocess.min_probability = 0.0  # of random weights they are about 0.01
    LazyConfig.save(cfg, str(folder / "config.yaml"))
    torch.manual_seed(0)
    save_weights(instantiate(cfg.model), folder)
    return folder


def run(*words):
    return detclip2([str(word) for word in words])


def detections(predictor, image, names):
    predictor.set_vocabulary(Vocabulary.from_names(names))
    return predictor(image, score_threshold=0.0, max_detections=20)


def assert_same(one, other):
    assert len(one) == len(other) > 0
    torch.testing.assert_close(one.scores, other.scores, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(one.pred_boxes.tensor, other.pred_boxes.tensor, rtol=1e-3, atol=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("level", ["head", "prompt", "lora"])
def test_a_small_file_is_the_whole_difference(level, base, tmp_path, capsys):
    if level == "lora":
        pytest.importorskip("peft")
    path = write_own_data(tmp_path / "data", own_content())
    output = tmp_path / "output"
    data = ["--train", path, "--val", path, "--images", path.parent, "--device", "cpu"]
    words = ["--iterations", 2, "--batch-size", 2, "--num-workers", 0, "--lr", 0.1]
    chosen = ["--model", base, "--output", output, "--tune", level]
    assert run("finetune", *data, *words, *chosen) == 0
    printed = capsys.readouterr().out
    assert "--tuned" in printed
    assert ("may be forgotten" in printed) == (level != "prompt")
    small = output / "tuned.safetensors"
    results = json.loads((output / "finetune.json").read_text())
    assert results["tuned_bytes"] == small.stat().st_size

    before, after = (read_weights(folder / "model.safetensors") for folder in (base, output))
    changed = {n for n, t in after.items() if n not in before or not torch.equal(t, before[n])}
    starts = {
        "head": ("head.box.", "head.centerness.", "head.region.", "align.", "token_head.",
                 "text_tower.projection."),
        "prompt": ("text_tower.phrase_offsets.", "text_tower.token_offsets."),
        "lora": ("backbone.bottom_up.", "text_tower.model.", "head.box_tower.",
                 "head.class_tower."),
    }[level]  # fmt: skip
    assert changed
    assert all(name.startswith(starts) for name in changed), changed

    image = next((tmp_path / "data").glob("*.png"))
    names = ["red square", "blue square"]
    tuned = OpenVocabularyPredictor(base, tuned=small, device="cpu")
    whole = OpenVocabularyPredictor(output, device="cpu")
    plain = OpenVocabularyPredictor(base, device="cpu")
    assert_same(detections(tuned, image, names), detections(whole, image, names))
    if level == "prompt":  # other names are as before
        assert_same(detections(tuned, image, ["fork"]), detections(plain, image, ["fork"]))
        found = [detections(one, image, names).scores for one in (tuned, plain)]
        assert not torch.allclose(*found, rtol=1e-5)
    assert run(
        *("predict", image, "--names", "red square", "--model", base, "--tuned", small),
        *("--output", tmp_path / "drawn", "--device", "cpu"),
    ) == 0  # fmt: skip


@pytest.mark.slow
def test_names_that_are_kept_can_be_measured_alone(tmp_path, capsys):
    """With --mix-share 0 the source is not trained on."""
    folder = tmp_path / "base"
    cfg = tiny_config(folder)
    folder.mkdir()
    LazyConfig.save(cfg, str(folder / "config.yaml"))
    save_weights(instantiate(cfg.model), folder)
    mixed = LazyConfig.load(str(PROJECT / "configs" / "emoji_nano_detection.py"))
    mixed.world.update(categories=5, size=64)
    mixed.dataloader.test.dataset.count = 2
    LazyConfig.save(mixed, str(tmp_path / "mixed.yaml"))
    path = write_own_data(tmp_path / "data", own_content())
    assert run(
        *("finetune", "--train", path, "--val", path, "--images", path.parent, "--iterations", 1),
        *("--batch-size", 1, "--num-workers", 0, "--device", "cpu", "--tune", "prompt"),
        *("--model", folder, "--output", tmp_path / "output"),
        *("--mix", f"{tmp_path / 'mixed.yaml'}/detection", "--mix-share", 0),
    ) == 0  # fmt: skip
    assert "AP of names from --mix" in capsys.readouterr().out
    results = json.loads((tmp_path / "output" / "finetune.json").read_text())["zero_shot"]
    assert results["before"] == pytest.approx(results["after"], nan_ok=True)
    written = LazyConfig.load(str(tmp_path / "output" / "config.yaml"))
    assert set(written.dataloader.train) == {"_target_", "own", "seed"}
