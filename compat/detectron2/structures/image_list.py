"""Images of several sizes in one tensor."""

from typing import Any

import torch
from torch.nn import functional

__all__ = ["ImageList"]


class ImageList:
    """A batch, padded at the right and the bottom, that remembers the size of each image.

    Attributes:
        tensor: (B, ..., H, W).
        image_sizes: list of B (height, width) without padding; of tensors in tracing.
    """

    def __init__(self, tensor: torch.Tensor, image_sizes: list[tuple[int, int]]):
        self.tensor = tensor
        self.image_sizes = image_sizes

    def __len__(self) -> int:
        return len(self.image_sizes)

    def __getitem__(self, idx) -> torch.Tensor:
        """Image `idx` without its padding, (..., h, w)."""
        height, width = self.image_sizes[idx]
        return self.tensor[idx, ..., :height, :width]

    @torch.jit.unused
    def to(self, *args: Any, **kwargs: Any) -> "ImageList":
        return ImageList(self.tensor.to(*args, **kwargs), self.image_sizes)

    @property
    def device(self):
        return self.tensor.device

    @staticmethod
    def from_tensors(
        tensors: list[torch.Tensor],
        size_divisibility: int = 0,
        pad_value: float = 0.0,
        padding_constraints: dict[str, int] | None = None,
    ) -> "ImageList":
        """Pad images to the size of the largest.

        Args:
            tensors: at least one; each (..., h, w), equal but for the last two.
            size_divisibility: H and W become multiples of it, if it is above 1.
            pad_value: of the padding.
            padding_constraints: "size_divisibility" here goes before the argument of that name;
                "square_size" above 0 is H and W, in place of the largest.
        """
        assert len(tensors) > 0
        assert isinstance(tensors, (tuple, list))
        for image in tensors:
            assert isinstance(image, torch.Tensor), type(image)
            assert image.shape[:-2] == tensors[0].shape[:-2], image.shape
        side = 0
        if padding_constraints is not None:
            side = padding_constraints.get("square_size", side)
            size_divisibility = padding_constraints.get("size_divisibility", size_divisibility)
        batch, sizes = _pad_and_stack(list(tensors), size_divisibility, side, pad_value)
        image_sizes = [(image.shape[-2], image.shape[-1]) for image in tensors]
        if not torch.jit.is_scripting() and torch.jit.is_tracing():
            image_sizes = list(sizes.unbind())  # ints would become constants in a trace
        return ImageList(batch, image_sizes)


@torch.jit.script_if_tracing  # so that a trace does not hold the sizes of its example
def _pad_and_stack(
    images: list[torch.Tensor], divisibility: int, square_size: int, pad_value: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The batch (B, ..., H, W), and the sizes without padding (B, 2)."""
    sizes = torch.tensor([[image.shape[-2], image.shape[-1]] for image in images])
    height, width = max([x.shape[-2] for x in images]), max([x.shape[-1] for x in images])
    if square_size > 0:
        height, width = square_size, square_size
    if divisibility > 1:
        height = (height + divisibility - 1) // divisibility * divisibility
        width = (width + divisibility - 1) // divisibility * divisibility
    padded = [
        functional.pad(x, [0, width - x.shape[-1], 0, height - x.shape[-2]], value=pad_value)
        for x in images
    ]
    return torch.stack(padded), sizes
