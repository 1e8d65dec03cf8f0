import pytest


@pytest.fixture
def sensitive_model(tmp_path, nano_config, nano_folder):
    """A folder of the untrained nano model whose scores are high, so that it finds something."""
    import json

    from detectron2.config import LazyConfig
    from omegaconf import OmegaConf
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "sensitive"
    folder.mkdir()
    cfg = OmegaConf.create(nano_config, flags={"allow_objects": True})
    cfg.inference = {"min_size": 96, "max_size": 160, "batch_size": 4, "score_threshold": 0.3}
    LazyConfig.save(cfg, str(folder / "config.yaml"))
    weights = load_file(nano_folder / "model.safetensors")
    weights["align.bias"] += 4
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "detclip2"}))
    return folder
