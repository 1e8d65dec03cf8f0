"""Batches of samples."""

from operator import itemgetter

import torch
from torch.utils.data import DataLoader, IterableDataset

from detectron2.utils.comm import get_world_size
from detectron2.utils.env import seed_all_rng

from .common import AspectRatioGroupedDataset, MapDataset, ToIterableDataset


def trivial_batch_collator(batch):
    """A batch is a list of samples."""
    return batch


def worker_init_reset_seed(worker_id):
    """Seed all generators differently in each worker."""
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
