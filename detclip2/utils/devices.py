"""Devices on which models run."""

import torch

from detclip2.utils.errors import UserError


def checked_device(device: str | torch.device | None = None) -> torch.device:
    """A usable device; None: the GPU if there is one, else the CPU.

    Raises:
        UserError: the device cannot be used.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built with CUDA
        raise UserError(
            f"device {str(device)!r} cannot be used: {str(error).splitlines()[0]}"
        ) from None
    return device
