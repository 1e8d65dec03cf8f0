import os
from pathlib import Path

import pytest

MODELS = Path(__file__).parents[1] / "configs" / "models" / "detclipv2.py"


@pytest.fixture(scope="session")
def test_data():
    """The folder with small real data sets; tests that need it are skipped where it is not."""
    folder = os.environ.get("DETCLIP2_TEST_DATA")
    if not folder:
        pytest.skip("real data: DETCLIP2_TEST_DATA is not set")
    return Path(folder)


@pytest.fixture(scope="session")
def nano_config():
    """A config of the nano model for small pictures; treat it as read-only."""
    from detectron2.config import LazyConfig
    from omegaconf import OmegaConf

    inference = {"min_size": 96, "max_size": 160, "score_threshold": 0.0, "batch_size": 4}
    cfg = OmegaConf.create({"inference": inference}, flags={"allow_objects": True})
    cfg.model = LazyConfig.load(str(MODELS)).nano
    return cfg


@pytest.fixture(scope="session")
def nano_folder(nano_config, tmp_path_factory):
    """A model folder with the nano model at random weights."""
    import torch
    from detectron2.config import LazyConfig, instantiate
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("nano")
    LazyConfig.save(nano_config, str(folder / "config.yaml"))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = instantiate(nano_config.model)
    save_file(model.state_dict(), folder / "model.safetensors")
    return folder


@pytest.fixture
def tiny_config():
    """The nano model's config with few channels and layers: a forward pass takes milliseconds."""
    from detectron2.config import LazyConfig

    cfg = LazyConfig.load(str(MODELS)).nano
    cfg.backbone.bottom_up.update(layers=[1, 1, 1, 1], channels=[8, 8, 16, 16], stem_width=8)
    cfg.backbone.channels = 16
    cfg.head.update(embed_dim=16, num_convs=1, num_groups=4)
    return cfg


@pytest.fixture
def tiny_model(tiny_config):
    """The model of `tiny_config` at the same random weights every time, in training mode."""
    import torch
    from detectron2.config import instantiate

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return instantiate(tiny_config).train()


@pytest.fixture
def colors():
    """A predictor whose right answers are known."""
    from detclip2.config import InferenceSettings
    from detclip2.inference.predictor import OpenVocabularyPredictor
    from tests.helpers.color_model import ColorModel

    settings = InferenceSettings(min_size=120, max_size=200, score_threshold=0.1, batch_size=4)
    return OpenVocabularyPredictor.from_model(ColorModel(), settings)
