"""Writers of the values measured in training."""

import datetime
import json
import logging
import os
import time
from collections import defaultdict
from functools import cached_property

import torch

from detectron2.utils._event_storage import EventStorage, get_event_storage
from detectron2.utils.file_io import PathManager

__all__ = [
    "CommonMetricPrinter",
    "EventStorage",
    "EventWriter",
    "JSONWriter",
    "TensorboardXWriter",
    "get_event_storage",
]


class EventWriter:
    """Writes the new values of the current EventStorage."""

    def write(self):
        raise NotImplementedError

    def close(self):
        pass


class JSONWriter(EventWriter):
    """Appends the scalars to a file: one line of json for an iteration."""

    def __init__(self, json_file, window_size=20):
        self._file = PathManager.open(json_file, "a")
        self._window_size = window_size
        self._last_write = -1

    def write(self):
        lines: dict[int, dict] = defaultdict(dict)
        latest = get_event_storage().latest_with_smoothing_hint(self._window_size)
        for name, (value, iteration) in latest.items():
            if iteration > self._last_write:
                lines[iteration][name] = value
        for iteration, scalars in lines.items():
            self._file.write(json.dumps({**scalars, "iteration": iteration}, sort_keys=True) + "\n")
        self._last_write = max(lines, default=self._last_write)
        self._file.flush()
        if hasattr(self._file, "fileno"):  # a local file: survives a power failure
            os.fsync(self._file.fileno())

    def close(self):
        self._file.close()


class TensorboardXWriter(EventWriter):
    """Writes scalars, images and histograms for tensorboard."""

    def __init__(self, log_dir: str, window_size: int = 20, **kwargs):
        self._window_size = window_size
        self._options = dict(kwargs, log_dir=log_dir)
        self._last_write = -1

    @cached_property
    def _writer(self):
        # Made at the first write: importing tensorboard takes seconds.
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(**self._options)

    def write(self):
        storage = get_event_storage()
        newest = self._last_write
        latest = storage.latest_with_smoothing_hint(self._window_size)
        for name, (value, iteration) in latest.items():
            if iteration > self._last_write:
                self._writer.add_scalar(name, value, iteration)
                newest = max(newest, iteration)
        self._last_write = newest
        for name, image, iteration in storage._images:
            self._writer.add_image(name, image, iteration)
        storage.clear_images()
        for histogram in storage._histograms:
            self._writer.add_histogram_raw(**histogram)
        storage.clear_histograms()

    def close(self):
        if "_writer" in self.__dict__:
            self._writer.close()


class CommonMetricPrinter(EventWriter):
    """Logs a line with ETA, losses, metrics, times, learning rate and memory."""

    def __init__(self, max_iter: int | None = None, window_size: int = 20):
        self.logger = logging.getLogger("detectron2.utils.events")
        self._max_iter = max_iter
        self._window_size = window_size
        self._last_write = None  # (iteration, time), if no hook measures time

    def write(self):
        storage = get_event_storage()
        if storage.iter == self._max_iter:
            return  # training is over and was reported
        eta = self._eta(storage)
        fields = [
            f"eta: {eta}" if eta else "",
            f"iter: {storage.iter}",
            *self._medians(storage, "loss"),
            *self._medians(storage, "[metric]"),
            *self._times(storage),
            f"lr: {_read(storage, 'lr', lambda lr: f'{lr.latest():.5g}') or 'N/A'}",
        ]
        if torch.cuda.is_available():
            fields.append(f"max_mem: {torch.cuda.max_memory_allocated() / 2**20:.0f}M")
        self.logger.info(" " + "  ".join(field for field in fields if field))

    def _medians(self, storage, part: str) -> list:
        return [
            f"{name}: {storage._smoothed(name, self._window_size):.4g}"
            for name in list(storage.histories())
            if part in name
        ]

    def _times(self, storage) -> list:
        window = self._window_size
        readers = {
            "time": ("time", lambda history: history.global_avg()),
            "last_time": ("time", lambda history: history.latest()),
            "data_time": (
                "data_time",
                lambda history: history.avg(storage.count_samples("data_time", window)),
            ),
            "last_data_time": ("data_time", lambda history: history.latest()),
        }
        values = {label: _read(storage, *reader) for label, reader in readers.items()}
        return [f"{label}: {value:.4f}" for label, value in values.items() if value is not None]

    def _eta(self, storage) -> str | None:
        if self._max_iter is None:
            return None
        iterations_left = self._max_iter - storage.iter - 1
        seconds = _read(storage, "time", lambda history: history.median(1000))
        if seconds is not None:
            storage.put_scalar("eta_seconds", seconds * iterations_left, smoothing_hint=False)
        else:
            now, last = time.perf_counter(), self._last_write
            self._last_write = (storage.iter, now)
            if last is None:
                return None
            seconds = (now - last[1]) / (storage.iter - last[0])
        return str(datetime.timedelta(seconds=int(seconds * iterations_left)))


def _read(storage, name: str, read):
    """`read` of the history of `name`; None if there is none (the first iterations have none)."""
    try:
        return read(storage.history(name))
    except KeyError:
        return None
