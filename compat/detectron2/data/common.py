"""Data sets around other data sets: a packed list, a mapped one, an iterable one, a grouped one."""

import copy
import logging
import pickle
import random
from itertools import accumulate

import cloudpickle
import torch
from torch.utils.data import Dataset, IterableDataset, Sampler, get_worker_info

__all__ = ["AspectRatioGroupedDataset", "DatasetFromList", "MapDataset", "ToIterableDataset"]

logger = logging.getLogger(__name__)


class _PickledByValue:
    """A callable that reaches spawned workers even if it is a lambda or a closure."""

    def __init__(self, func):
        self._func = func

    def __call__(self, *args, **kwargs):
        return self._func(*args, **kwargs)

    def __reduce__(self):
        return _unpickle, (cloudpickle.dumps(self._func),)


def _unpickle(blob):
    return _PickledByValue(cloudpickle.loads(blob))


class _PackedList:
    """A list stored as one tensor of bytes.

    Python objects are copied into every worker as soon as their reference counts are touched;
    one tensor is shared by all of them.
    """

    def __init__(self, items):
        blobs = [pickle.dumps(item, protocol=pickle.HIGHEST_PROTOCOL) for item in items]
        self._ends = torch.tensor([0, *accumulate(map(len, blobs))])
        self._bytes = torch.frombuffer(bytearray(b"".join(blobs) or b"\0"), dtype=torch.uint8)
        logger.info("packed %d samples into %.1f MiB", len(blobs), len(self._bytes) / 2**20)

    def __len__(self):
        return len(self._ends) - 1

    def __getitem__(self, index):
        index = range(len(self))[index]
        start, end = self._ends[index : index + 2].tolist()
        return pickle.loads(memoryview(self._bytes[start:end].numpy()))


class DatasetFromList(Dataset):
    """A map-style data set over a list.

    `serialize` packs the list into one tensor, or is a function that wraps the list in another
    way. Without it, `copy` hands out deep copies, which the caller may change.
    """

    def __init__(self, lst, copy=True, serialize=True):
        if not (isinstance(serialize, bool) or callable(serialize)):
            raise TypeError(f"serialize must be a bool or a function, not {serialize!r}")
        pack = _PackedList if serialize is True else serialize
        self._items = pack(lst) if pack else lst
        self._copy = copy and not pack

    def __len__(self):
        return len(self._items)

    def __getitem__(self, index):
        item = self._items[index]
        return copy.deepcopy(item) if self._copy else item


class MapDataset(Dataset):
    """`map_func` applied to each element of a data set, which may be map-style or iterable.

    `map_func` returns None to refuse an element: a map-style data set then gives another one,
    drawn at random from those not refused so far, and an iterable one goes on to the next.
    """

    def __new__(cls, dataset, map_func):
        if isinstance(dataset, IterableDataset):
            return _MappedIterable(dataset, map_func)
        return super().__new__(cls)

    def __getnewargs__(self):
        return self._dataset, self._map_func

    def __init__(self, dataset, map_func):
        self._dataset = dataset
        self._map_func = _PickledByValue(map_func)
        self._rng = random.Random(42)
        self._usable = set(range(len(dataset)))

    def __len__(self):
        return len(self._dataset)

    def __getitem__(self, index):
        current, refused = int(index), 0
        while (mapped := self._map_func(self._dataset[current])) is None:
            self._usable.discard(current)
            if not self._usable:
                raise ValueError("the map function refused every element of the data set")
            refused += 1
            if refused >= 3:
                logger.warning("element %s: %d elements refused in a row", index, refused)
            current = self._rng.choice(list(self._usable))
        self._usable.add(current)
        return mapped


class _MappedIterable(IterableDataset):
    def __init__(self, dataset, map_func):
        self._dataset = dataset
        self._map_func = _PickledByValue(map_func)

    def __len__(self):
        return len(self._dataset)

    def __iter__(self):
        for element in self._dataset:
            mapped = self._map_func(element)
            if mapped is not None:
                yield mapped


class ToIterableDataset(IterableDataset):
    """The elements of a map-style data set in the order of a sampler.

    Each worker of a DataLoader runs the sampler and keeps every n-th chunk of its indices
    (unless `shard_sampler` is off because the sampler does that itself). With chunks as long as
    the batch, n workers give the same batches in the same order as one.
    """

    def __init__(self, dataset, sampler, shard_sampler=True, shard_chunk_size=1):
        assert not isinstance(dataset, IterableDataset), dataset
        assert isinstance(sampler, Sampler), sampler
        self.dataset = dataset
        self.sampler = sampler
        self.shard_sampler = shard_sampler
        self.shard_chunk_size = shard_chunk_size

    def __iter__(self):
        worker = get_worker_info() if self.shard_sampler else None
        for position, index in enumerate(self.sampler):
            chunk = position // self.shard_chunk_size
            if worker is None or chunk % worker.num_workers == worker.id:
                yield self.dataset[index]

    def __len__(self):
        return len(self.sampler)


class AspectRatioGroupedDataset(IterableDataset):
    """Batches of images that are all wider than high, or all not, to reduce padding.

    The elements of `dataset` are dicts with "width" and "height".
    """

    def __init__(self, dataset, batch_size):
        self.dataset = dataset
        self.batch_size = batch_size
        self._buckets = [[], []]

    def __iter__(self):
        for sample in self.dataset:
            is_wide = sample["width"] > sample["height"]
            bucket = self._buckets[is_wide]
            bucket.append(sample)
            if len(bucket) == self.batch_size:
                # Emptied before the yield: code after a yield may never run.
                self._buckets[is_wide] = []
                yield bucket
