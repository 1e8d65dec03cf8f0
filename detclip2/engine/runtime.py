"""Faster passes of the same model: another memory format, compiled parts."""

from collections.abc import Mapping
from typing import Any

import torch

from detclip2.modeling.meta_arch.detclipv2 import DetCLIPv2
from detclip2.utils.errors import UserError


def apply_runtime_options(
    model: DetCLIPv2, channels_last: bool, compile_with: Mapping[str, Any] | None
) -> None:
    """Change how ``model`` computes, in place; names and values of its weights stay.

    Args:
        model: to be trained.
        channels_last: lay the kernels of convolutions out in that memory format; what they give is
            then in it, too.
        compile_with: arguments of torch.compile, for the backbone and the head; None: neither is
            compiled. What else there is follows lists of phrases and boxes in Python.

    Raises:
        UserError: torch.compile does not take these arguments.
    """
    if channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if compile_with is None:
        return
    for part in (model.backbone, model.head):
        try:
            part.compile(**compile_with)
        except (TypeError, RuntimeError) as error:
            raise UserError(f"train.compile: {str(error).splitlines()[0]}") from error
