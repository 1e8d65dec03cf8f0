import pytest
from detectron2.config import LazyConfig
from omegaconf import OmegaConf

from detclip2.config import apply_overrides
from detclip2.engine.resumed_config import check_resumed
from detclip2.utils.errors import UserError
from tests.helpers.tiny_training import tiny_config


@pytest.fixture
def begun(tmp_path):
    """The config of a run that has a checkpoint."""
    cfg = tiny_config(tmp_path)
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    (tmp_path / "last_checkpoint").write_text("model_0000003.pth")
    return cfg


@pytest.mark.parametrize(
    "override",
    [
        "train.max_iter=100",
        "train.log_period=7",
        "train.checkpointer.period=2",
        "train.device=cuda",
        "dataloader.train.detection.num_workers=3",
    ],
)
def test_what_may_change(begun, override):
    check_resumed(begun)
    check_resumed(apply_overrides(begun, [override]))


@pytest.mark.parametrize(
    ("override", "then", "now"),
    [
        ("optimizer.lr=0.5", "0.001", "0.5"),
        ("train.seed=9", "0", "9"),
        ("world.categories=7", "30", "7"),
        ("dataloader.train.detection.total_batch_size=8", "4", "8"),
        ("train.ema=0.9", "None", "0.9"),
        ("model.head.num_convs=2", "1", "2"),
        ("+model.backbone.norm=GN", "absent", "GN"),
    ],
)
def test_other_keys_are_refused_with_the_difference(begun, override, then, now):
    key = override.partition("=")[0].lstrip("+")
    then = str(OmegaConf.select(begun, key)) if then != "absent" else then
    with pytest.raises(UserError) as error:
        check_resumed(apply_overrides(begun, [override]))
    assert f"{key} was {then}, and is {now}" in str(error.value)
    assert "config.yaml" in str(error.value)


def test_another_class_is_refused(begun):
    begun.lr_multiplier._target_ = "detclip2.engine.solver.warmup_cosine"
    with pytest.raises(UserError, match="lr_multiplier"):
        check_resumed(begun)


def test_there_is_nothing_to_compare_without_a_run(begun, tmp_path):
    begun.train.seed = 9
    (tmp_path / "last_checkpoint").unlink()
    check_resumed(begun)
    begun.train.output_dir = str(tmp_path / "new")
    check_resumed(begun)


def test_a_config_that_cannot_be_loaded_is_not_compared(begun, tmp_path, caplog):
    (tmp_path / "config.yaml").write_text("{")
    check_resumed(begun)
    assert "cannot be compared" in caplog.text
