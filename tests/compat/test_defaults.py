"""Trainer, predictor and set-up from a yacs config, with a model of a few numbers."""

import copy
import json
import logging
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import (
    DefaultPredictor,
    DefaultTrainer,
    default_argument_parser,
    default_setup,
    default_writers,
)
from detectron2.evaluation import DatasetEvaluator
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import BoxMode
from detectron2.utils.events import (
    CommonMetricPrinter,
    EventStorage,
    JSONWriter,
    TensorboardXWriter,
)
from omegaconf import OmegaConf
from PIL import Image
from torch import nn

NAME, OTHER = "contract_defaults", "contract_defaults_2"


@META_ARCH_REGISTRY.register()
class ContractMeanColour(nn.Module):
    """Learns the mean colour of the images; predicts the error."""

    def __init__(self, cfg):
        super().__init__()
        self.colour = nn.Parameter(torch.zeros(3))
        cfg.VIS_PERIOD = 9  # a model may change the config it is given

    def forward(self, batch):
        if self.training:
            means = torch.stack([sample["image"].float().mean((1, 2)) for sample in batch]) / 255
            return {"loss_colour": (self.colour - means).square().mean()}
        return [{"input": sample, "colour": self.colour} for sample in batch]


@pytest.fixture
def cfg(tmp_path):
    rng = np.random.default_rng(0)
    records = []
    for image_id in range(6):
        path = str(tmp_path / f"{image_id}.png")
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(path)
        box = {"bbox": [2, 4, 10, 9], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}
        size = {"height": 20, "width": 30}
        records.append({"file_name": path, "image_id": image_id, "annotations": [box], **size})
    DatasetCatalog.register(NAME, lambda: copy.deepcopy(records))
    DatasetCatalog.register(OTHER, lambda: copy.deepcopy(records[:2]))
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE = "ContractMeanColour"
    cfg.MODEL.DEVICE = "cpu"
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (NAME,)
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.INPUT.MIN_SIZE_TRAIN = (16,)
    cfg.INPUT.MIN_SIZE_TEST = 10
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.SOLVER.BASE_LR = 0.1
    cfg.SOLVER.MAX_ITER = 8
    cfg.SOLVER.STEPS = (6,)
    cfg.SOLVER.WARMUP_ITERS = 2
    cfg.SOLVER.CHECKPOINT_PERIOD = 4
    cfg.TEST.EVAL_PERIOD = 4
    cfg.SEED = 1
    cfg.OUTPUT_DIR = str(tmp_path / "output")
    yield cfg
    for name in (NAME, OTHER):
        DatasetCatalog.pop(name)
        MetadataCatalog.pop(name, None)


class CountImages(DatasetEvaluator):
    def reset(self):
        self.ids = []

    def process(self, inputs, outputs):
        self.ids += [image["image_id"] for image in inputs]

    def evaluate(self):
        return {"count": {"images": len(set(self.ids))}}


class Trainer(DefaultTrainer):
    @classmethod
    def build_evaluator(cls, cfg, dataset_name):
        assert dataset_name == NAME
        return CountImages()


def test_training(cfg, tmp_path):
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    assert trainer.iter == 8
    files = {path.name for path in (tmp_path / "output").iterdir()}
    expected = {"model_0000003.pth", "model_0000007.pth", "model_final.pth", "last_checkpoint"}
    assert expected | {"metrics.json"} <= files
    lines = (tmp_path / "output" / "metrics.json").read_text().splitlines()
    last = json.loads(lines[-1])
    assert last["count/images"] == 6
    losses = [value for value, _ in trainer.storage.history("total_loss").values()]
    assert losses[-1] < losses[0]
    rates = [value for value, _ in trainer.storage.history("lr").values()]
    assert rates[2:] == pytest.approx([0.1] * 4 + [0.01] * 2)
    assert rates[0] < rates[1] < rates[2]


def test_resuming(cfg):
    whole = Trainer(cfg)
    whole.train()
    again = Trainer(cfg)
    again.resume_or_load(resume=True)
    assert again.start_iter == 8
    assert torch.equal(again.model.colour, whole.model.colour)
    assert again.scheduler.last_epoch == 8
    assert again.optimizer.state_dict()["state"].keys() == {0}
    again.train()
    assert torch.equal(again.model.colour, whole.model.colour)

    fresh = Trainer(cfg)
    fresh.resume_or_load(resume=False)
    assert fresh.start_iter == 0
    assert fresh.model.colour.tolist() == [0, 0, 0]


def test_parts_of_the_inner_trainer(cfg):
    trainer = Trainer(cfg)
    model = nn.Linear(1, 1)
    trainer.model = model
    assert trainer.model is model
    assert isinstance(trainer.optimizer, torch.optim.SGD)
    assert len(next(iter(trainer.data_loader))) == 2


def test_evaluation(cfg):
    model = Trainer.build_model(cfg.clone())
    assert Trainer.test(cfg, model) == {"count": {"images": 6}}
    assert DefaultTrainer.test(cfg, model) == {}
    assert DefaultTrainer.test(cfg, model, CountImages()) == {"count": {"images": 6}}
    with pytest.raises(AssertionError):
        DefaultTrainer.test(cfg, model, [CountImages(), CountImages()])
    cfg.DATASETS.TEST = (NAME, OTHER)
    results = DefaultTrainer.test(cfg, model, [CountImages(), CountImages()])
    assert results == {NAME: {"count": {"images": 6}}, OTHER: {"count": {"images": 2}}}
    assert model.training


def test_config_for_another_number_of_processes(cfg):
    cfg.SOLVER.REFERENCE_WORLD_SIZE = 2
    cfg.freeze()
    scaled = DefaultTrainer.auto_scale_workers(cfg, 4)
    assert scaled.is_frozen()
    solver = scaled.SOLVER
    assert (4, pytest.approx(0.2)) == (solver.IMS_PER_BATCH, solver.BASE_LR)
    assert (solver.MAX_ITER, solver.STEPS, solver.WARMUP_ITERS) == (4, (3,), 1)
    assert (solver.CHECKPOINT_PERIOD, scaled.TEST.EVAL_PERIOD) == (2, 2)
    assert solver.REFERENCE_WORLD_SIZE == 4
    assert cfg.SOLVER.IMS_PER_BATCH == 2
    assert DefaultTrainer.auto_scale_workers(cfg, 2) is cfg


@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
def test_prediction(cfg, tmp_path, image_format):
    path = str(tmp_path / "weights.pth")
    torch.save({"model": {"colour": torch.tensor([1.0, 2.0, 3.0])}}, path)
    cfg.MODEL.WEIGHTS = path
    cfg.INPUT.FORMAT = image_format
    predictor = DefaultPredictor(cfg)
    assert not predictor.model.training
    assert cfg.VIS_PERIOD == 0
    assert predictor.metadata is MetadataCatalog.get(NAME)
    bgr = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    output = predictor(bgr)
    assert output["colour"].tolist() == [1, 2, 3]
    assert not output["input"]["image"].requires_grad
    assert (output["input"]["height"], output["input"]["width"]) == (20, 30)
    picture = Image.fromarray(bgr[:, :, ::-1] if image_format == "RGB" else bgr)
    resized = np.asarray(picture.resize((15, 10), Image.BILINEAR))
    assert output["input"]["image"].dtype == torch.float32
    assert np.array_equal(output["input"]["image"].permute(1, 2, 0).numpy(), resized)


def test_prediction_in_another_format(cfg):
    cfg.INPUT.FORMAT = "L"
    with pytest.raises(AssertionError):
        DefaultPredictor(cfg)


@pytest.fixture
def _loggers():
    """Remove the handlers that `default_setup` adds; their files are deleted after the test."""
    loggers = [logging.getLogger(name) for name in ("detectron2", "fvcore")]
    before = [(list(logger.handlers), logger.propagate) for logger in loggers]
    yield
    for logger, (handlers, propagate) in zip(loggers, before, strict=True):
        logger.handlers, logger.propagate = handlers, propagate


def draw():
    return random.random(), np.random.rand(), torch.rand(1).item()


@pytest.mark.usefixtures("_loggers")
def test_set_up_of_a_job(cfg, tmp_path):
    benchmark = torch.backends.cudnn.benchmark
    output = tmp_path / "output"
    default_setup(cfg, {})
    first = draw()
    saved = get_cfg()
    saved.merge_from_file(str(output / "config.yaml"))
    for section in ("DATASETS", "INPUT", "SOLVER", "OUTPUT_DIR"):
        assert saved[section] == cfg[section]
    assert (output / "log.txt").exists()

    lazy = OmegaConf.create({"train": {"output_dir": str(tmp_path / "lazy"), "seed": 1}})
    config_file = tmp_path / "config.py"
    config_file.write_text("train = dict(seed=1)\n")
    default_setup(lazy, SimpleNamespace(config_file=str(config_file), eval_only=True))
    assert draw() == first
    assert OmegaConf.load(tmp_path / "lazy" / "config.yaml") == lazy

    lazy.train.seed = -1
    default_setup(lazy, SimpleNamespace(config_file=""))
    assert draw() != first
    torch.backends.cudnn.benchmark = benchmark


def test_arguments():
    parser = default_argument_parser()
    arguments = parser.parse_args([])
    assert (arguments.config_file, arguments.opts) == ("", [])
    assert (arguments.num_gpus, arguments.num_machines, arguments.machine_rank) == (1, 1, 0)
    assert not arguments.resume
    assert not arguments.eval_only
    assert arguments.dist_url.startswith("tcp://127.0.0.1:")
    line = "--config-file a.py --num-gpus 2 --resume --eval-only train.max_iter=3 model.depth=4"
    arguments = parser.parse_args(line.split())
    assert (arguments.config_file, arguments.num_gpus) == ("a.py", 2)
    assert arguments.resume
    assert arguments.eval_only
    assert arguments.opts == ["train.max_iter=3", "model.depth=4"]


def test_writers(tmp_path):
    writers = default_writers(str(tmp_path / "new"), max_iter=10)
    assert [type(w) for w in writers] == [CommonMetricPrinter, JSONWriter, TensorboardXWriter]
    with EventStorage() as storage:
        storage.put_scalar("loss", 1.0)
        for writer in writers:
            writer.write()
            writer.close()
    written = json.loads((tmp_path / "new" / "metrics.json").read_text())
    assert written == {"loss": 1.0, "iteration": 0}
    assert list((tmp_path / "new").glob("events.*"))
