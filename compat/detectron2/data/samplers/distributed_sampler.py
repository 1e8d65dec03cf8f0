"""Streams of indices into a data set, shared by processes."""

from collections import Counter
from itertools import islice

import torch
from torch.utils.data import Sampler

from detectron2.utils import comm


class _EndlessSampler(Sampler):
    """Epoch after epoch without end; process r of n takes every n-th index from the r-th on.

    All processes must draw the same stream, so they agree on a seed if none is given.
    """

    def __init__(self, shuffle, seed):
        self._shuffle = shuffle
        self._seed = int(comm.shared_random_seed() if seed is None else seed)
        self._rank = comm.get_rank()
        self._world_size = comm.get_world_size()

    def _epoch(self, generator):
        """The indices of one epoch, not shuffled."""
        raise NotImplementedError

    def _stream(self):
        generator = torch.Generator().manual_seed(self._seed)
        while True:
            indices = self._epoch(generator)
            if self._shuffle:
                indices = indices[torch.randperm(len(indices), generator=generator)]
            yield from indices.tolist()

    def __iter__(self):
        return islice(self._stream(), self._rank, None, self._world_size)


class TrainingSampler(_EndlessSampler):
    """Every index once an epoch."""

    def __init__(self, size, shuffle=True, seed=None):
        if not isinstance(size, int):
            raise TypeError(f"the size of a data set is an int, not a {type(size)}")
        if size <= 0:
            raise ValueError(f"the size of a data set is positive, not {size}")
        super().__init__(shuffle, seed)
        self._size = size

    def _epoch(self, generator):
        return torch.arange(self._size)


class RepeatFactorTrainingSampler(_EndlessSampler):
    """Index i `repeat_factors[i]` times an epoch; a fraction is the chance of once more."""

    def __init__(self, repeat_factors, *, shuffle=True, seed=None):
        super().__init__(shuffle, seed)
        self._whole = torch.trunc(repeat_factors)
        self._fraction = repeat_factors - self._whole

    def _epoch(self, generator):
        extra = torch.rand(len(self._fraction), generator=generator) < self._fraction
        times = self._whole.long() + extra.long()
        return torch.repeat_interleave(torch.arange(len(times)), times)

    @staticmethod
    def repeat_factors_from_category_frequency(dataset_dicts, repeat_thresh, sqrt=True):
        """Repeat factors of LVIS (Gupta et al. 2019, appendix B): that of the rarest category.

        A category in a fraction f of the images has max(1, sqrt(repeat_thresh / f)), or without
        the root; an image has the largest factor of its categories, 1 if it has none.
        """
        present = [{ann["category_id"] for ann in d["annotations"]} for d in dataset_dicts]
        num_images = Counter(category for categories in present for category in categories)
        power = 0.5 if sqrt else 1.0
        factor = {
            category: max(1.0, (repeat_thresh / (count / len(present))) ** power)
            for category, count in num_images.items()
        }
        per_image = [max((factor[c] for c in categories), default=1.0) for categories in present]
        return torch.tensor(per_image, dtype=torch.float32)


class InferenceSampler(Sampler):
    """Every index exactly once over all processes; each has a contiguous range."""

    def __init__(self, size):
        assert size > 0, f"the size of a data set is positive, not {size}"
        self._local_indices = self._get_local_indices(size, comm.get_world_size(), comm.get_rank())

    @staticmethod
    def _get_local_indices(total_size, world_size, rank):
        share, longer = divmod(total_size, world_size)
        begin = rank * share + min(rank, longer)
        return range(begin, begin + share + (rank < longer))

    def __iter__(self):
        return iter(self._local_indices)

    def __len__(self):
        return len(self._local_indices)
