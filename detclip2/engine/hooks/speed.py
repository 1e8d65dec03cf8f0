"""Speed of a training: images per second of each source, time waiting for data, memory."""

import logging
import resource
import sys

import torch
from detectron2.engine import HookBase
from detectron2.utils.events import EventWriter, get_event_storage

from detclip2.data.hybrid_loader import HybridLoader
from detclip2.engine.trainer import Trainer

logger = logging.getLogger(__name__)
WINDOW = 20  # iterations that are averaged


class Speed(HookBase):
    """Stores speed and memory of each iteration; register it after IterationTimer.

    - ``SOURCE/images_per_second``, by all processes together, of the source of this iteration;
    - ``data_share``: the share of the step's time spent waiting for data, 0 to 1;
    - ``memory_gib``: peak memory of the GPU, or of the process on a CPU.
    """

    trainer: Trainer

    def __init__(self, loader: HybridLoader) -> None:
        self.loader = loader

    def after_step(self) -> None:
        """Store the three scalars."""
        storage, iteration = self.trainer.storage, self.trainer.iter
        latest = storage.latest()
        storage.put_scalar("memory_gib", peak_memory() / 2**30, smoothing_hint=False)
        seconds, when = latest.get("time", (0.0, -1))
        if when != iteration or seconds <= 0:  # the first, slow iterations have no time
            return
        source = self.trainer.source
        images = self.loader.sources[source].total_batch_size
        storage.put_scalar(f"{source}/images_per_second", images / seconds)
        waited, when = latest.get("data_time", (0.0, -1))
        if when == iteration:
            storage.put_scalar("data_share", min(waited / seconds, 1.0))


def peak_memory() -> int:
    """Peak memory of the GPU, or of the process on a CPU, in bytes."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024)


class SpeedPrinter(EventWriter):
    """Logs the scalars of `Speed`; Detectron2's own line has ETA, losses and rates."""

    def __init__(self) -> None:
        self._last = -1

    def write(self) -> None:
        """Log one line, if there are new scalars."""
        storage = get_event_storage()
        _, newest = storage.latest().get("memory_gib", (0.0, -1))
        if newest == self._last:
            return
        self._last = newest
        histories = storage.histories()
        speeds = [
            f"{name.partition('/')[0]} {history.avg(WINDOW):.1f}"
            for name, history in histories.items()
            if name.endswith("/images_per_second")
        ]
        parts = [f"images/s: {', '.join(speeds)}"] if speeds else []
        if "data_share" in histories:
            parts.append(f"waiting for data: {histories['data_share'].avg(WINDOW):.1%}")
        if "memory_gib" in histories:
            parts.append(f"memory: {histories['memory_gib'].latest():.2f} GiB")
        if parts:
            logger.info("  ".join(parts))
