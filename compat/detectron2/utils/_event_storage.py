"""The storage of scalars, images and histograms of a training run."""

from collections import defaultdict
from contextlib import contextmanager

import torch
from fvcore.common.history_buffer import HistoryBuffer

_active_storages: list = []


def get_event_storage():
    """The current EventStorage, of the innermost `with` block; AssertionError outside of one."""
    assert _active_storages, (
        "get_event_storage() has to be called inside a 'with EventStorage(...)' context!"
    )
    return _active_storages[-1]


class EventStorage:
    """Stores values measured in training with their iterations.

    Used as a context: inside of it, get_event_storage() finds it.
    """

    def __init__(self, start_iter=0):
        self.iter = start_iter
        self._prefix = ""
        self._history: dict[str, HistoryBuffer] = defaultdict(HistoryBuffer)
        self._latest: dict[str, tuple[float, int]] = {}
        self._smooth: dict[str, bool] = {}
        self._images: list[tuple] = []  # (name, image, iteration), until a writer takes them
        self._histograms: list[dict] = []  # arguments of SummaryWriter.add_histogram_raw

    def __enter__(self):
        _active_storages.append(self)
        return self

    def __exit__(self, exc_type, exc_val, exc_tb):
        assert _active_storages[-1] is self
        _active_storages.pop()

    @property
    def iter(self) -> int:
        """The current iteration; a trainer keeps it equal to its own."""
        return self._iter

    @iter.setter
    def iter(self, value):
        self._iter = int(value)

    @property
    def iteration(self) -> int:
        return self._iter

    def step(self) -> None:
        self._iter += 1

    @contextmanager
    def name_scope(self, name):
        """Names put inside of this block get the prefix `name/`."""
        outer = self._prefix
        self._prefix = name.rstrip("/") + "/"
        yield
        self._prefix = outer

    def put_scalar(self, name, value, smoothing_hint=True, cur_iter=None) -> None:
        """Add one value.

        Args:
            name: of the scalar.
            value: anything that float() takes.
            smoothing_hint: whether writers should report a median over some iterations. It has to
                be the same for every value of a name.
            cur_iter: the iteration; the current one by default.
        """
        name = self._prefix + name
        value = float(value)
        iteration = self._iter if cur_iter is None else cur_iter
        self._history[name].update(value, iteration)
        assert self._smooth.setdefault(name, smoothing_hint) == smoothing_hint, (
            f"Scalar {name} was put with a different smoothing_hint!"
        )
        # Last: a trainer may put from another thread, and writers read what is listed here.
        self._latest[name] = (value, iteration)

    def put_scalars(self, *, smoothing_hint=True, cur_iter=None, **kwargs) -> None:
        """Add a value for each further keyword."""
        for name, value in kwargs.items():
            self.put_scalar(name, value, smoothing_hint=smoothing_hint, cur_iter=cur_iter)

    def put_image(self, img_name, img_tensor) -> None:
        """Add an RGB image (3, H, W): uint8, or float in [0, 1]."""
        self._images.append((img_name, img_tensor, self._iter))

    def put_histogram(self, hist_name, hist_tensor, bins=1000) -> None:
        """Add a histogram of the values of a tensor."""
        low, high = hist_tensor.min().item(), hist_tensor.max().item()
        edges = torch.linspace(low, high, bins + 1, dtype=torch.float32)
        self._histograms.append(
            {
                "tag": hist_name,
                "global_step": self._iter,
                "min": low,
                "max": high,
                "num": len(hist_tensor),
                "sum": float(hist_tensor.sum()),
                "sum_squares": float((hist_tensor**2).sum()),
                "bucket_limits": edges[1:].tolist(),
                "bucket_counts": torch.histc(hist_tensor, bins=bins).tolist(),
            }
        )

    def clear_images(self) -> None:
        self._images = []

    def clear_histograms(self) -> None:
        self._histograms = []

    def history(self, name) -> HistoryBuffer:
        """All values of a scalar; KeyError if it was never put."""
        if name not in self._history:
            raise KeyError(f"No history metric available for {name}!")
        return self._history[name]

    def histories(self) -> dict:
        """Scalar name to all values."""
        return self._history

    def latest(self) -> dict:
        """Name to (last value, its iteration)."""
        return self._latest

    def smoothing_hints(self) -> dict:
        """Name to whether its values should be smoothed."""
        return self._smooth

    def count_samples(self, name, window_size=20) -> int:
        """How many values of a scalar belong to the `window_size` iterations up to its last."""
        values = self._history[name].values()
        oldest = values[-1][1] - window_size
        for count, (_, iteration) in enumerate(reversed(values)):
            if iteration <= oldest:
                return count
        return len(values)

    def latest_with_smoothing_hint(self, window_size=20) -> dict:
        """As latest(), with the median over the last `window_size` iterations where hinted."""
        return {
            name: (self._smoothed(name, window_size) if self._smooth[name] else value, iteration)
            for name, (value, iteration) in self._latest.copy().items()
        }

    def _smoothed(self, name, window_size) -> float:
        return self._history[name].median(self.count_samples(name, window_size))
