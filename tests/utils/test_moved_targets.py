"""Configs written before modules moved."""

from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate
from detectron2.utils.registry import locate
from omegaconf import OmegaConf

from detclip2.config import build_model, load_config
from detclip2.engine.train_loop import load
from detclip2.inference.predictor import OpenVocabularyPredictor
from detclip2.utils.errors import UserError
from detclip2.utils.model_folder import SHIPPED, WEIGHTS_NAME
from detclip2.utils.moved_targets import present_target, with_present_names

EMOJI_NANO = SHIPPED["emoji_nano"]
FORMER = Path(__file__).with_name("former_config.yaml")  # of a run before the modules moved


def targets(node):
    if isinstance(node, dict):
        if "_target_" in node:
            yield node["_target_"]
        for value in node.values():
            yield from targets(value)
    elif isinstance(node, list):
        for value in node:
            yield from targets(value)


def test_every_former_target_resolves():
    cfg, _ = load_config(FORMER)
    found = set(targets(OmegaConf.to_container(cfg, resolve=False)))
    assert "detclip2.modeling.meta_arch.detclipv2.DetCLIPv2" in found
    assert len(found) > 20
    for target in found:
        assert callable(locate(target)), target
    former = set(targets(OmegaConf.to_container(OmegaConf.load(FORMER), resolve=False)))
    assert {present_target(target) for target in former} == found


def test_a_former_model_folder_predicts_the_same(tmp_path):
    (tmp_path / "config.yaml").write_bytes(FORMER.read_bytes())
    (tmp_path / WEIGHTS_NAME).symlink_to(EMOJI_NANO / WEIGHTS_NAME)
    image = torch.randint(256, (64, 80, 3), generator=torch.Generator().manual_seed(0)).numpy()
    found = []
    for folder in (tmp_path, EMOJI_NANO):
        predictor = OpenVocabularyPredictor(
            folder / "config.yaml", folder / WEIGHTS_NAME, device="cpu", score_threshold=0.0
        )
        predictor.set_vocabulary(["owl", "red envelope"])
        found.append(predictor(image.astype("uint8")))
    former, present = found
    assert len(former) > 0
    assert torch.equal(former.scores, present.scores)
    assert torch.equal(former.pred_boxes.tensor, present.pred_boxes.tensor)


def test_renamed_targets_and_arguments():
    former = {
        "model": {"box_losses": {"_target_": "detclip2.modeling.box_losses.BoxLosses"}},
        "lr_multiplier": {
            "_target_": "detclip2.engine.budget.SharedStartCosine",
            "max_iter": 100,
            "warmup_iterations": 10,
            "shared": 40,
        },
        "train": {"auto_step": None},
        "others": ["detclip2.modeling.detclip.DetCLIPv2", 3, None],
    }
    present = with_present_names(former)
    assert present["model"]["box_losses"]["_target_"].endswith(
        ".losses.detection.DetectionCriterion"
    )
    assert instantiate(OmegaConf.create(present["lr_multiplier"]))(0.4) == pytest.approx(1)
    assert present["train"] == {}
    assert present["others"] == former["others"]  # not a target
    assert former["train"] == {"auto_step": None}


def test_existing_targets_keep_their_names():
    for target in ("torch.optim.AdamW", "detclip2.modeling.alignment.Alignment", "print"):
        assert present_target(target) == target


def test_a_former_run_is_evaluated_with_its_vocabulary(tmp_path):
    cfg, _ = load_config(FORMER)
    assert sum(p.numel() for p in build_model(cfg).parameters()) > 1e6
    args = type("Args", (), {"config_file": str(FORMER), "opts": []})()
    with pytest.raises(UserError, match=r"dataloader.vocabulary is missing.*of_dataset"):
        load(args)
    former = FORMER.read_text(encoding="utf-8")
    converted = tmp_path / "config.yaml"
    converted.write_text(former.replace("dataloader:\n", "dataloader:\n  vocabulary: null\n", 1))
    args.config_file = str(converted)
    assert load(args).train.reduce_lr_on_plateau is None
