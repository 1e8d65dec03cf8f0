import gc
import logging
import os
from copy import deepcopy
from functools import partial
from pathlib import Path

import pytest

import detclip2  # noqa: F401  (offers the stand-in where there is no Detectron2)

pytest_plugins = ["tests.helpers.costs", "tests.helpers.fuzzing", "pytester"]

# The objects of the imported libraries live as long as the process: the garbage collector does not
# go through them again and again, neither while tests are collected nor while they run.
gc.disable()


def pytest_collection_finish():
    gc.freeze()
    gc.enable()


MODELS = Path(__file__).parents[1] / "configs" / "models" / "detclipv2.py"


@pytest.fixture(autouse=True)
def loggers():
    """The loggers that a training sets up are put back."""
    loggers = [logging.getLogger(name) for name in ("detectron2", "fvcore", "detclip2")]
    before = [(logger.handlers[:], logger.level) for logger in loggers]
    for logger in loggers:
        logger.propagate = True  # to `caplog`, also after a training of a fixture of the module
    yield
    for logger, (handlers, level) in zip(loggers, before, strict=True):
        for handler in set(logger.handlers) - set(handlers):
            logger.removeHandler(handler)
            handler.close()
        logger.handlers[:] = handlers
        logger.setLevel(level)
        logger.propagate = True


@pytest.fixture(scope="session")
def test_data():
    """The folder with small real data sets; tests that need it are skipped if it is missing."""
    folder = os.environ.get("DETCLIP2_TEST_DATA")
    if not folder:
        pytest.skip("real data: DETCLIP2_TEST_DATA is not set")
    return Path(folder)


@pytest.fixture(scope="session")
def emoji_font():
    """The font that scenes are drawn with; tests that draw are skipped if it is missing."""
    from detclip2.data.emojiscenes.sprites import find_emoji_font
    from detclip2.utils.errors import UserError

    try:
        return find_emoji_font()
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture
def quick_launch(monkeypatch, tmp_path):
    """Detectron2's `launch` forks its processes from a server; the file of their standard error."""
    from torch import multiprocessing

    from tests.helpers import processes

    stderr = tmp_path / "stderr.txt"
    stderr.touch()
    start = partial(processes.start_from_server, multiprocessing.start_processes, stderr)
    monkeypatch.setattr(multiprocessing, "start_processes", start)
    return stderr


@pytest.fixture(scope="session")
def nano_config():
    """A config of the nano model for small images; treat it as read-only."""
    from detectron2.config import LazyConfig
    from omegaconf import OmegaConf

    inference = {"min_size": 96, "max_size": 160, "score_threshold": 0.0, "batch_size": 4}
    cfg = OmegaConf.create({"inference": inference}, flags={"allow_objects": True})
    cfg.model = LazyConfig.load(str(MODELS)).nano
    return cfg


@pytest.fixture(scope="session")
def nano_folder(nano_config, tmp_path_factory):
    """A model folder of the nano model with random weights."""
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


@pytest.fixture(scope="session")
def one_tiny_config():
    """That of `tiny_config`, read-only."""
    from tests.helpers.tiny_detector import config

    return config()


@pytest.fixture
def tiny_config(one_tiny_config):
    """The nano model's config with few channels and layers: a forward pass takes milliseconds."""
    return deepcopy(one_tiny_config)


@pytest.fixture(scope="session")
def one_tiny_model(one_tiny_config):
    """That of `tiny_model`, read-only."""
    import torch
    from detectron2.config import instantiate

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return instantiate(one_tiny_config).train()


@pytest.fixture
def tiny_model(one_tiny_model):
    """The model of `tiny_config` with fixed random weights, in training mode."""
    return deepcopy(one_tiny_model)


@pytest.fixture
def colors():
    """A predictor whose correct detections are known."""
    from detclip2.config import InferenceSettings
    from detclip2.inference.predictor import OpenVocabularyPredictor
    from detclip2.modeling.thresholds import DetectionThresholds
    from tests.helpers.color_model import ColorModel

    thresholds = DetectionThresholds(score_threshold=0.1)
    settings = InferenceSettings(120, 200, batch_size=4, thresholds=thresholds)
    return OpenVocabularyPredictor.from_model(ColorModel(), settings)
