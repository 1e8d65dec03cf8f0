import os
from pathlib import Path

import pytest


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

    models = Path(__file__).parents[1] / "configs" / "models" / "detclipv2.py"
    inference = {"min_size": 96, "max_size": 160, "score_threshold": 0.0, "batch_size": 4}
    cfg = OmegaConf.create({"inference": inference}, flags={"allow_objects": True})
    cfg.model = LazyConfig.load(str(models)).nano
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
