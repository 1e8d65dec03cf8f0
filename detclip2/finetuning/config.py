"""Config of a fine-tuning on a user's own data, with a schedule for its size."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.config import LazyCall as L
from detectron2.data import build_detection_test_loader
from detectron2.data import transforms as T
from omegaconf import DictConfig, OmegaConf

from detclip2.config import get_config, inference_settings, load_config, reason_of
from detclip2.data.datasets.detection import detection_set, names_of_json
from detclip2.data.hybrid_loader import HybridLoader, Source, source_nodes
from detclip2.data.mappers import DetectionMapper, EvaluationMapper
from detclip2.engine.run_folder import TEXT_MODEL
from detclip2.engine.solver import iterations_of_epochs, warmup_cosine
from detclip2.evaluation.coco import CheckedCOCOEvaluator
from detclip2.finetuning.tuning import set_level
from detclip2.inference.vocabulary import Vocabulary
from detclip2.utils.errors import UserError
from detclip2.utils.repository import config_of_user

# The paper fine-tunes on LVIS (100,000 images) for 24 epochs (Tab. 10), and on the small sets of
# ODinW for up to 250 (Tab. 11). Between these limits, every data set gets at least MIN_ITERATIONS.
MIN_EPOCHS, MAX_EPOCHS, MIN_ITERATIONS = 24, 250, 1000
EVALUATIONS = 5  # of a run
MAX_PHRASES = 150  # Tab. 10
ZERO_SHOT = "zero_shot"  # key and subfolder of the evaluation of --mix
SCALES = (0.6, 0.7, 0.8, 0.9, 1.0)  # of the shorter edge: commonly 480 to 800 px


@dataclass(frozen=True)
class Data:
    """The checked annotations of a run and their images."""

    train: Path
    val: Path
    images: Path
    num_train: int
    names: tuple[str, ...]
    """Category names."""


@dataclass(frozen=True)
class Settings:
    """A user's settings of a run; the data and the base model decide those that are None."""

    batch_size: int | None = None
    iterations: int | None = None
    size: int | None = None
    """Shorter edge of the images, px."""
    lr: float | None = None
    mix: str | None = None
    """CONFIG/SOURCE: another source to train on, so that the model keeps its names; the test set of
    that config, if any, measures how well."""
    mix_share: float = 0.25
    """Share of that source in the iterations; 0: it is measured, and not trained on."""
    num_workers: int = 2
    device: str = "cpu"
    trust_config: bool = False
    """Whether a .yaml config of `mix` may build anything."""
    seed: int = 0
    tune: str = "full"
    """One of `detclip2.finetuning.tuning.LEVELS`."""


def iterations_for(num_images: int, batch_size: int) -> int:
    """Iterations for a data set of this size: 24 epochs, or up to 250 to reach 1,000 iterations."""
    epochs = min(max(MIN_EPOCHS, MIN_ITERATIONS * batch_size / num_images), MAX_EPOCHS)
    return iterations_of_epochs(num_images, batch_size, epochs)


def finetune_config(
    base: DictConfig, base_name: str, weights: Path, data: Data, output: Path, settings: Settings
) -> DictConfig:
    """The config of a fine-tuning, which train_net.py can run too.

    Args:
        base: config of the model to start from, with ``model``, ``optimizer`` and ``inference``.
        base_name: name of that config in messages.
        weights: file of the weights to start from.
        data: the training and validation data.
        output: the folder of the run.
        settings: settings of the user.

    Raises:
        UserError: the base lacks a key, or the source of ``settings.mix`` does not exist.
    """
    for key in ("model", "optimizer", "inference"):
        if key not in base:
            raise UserError(f"{base_name}: key {key!r} is missing, which fine-tuning takes from it")
    known = inference_settings(base, base_name)
    size = settings.size or known.min_size
    max_size = known.max_size if settings.size is None else round(size * 1333 / 800)
    base_batch = _batch_size(base)
    batch_size = min(settings.batch_size or base_batch or 16, data.num_train)
    iterations = settings.iterations or iterations_for(data.num_train, batch_size)
    lr = settings.lr or base.optimizer.lr * math.sqrt(batch_size / (base_batch or batch_size))
    train = get_config("train.py").train
    train.update(
        output_dir=str(output),
        init_checkpoint=str(weights),
        device=settings.device,
        seed=settings.seed,
    )
    train.amp.enabled = settings.device.startswith("cuda")
    cfg = OmegaConf.create(
        {
            "model": OmegaConf.to_container(base.model, resolve=True),
            "optimizer": OmegaConf.to_container(base.optimizer),
            "lr_multiplier": L(warmup_cosine)(max_iter="${train.max_iter}", warmup_iterations=1),
            "inference": OmegaConf.to_container(base.inference, resolve=True),
            "dataloader": _dataloader(data, output.name, batch_size, settings),
            "train": train,
        },
        flags={"allow_objects": True},
    )
    assert isinstance(cfg, DictConfig)
    text_model = OmegaConf.select(cfg, TEXT_MODEL)
    if text_model is not None and "load_text_model" in str(text_model.get("_target_")):
        text_model.pretrained = False  # its weights are in `weights`
    cfg.optimizer.lr = lr
    set_level(cfg, settings.tune, data.names, settings.lr)
    cfg.inference.update(min_size=size, max_size=max_size)
    resize = cfg.dataloader.train.own.mapper.augmentations[0]
    resize.update(short_edge_length=[round(scale * size) for scale in SCALES], max_size=max_size)
    if settings.mix:
        mixed = Mixed.of(settings.mix, output / ZERO_SHOT, settings.trust_config)
        if mixed.test:
            cfg[ZERO_SHOT] = mixed.test
        if share := settings.mix_share:
            cfg.dataloader.train.mixed = mixed.source
            cfg.train.source_ratios = {"own": 1 - share, "mixed": share}
        if settings.iterations is None:
            iterations = math.ceil(iterations / (1 - share))
    set_iterations(cfg, iterations)
    return cfg


def set_iterations(cfg: DictConfig, iterations: int) -> None:
    """Set the length of a run, and its warm-up, evaluations and checkpoints accordingly."""
    period = math.ceil(iterations / EVALUATIONS)
    cfg.train.update(max_iter=iterations, eval_period=period)
    cfg.train.checkpointer.update(period=period, max_to_keep=1)
    cfg.lr_multiplier.warmup_iterations = min(500, math.ceil(iterations / 10))  # 500 in Tab. 11


@dataclass(frozen=True)
class Mixed:
    """The parts of the config of ``--mix`` that are used, as plain values."""

    source: Any
    test: dict[str, Any] | None
    """``test``, ``evaluator`` and ``vocabulary`` for the names of that config; None if it has no
    evaluator of AP."""

    @classmethod
    def of(cls, name: str, folder: Path, trust_config: bool = False) -> "Mixed":
        """Read a source and the test set of a config.

        Args:
            name: CONFIG/SOURCE; the config is a file, or one of this project by its name.
            folder: replaces that config's output folder.
            trust_config: see `detclip2.config.load_config`.

        Raises:
            UserError: there is no such config or source, or it refers to a missing key.
        """
        file, _, source = name.rpartition("/")
        if not file:
            raise UserError(f"--mix {name}: expected CONFIG/SOURCE, such as coco.py/detection")
        cfg, file = load_config(config_of_user(file), trust_config)
        sources = source_nodes(cfg)
        if source not in sources:
            raise UserError(f"--mix: {file} has the sources {sorted(sources)}, not {source!r}")
        OmegaConf.update(cfg, "train.output_dir", str(folder), force_add=True)
        data, test = cfg.dataloader, None
        try:
            if "test" in data and "bbox" in data.get("evaluator", {}).get("tasks", ()):
                parts = [part for part in ("test", "evaluator", "vocabulary") if part in data]
                test = {p: OmegaConf.to_container(data[p], resolve=True) for p in parts}
            return cls(OmegaConf.to_container(sources[source], resolve=True), test)
        except Exception as error:  # from omegaconf, for missing keys
            raise UserError(f"--mix {name}: {reason_of(error)}") from error


def _batch_size(base: DictConfig) -> int | None:
    """Batch size of the base model's first training source."""
    plain: Any = OmegaConf.to_container(base, resolve=False)
    sources = plain.get("dataloader", {}).get("train", {})
    for source in sources.values():
        if isinstance(source, dict) and isinstance(source.get("total_batch_size"), int):
            return int(source["total_batch_size"])
    return None


def _dataloader(data: Data, name: str, batch_size: int, settings: Settings) -> dict[str, Any]:
    """Loaders of the user's data; the caller sets the image sizes."""
    return {
        "train": L(HybridLoader)(
            seed="${train.seed}",
            own=L(Source)(
                records=L(detection_set)(
                    name=f"{name}_train", json_file=str(data.train), image_root=str(data.images)
                ),
                mapper=L(DetectionMapper)(
                    names=L(names_of_json)(json_file="${...records.json_file}"),
                    templates="${dataloader.vocabulary.templates}",
                    definitions="${dataloader.vocabulary.definitions}",
                    augmentations=[
                        L(T.ResizeShortestEdge)(
                            short_edge_length=[], max_size=0, sample_style="choice"
                        ),
                        L(T.RandomFlip)(horizontal=True),
                    ],
                    max_phrases=MAX_PHRASES,
                ),
                total_batch_size=batch_size,
                num_workers=settings.num_workers,
            ),
        ),
        **evaluation_nodes(data.val, data.images, f"{name}_val"),
    }


def evaluation_nodes(annotations: Path, images: Path, name: str) -> dict[str, Any]:
    """``test``, ``evaluator`` and ``vocabulary`` for annotations in COCO's format.

    Args:
        annotations: the json; its names are asked for.
        images: the folder of its images.
        name: the name of the data set.
    """
    return {
        "test": L(build_detection_test_loader)(
            dataset=L(detection_set)(name=name, json_file=str(annotations), image_root=str(images)),
            mapper=L(EvaluationMapper)(
                augmentations=[
                    L(T.ResizeShortestEdge)(
                        short_edge_length="${inference.min_size}",
                        max_size="${inference.max_size}",
                    )
                ],
            ),
            num_workers=0,
            batch_size=1,
        ),
        "evaluator": L(CheckedCOCOEvaluator)(
            dataset_name="${..test.dataset.name}",
            tasks=["bbox"],
            output_dir="${train.output_dir}/inference",
        ),
        "vocabulary": L(Vocabulary.of_dataset)(
            dataset_name="${..test.dataset.name}", templates=["{}"], definitions=None
        ),
    }
