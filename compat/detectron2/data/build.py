"""From the names of data sets to the loaders of training and evaluation."""

import logging
from collections import Counter
from itertools import chain
from operator import itemgetter

import torch
from tabulate import tabulate
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Sampler

from detectron2 import _subset
from detectron2.config import configurable
from detectron2.utils.comm import get_world_size
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import log_first_n

from .catalog import DatasetCatalog, MetadataCatalog
from .common import AspectRatioGroupedDataset, DatasetFromList, MapDataset, ToIterableDataset
from .dataset_mapper import DatasetMapper
from .detection_utils import check_metadata_consistency
from .samplers import InferenceSampler, RepeatFactorTrainingSampler, TrainingSampler

__all__ = [
    "build_batch_data_loader",
    "build_detection_test_loader",
    "build_detection_train_loader",
    "get_detection_dataset_dicts",
]

logger = logging.getLogger(__name__)


def get_detection_dataset_dicts(
    names, filter_empty=True, min_keypoints=0, proposal_files=None, check_consistency=True
):
    """The records of one data set or of several, one after the other.

    `filter_empty` leaves out the images without any annotation that is not a crowd.
    `check_consistency` raises ValueError if the data sets do not have the same classes.
    A data set that is a torch `Dataset` already is returned as it is (several: concatenated).
    """
    if min_keypoints > 0 or proposal_files is not None:
        raise NotImplementedError(_subset._sentence("Data sets with keypoints or proposals"))
    names = [names] if isinstance(names, str) else names
    assert len(names), "no data set is named"
    loaded = [DatasetCatalog.get(name) for name in names]
    if isinstance(loaded[0], Dataset):
        return loaded[0] if len(loaded) == 1 else ConcatDataset(loaded)

    for name, records in zip(names, loaded, strict=True):
        assert len(records), f"data set '{name}' is empty"
    records = list(chain.from_iterable(loaded))
    if "annotations" in records[0]:
        if filter_empty:
            records = _with_objects(records)
        class_names = [MetadataCatalog.get(name).get("thing_classes") for name in names]
        if check_consistency and None not in class_names:
            check_metadata_consistency("thing_classes", names)
            _log_instances_per_class(records, class_names[0])
    assert records, f"no image of {', '.join(names)} has an annotation"
    return records


def _with_objects(records):
    kept = [r for r in records if any(not a.get("iscrowd", 0) for a in r["annotations"])]
    left_out = len(records) - len(kept)
    logger.info("%d images without annotations left out, %d kept", left_out, len(kept))
    return kept


def _log_instances_per_class(records, class_names, classes_per_row=3):
    counts = Counter(
        annotation["category_id"]
        for record in records
        for annotation in record["annotations"]
        if not annotation.get("iscrowd", 0)
    )
    for category_id in counts:
        assert 0 <= category_id < len(class_names), (
            f"an annotation has category_id {category_id}, the data set {len(class_names)} classes"
        )
    cells = list(chain.from_iterable((n, counts[i]) for i, n in enumerate(class_names)))
    width = min(2 * classes_per_row, len(cells))
    rows = [cells[start : start + width] for start in range(0, len(cells), width)]
    headers = ["category", "#instances"] * (width // 2)
    table = tabulate(rows, headers=headers, tablefmt="pipe")
    message = f"{counts.total()} instances of {len(class_names)} classes:\n{table}"
    log_first_n(logging.INFO, message, key="message")


def trivial_batch_collator(batch):
    """A batch is a list of samples."""
    return batch


def worker_init_reset_seed(worker_id):
    """Different random numbers in each worker, in all the generators in use."""
    seed_all_rng(torch.initial_seed() % 2**31 + worker_id)


def build_batch_data_loader(
    dataset,
    sampler,
    total_batch_size,
    *,
    aspect_ratio_grouping=False,
    num_workers=0,
    collate_fn=None,
    drop_last=True,
    single_gpu_batch_size=None,
    prefetch_factor=2,
    persistent_workers=False,
    pin_memory=False,
    seed=None,
    **kwargs,
):
    """Batches from a map-style data set and a sampler, or an iterable one without (None).

    `total_batch_size` is that of all processes together; to give this process's share instead,
    pass 0 and `single_gpu_batch_size`. Other arguments are those of
    `build_detection_train_loader` and of torch's DataLoader.
    """
    batch_size = single_gpu_batch_size or _share_of_batch(total_batch_size)
    if single_gpu_batch_size and total_batch_size:
        raise ValueError("give either total_batch_size or single_gpu_batch_size, not both")
    if isinstance(dataset, IterableDataset):
        assert sampler is None, "an iterable data set takes no sampler"
    else:
        dataset = ToIterableDataset(dataset, sampler, shard_chunk_size=batch_size)
    options = {
        "num_workers": num_workers,
        "worker_init_fn": worker_init_reset_seed,
        "prefetch_factor": prefetch_factor if num_workers else None,
        "persistent_workers": persistent_workers,
        "pin_memory": pin_memory,
        "generator": None if seed is None else torch.Generator().manual_seed(seed),
        **kwargs,
    }
    if not aspect_ratio_grouping:
        collate_fn = collate_fn or trivial_batch_collator
        return DataLoader(
            dataset, batch_size, drop_last=drop_last, collate_fn=collate_fn, **options
        )
    assert drop_last, "aspect_ratio_grouping leaves incomplete batches out"
    one_by_one = DataLoader(dataset, batch_size=1, collate_fn=itemgetter(0), **options)
    batches = AspectRatioGroupedDataset(one_by_one, batch_size)
    return MapDataset(batches, collate_fn) if collate_fn else batches


def _share_of_batch(total_batch_size):
    world_size = get_world_size()
    share, rest = divmod(total_batch_size, world_size)
    is_whole = share > 0 and rest == 0
    assert is_whole, f"a batch of {total_batch_size} cannot be shared by {world_size} processes"
    return share


def _train_sampler(cfg, dataset):
    name = cfg.DATALOADER.SAMPLER_TRAIN
    if isinstance(dataset, IterableDataset):
        return None
    if name == "TrainingSampler":
        return TrainingSampler(len(dataset), seed=cfg.SEED)
    if name == "RepeatFactorTrainingSampler":
        factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
            dataset, cfg.DATALOADER.REPEAT_THRESHOLD, sqrt=cfg.DATALOADER.REPEAT_SQRT
        )
        return RepeatFactorTrainingSampler(factors, seed=cfg.SEED)
    raise ValueError(_subset._sentence(f"Sampler {name}"))


def _train_loader_from_config(cfg, mapper=None, *, dataset=None, sampler=None):
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


@configurable(from_config=_train_loader_from_config)
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
    """An endless loader of batches, each a list of what `mapper` makes of a record.

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


def _test_loader_from_config(cfg, dataset_name, mapper=None):
    names = [dataset_name] if isinstance(dataset_name, str) else dataset_name
    return {
        "dataset": get_detection_dataset_dicts(names, filter_empty=False),
        "mapper": DatasetMapper(cfg, False) if mapper is None else mapper,
        "num_workers": cfg.DATALOADER.NUM_WORKERS,
    }


@configurable(from_config=_test_loader_from_config)
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
