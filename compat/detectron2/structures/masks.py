"""The masks of the objects of one image."""

import torch

__all__ = ["BitMasks"]


class BitMasks:
    """N masks in a bool tensor (N, H, W)."""

    def __init__(self, tensor: torch.Tensor):
        if not isinstance(tensor, torch.Tensor):
            tensor = torch.as_tensor(tensor, device=torch.device("cpu"))
        tensor = tensor.to(torch.bool)
        assert tensor.dim() == 3, tensor.size()
        self.image_size = tensor.shape[1:]
        self.tensor = tensor

    def to(self, *args, **kwargs) -> "BitMasks":
        return BitMasks(self.tensor.to(*args, **kwargs))

    @property
    def device(self) -> torch.device:
        return self.tensor.device

    def __getitem__(self, item) -> "BitMasks":
        """Masks of an int (one mask), a slice, a bool mask (N,) or integer indices."""
        if isinstance(item, int):
            return BitMasks(self.tensor[item].unsqueeze(0))
        chosen = self.tensor[item]
        assert chosen.dim() == 3, f"Indexing on BitMasks with {item} gave shape {chosen.shape}!"
        return BitMasks(chosen)

    @torch.jit.unused
    def __iter__(self):
        yield from self.tensor

    def __len__(self) -> int:
        return self.tensor.shape[0]

    def __repr__(self) -> str:
        return f"{type(self).__name__}(num_instances={len(self)})"

    def nonempty(self) -> torch.Tensor:
        """(N,) bool: has the mask a pixel?"""
        return self.tensor.flatten(1).any(dim=1)

    @staticmethod
    def cat(bitmasks_list: list["BitMasks"]) -> "BitMasks":
        """All masks of a list, which are of one size."""
        assert isinstance(bitmasks_list, (list, tuple))
        assert len(bitmasks_list) > 0
        assert all(isinstance(bitmasks, BitMasks) for bitmasks in bitmasks_list)
        return BitMasks(torch.cat([bitmasks.tensor for bitmasks in bitmasks_list], dim=0))
