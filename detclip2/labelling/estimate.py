"""The time of a run of ``detclip2 label``, measured on some of its images before it starts."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from detclip2.data.io.image_item import ImageItem
from detclip2.labelling.detector import Detector
from detclip2.utils.errors import UserError


@dataclass(frozen=True)
class LabelCost:
    """Seconds of an image, on average."""

    reading: float
    """To read and resize it, in one thread."""
    detecting: float
    """To detect in it."""

    def images_per_second(self, readers: int) -> float:
        """The images a second of one device, for which threads read ahead.

        Args:
            readers: number of threads, each of which has a core.
        """
        return 1 / max(self.reading / readers, self.detecting)


def label_cost(detector: Detector, items: Sequence[ImageItem]) -> LabelCost:
    """Measure reading and detecting on some images; those that cannot be read do not count.

    Raises:
        UserError: none of them can be read.
    """
    images, reading = [], 0.0
    for item in items:
        start = time.perf_counter()
        try:
            images.append(detector.read((0, item))[0])
        except UserError:
            continue
        reading += time.perf_counter() - start
    if not images:
        raise UserError("none of the images can be read: there is nothing to measure")
    batch = detector.predictor.settings.batch_size
    detector.detect(images[:batch])  # the first call takes longer
    start = time.perf_counter()
    for first in range(0, len(images), batch):
        detector.detect(images[first : first + batch])
    detecting = time.perf_counter() - start
    return LabelCost(reading / len(images), detecting / len(images))
