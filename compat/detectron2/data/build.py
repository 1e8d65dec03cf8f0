"""The loaders of training and evaluation."""

from torch.utils.data import DataLoader, IterableDataset, Sampler

from detectron2 import _subset
from detectron2.config import configurable

from ._batches import build_batch_data_loader, trivial_batch_collator, worker_init_reset_seed
from ._records import get_detection_dataset_dicts
from .common import DatasetFromList, MapDataset
from .dataset_mapper import DatasetMapper
from .samplers import InferenceSampler, RepeatFactorTrainingSampler, TrainingSampler

__all__ = [
    "build_batch_data_loader",
    "build_detection_test_loader",
    "build_detection_train_loader",
    "get_detection_dataset_dicts",
    "worker_init_reset_seed",
]


def _train_sampler(cfg, dataset):
    name = cfg.DATALOADER.SAMPLER_TRAIN
    if isinstance(dataset, IterableDataset):
        return None
    if name == "TrainingSampler":
        return TrainingSampler(len(dataset), seed=cfg.SEED)
    if name == "RepeatFactorTrainingSampler":
        rule = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency
        options = cfg.DATALOADER
        factors = rule(dataset, options.REPEAT_THRESHOLD, options.REPEAT_SQRT)
        return RepeatFactorTrainingSampler(factors, seed=cfg.SEED)
    raise ValueError(_subset.not_here(f"Sampler {name}"))


def _train_arguments(cfg, mapper=None, *, dataset=None, sampler=None):
    if dataset is None:
        dataset = get_detection_dataset_dicts(
            cfg.DATASETS.TRAIN, filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
        )
    return {
        "dataset": dataset,
        "sampler": _train_sampler(cfg, dataset) if sampler is None else sampler,
        "mapper": DatasetMapper(cfg, True) if mapper is None else mapper,
        "total_batch_size": cfg.SOLVER.IMS_PER_BATCH,
        "aspect_ratio_grouping": cfg.DATALOADER.ASPECT_RATIO_GROUPING,
        "num_workers": cfg.DATALOADER.NUM_WORKERS,
    }


def _mapped(dataset, mapper, sampler, default_sampler):
    """The data set with `mapper` applied, and its sampler: None if and only if it is iterable."""
    if isinstance(dataset, list):
        dataset = DatasetFromList(dataset, copy=False)
    if mapper is not None:
        dataset = MapDataset(dataset, mapper)
    if isinstance(dataset, IterableDataset):
        assert sampler is None, "an iterable data set takes no sampler"
    elif sampler is None:
        sampler = default_sampler(len(dataset))
    return dataset, sampler


@configurable(from_config=_train_arguments)
def build_detection_train_loader(
    dataset,
    *,
    mapper,
    sampler=None,
    total_batch_size,
    aspect_ratio_grouping=True,
    num_workers=0,
    collate_fn=None,
    **kwargs,
):
    """An endless loader of batches, each a list of samples that `mapper` makes of records.

    Called with a yacs config, `(cfg, mapper=None, dataset=None, sampler=None)`, or with:

    Args:
        dataset: a list of records, or a torch data set, map-style or iterable.
        mapper: a callable from a record to a sample; it returns None to refuse one.
        sampler: `TrainingSampler` if not given; must be None for an iterable data set.
        total_batch_size: of all processes together.
        aspect_ratio_grouping: batches of images that are all wide or all high. Samples then
            have "width" and "height".
        num_workers: processes that load data.
        collate_fn: makes a batch of a list of samples; the list itself if not given.
        **kwargs: further arguments of `build_batch_data_loader`.
    """
    dataset, sampler = _mapped(dataset, mapper, sampler, TrainingSampler)
    assert sampler is None or isinstance(sampler, Sampler), f"not a Sampler: {type(sampler)}"
    return build_batch_data_loader(
        dataset,
        sampler,
        total_batch_size,
        aspect_ratio_grouping=aspect_ratio_grouping,
        num_workers=num_workers,
        collate_fn=collate_fn,
        **kwargs,
    )


def _test_arguments(cfg, dataset_name, mapper=None):
    names = [dataset_name] if isinstance(dataset_name, str) else dataset_name
    return {
        "dataset": get_detection_dataset_dicts(names, filter_empty=False),
        "mapper": DatasetMapper(cfg, False) if mapper is None else mapper,
        "num_workers": cfg.DATALOADER.NUM_WORKERS,
    }


@configurable(from_config=_test_arguments)
def build_detection_test_loader(
    dataset, *, mapper, sampler=None, batch_size=1, num_workers=0, collate_fn=None
):
    """A loader that gives each record once over all processes, `batch_size` at a time.

    Called with a yacs config, `(cfg, dataset_name, mapper=None)`, or with the arguments of
    `build_detection_train_loader`; the sampler is an `InferenceSampler` if not given.
    """
    dataset, sampler = _mapped(dataset, mapper, sampler, InferenceSampler)
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        drop_last=False,
        num_workers=num_workers,
        collate_fn=collate_fn or trivial_batch_collator,
    )
