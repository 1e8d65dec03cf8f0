"""Runtime options: memory format of a model, compiled parts, memory of the process."""

import ctypes
import platform
from collections.abc import Mapping
from typing import Any

import torch

from detclip2.modeling.protocol import OpenVocabularyModel
from detclip2.utils.errors import UserError

# Parameters of glibc's mallopt (malloc.h).
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4


def apply_runtime_options(
    model: OpenVocabularyModel, channels_last: bool, compile_with: Mapping[str, Any] | None
) -> None:
    """Set memory format and compilation of ``model``, in place; its weights do not change.

    Args:
        model: the model to train.
        channels_last: store the kernels of convolutions in that memory format; their outputs then
            have it too.
        compile_with: arguments of torch.compile for the model's ``compilable_parts``; None compiles
            nothing.

    Raises:
        UserError: torch.compile does not take these arguments.
    """
    if channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[attr-defined]
    if compile_with is None:
        return
    for part in model.compilable_parts():
        try:
            part.compile(**compile_with)
        except (TypeError, RuntimeError) as error:
            raise UserError(f"train.compile: {str(error).splitlines()[0]}") from error


def keep_freed_memory() -> bool:
    """Let the allocator keep freed memory instead of returning it to the system.

    For training on a CPU: by default glibc maps large tensors again at each step, and clearing
    their pages took half of the time. The process's memory stays at its peak.

    Returns:
        Whether the settings took effect; only glibc has them.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all(
        (mallopt(M_MMAP_MAX, 0), mallopt(M_TRIM_THRESHOLD, -1), mallopt(M_TOP_PAD, 256 * 2**20))
    )
