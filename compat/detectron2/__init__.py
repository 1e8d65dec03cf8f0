"""The names of Detectron2 that DetCLIPv2 uses, in pure Python (see ../README.md)."""

from . import _subset

__version__ = "0.6+subset"

_subset.install()
