"""Information about the machine for bug reports."""

import importlib
import os
import sys

import torch
from tabulate import tabulate

__all__ = ["collect_env_info"]

_LIBRARIES = (
    "detectron2",
    "torch",
    "torchvision",
    "numpy",
    "PIL",
    "cv2",
    "fvcore",
    "iopath",
    "omegaconf",
    "hydra",
    "pycocotools",
)


def collect_env_info() -> str:
    """A table of versions and devices, and how torch was built."""
    rows = [("sys.platform", sys.platform), ("Python", sys.version.replace("\n", ""))]
    rows += [(name, _version(name)) for name in _LIBRARIES]
    rows.append(("GPU available", torch.cuda.is_available()))
    rows += [
        (f"GPU {index}", torch.cuda.get_device_name(index))
        for index in range(torch.cuda.device_count())
    ]
    return tabulate(rows) + "\n" + torch.__config__.show()


def _version(library: str) -> str:
    try:
        module = importlib.import_module(library)
    except ImportError:
        return "not found"
    folder = os.path.dirname(module.__file__ or "")
    return f"{getattr(module, '__version__', 'unknown version')} @{folder}"
