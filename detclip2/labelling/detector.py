"""Detection in a stream of images that are read ahead; each becomes an entry of the journal."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.structures import Instances

from detclip2.data.io.image_item import ImageItem
from detclip2.data.io.read_ahead import read_ahead
from detclip2.inference.predictor import OpenVocabularyPredictor
from detclip2.inference.prepared import ReadyImage
from detclip2.inference.tiles import TiledPredictor
from detclip2.inference.vocabulary import Vocabulary
from detclip2.labelling.names import FileNames
from detclip2.utils.errors import UserError
from detclip2.utils.files import write_whole
from detclip2.visualization.detections import draw_instances

Entry = dict[str, Any]
"""An image in the journal: ``image``, its number; ``file_name``; ``height``, ``width``, ``boxes``
(XYXY px), ``scores``, ``classes`` (positions in the vocabulary), ``path``. Of one that is skipped:
``image``, ``skipped`` (`detclip2.data.skips.KINDS`), ``file_name`` and ``reason``."""

Read = tuple[ReadyImage | np.ndarray, np.ndarray | None]
_READERS = 4


@dataclass(frozen=True)
class DetectorSettings:
    """All that makes a detector, for processes that each make one."""

    config: str
    weights: str
    trust_config: bool
    vocabulary: Vocabulary
    settings: dict[str, Any]
    """Those of the four settings of detections, by name, that are not the model's own."""
    batch_size: int | None = None
    tile: int | None = None
    drawn: Path | None = None
    """A folder for images with the detections; None: nothing is drawn."""
    readers: int = field(default_factory=lambda: min(_READERS, os.cpu_count() or 1))
    """Threads that read images ahead."""

    def build(self, device: str | None) -> "Detector":
        """Load the model on a device.

        Raises:
            UserError: as `OpenVocabularyPredictor`, or if the vocabulary does not fit the model.
        """
        predictor = OpenVocabularyPredictor(
            self.config,
            self.weights,
            device,
            batch_size=self.batch_size,
            trust_config=self.trust_config,
        )
        return Detector(predictor, self)


class Detector:
    """Makes the entries of images, which threads read ahead.

    Args:
        predictor: the model.
        settings: of detections, tiles and readers; config and weights are the predictor's.
    """

    def __init__(self, predictor: OpenVocabularyPredictor, settings: DetectorSettings) -> None:
        predictor.set_vocabulary(settings.vocabulary)
        self.predictor = predictor
        self.settings = settings
        self._tiled = TiledPredictor(predictor, settings.tile) if settings.tile else None

    def entries(self, items: Iterable[tuple[int, ImageItem]]) -> Iterator[Entry]:
        """The entries of numbered images, in order; images that cannot be read are skipped.

        At most ``2 * batch_size + readers`` images are in memory.
        """
        batch, readers = self.predictor.settings.batch_size, self.settings.readers
        stream = read_ahead(items, self.read, readers, batch + readers)
        while chunk := [*islice(stream, batch)]:
            images = [read for _, read in chunk if not isinstance(read, UserError)]
            found = iter(self.detect([image for image, _ in images]))
            for (number, item), read in chunk:
                if isinstance(read, UserError):
                    yield skipped(number, item, str(read))
                else:
                    instances = next(found)
                    self._draw(number, item, read[1], instances)
                    yield entry(number, item, instances)
            del chunk, images

    def read(self, numbered: tuple[int, ImageItem]) -> Read:
        """An image, in a thread: resized too, unless it is cut into tiles; and as it is, to draw.

        Raises:
            UserError: it cannot be read.
        """
        pixels = numbered[1].read()
        kept = pixels if self.settings.drawn else None
        return (pixels if self._tiled else self.predictor.ready(pixels)), kept

    def detect(self, images: list[Any]) -> list[Instances]:
        """The detections in images as `read` returns them first."""
        chosen = self.settings.settings
        if self._tiled:
            return [self._tiled(image, **chosen) for image in images]
        return self.predictor(images, **chosen)

    def _draw(
        self, number: int, item: ImageItem, pixels: np.ndarray | None, found: Instances
    ) -> None:
        if self.settings.drawn is None or pixels is None:
            return
        from PIL import Image

        path = self.settings.drawn / FileNames.path_of(item.name, f".{number}.jpg")
        drawn = Image.fromarray(draw_instances(pixels, found))
        write_whole(path, lambda file: drawn.save(file, "JPEG", quality=90))


def entry(number: int, item: ImageItem, instances: Instances) -> Entry:
    """The entry of an image with its detections; numbers are exactly those of the tensors."""
    height, width = instances.image_size
    return {
        "image": number,
        "file_name": item.name,
        "height": height,
        "width": width,
        "boxes": _plain(instances.pred_boxes.tensor),
        "scores": _plain(instances.scores),
        "classes": instances.pred_classes.tolist(),
    }


def skipped(number: int, item: ImageItem, reason: str) -> Entry:
    """The entry of an image that cannot be read."""
    name, kind = item.name, "image-unreadable"
    return {"image": number, "skipped": kind, "file_name": name, "reason": reason}


def _plain(values: torch.Tensor) -> Any:
    """Numbers whose shortest decimals are those of float32, and so give it back exactly."""
    return values.numpy().astype(np.float32).astype("U32").astype(np.float64).tolist()
