"""The mapper of detection records in evaluation: the image, read as for training."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data import transforms as T

from detclip2.data.io.resize import ImageInput
from detclip2.data.mappers.records import (
    Record,
    name_of,
    read_record_image,
    record_size_problem,
)
from detclip2.data.sample import SkipSample
from detclip2.utils.errors import UserError


class EvaluationMapper:
    """Makes inputs of a model in evaluation mode.

    It replaces Detectron2's DatasetMapper, which decodes images with 16 bits, floats or
    transparency in another way than `read_image`: the model would see other pixels than in
    training.

    Args:
        augmentations: Detectron2 augmentations that resize.
        supervision: what the model is to do with the image, if not to detect: "vqa", which answers
            the record's ``question``, or "captioning".
        blind: show a black image instead: the baseline without images.
    """

    def __init__(
        self,
        augmentations: Sequence[T.Augmentation],
        supervision: str | None = None,
        blind: bool = False,
    ) -> None:
        self.augmentations = T.AugmentationList(list(augmentations))
        self.kept = {} if supervision is None else {"supervision": supervision}
        self.blind = blind

    def __call__(self, record: Record) -> dict[str, Any]:
        """The record without its annotations, with ``image``: (3, H, W) uint8 RGB.

        ``height`` and ``width`` are those of the image before the augmentations.

        Raises:
            UserError: the image cannot be read, or has another size than the record says.
        """
        try:
            image = read_record_image(record)
        except SkipSample as error:
            raise UserError(error.message) from error
        if problem := record_size_problem(record, image):
            raise UserError(f"{name_of(record)} {problem}")
        augmented = ImageInput(np.zeros_like(image) if self.blind else image)
        self.augmentations(augmented)
        return {
            **self.kept,
            **{key: value for key, value in record.items() if key != "annotations"},
            "height": image.shape[0],
            "width": image.shape[1],
            "image": torch.from_numpy(np.ascontiguousarray(augmented.image.transpose(2, 0, 1))),
        }
