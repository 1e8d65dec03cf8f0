"""The share of the device's peak floating-point rate that a run reaches."""

import contextlib
import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from .timing import Setting, seconds


class OneModule(contextlib.nullcontext[None]):
    """In place of the counter's hooks on modules, which fail where a part learns nothing."""

    parents = ("Global",)


EDGE = {"cpu": 2048, "cuda": 8192}  # of a matrix that fills the device


def rate(setting: Setting) -> float:
    """Floating-point operations a second of a large matrix product in the setting's precision."""
    edge = EDGE[torch.device(setting.device).type]
    a = torch.randn(edge, edge, device=setting.device, dtype=getattr(torch, setting.dtype))
    b = torch.randn_like(a)
    times = [seconds(lambda: a @ b, setting.device) for _ in range(6)][1:]
    return 2 * edge**3 / statistics.median(times)


def share(run: Callable[[], object], duration: float, setting: Setting) -> dict[str, Any]:
    """Operations of a call that takes `duration` seconds, as a share of the device's peak."""
    return share_of(operations(run), duration, setting)


def operations(run: Callable[[], object]) -> int:
    """Floating-point operations of convolutions, matrix products and attention in a call.

    Sampling of the deformable layer and element-wise operations are not counted.
    """
    counter = FlopCounterMode(display=False)
    counter.mod_tracker = OneModule()
    with counter:
        run()
    return counter.get_total_flops()


def share_of(flops: int, duration: float, setting: Setting) -> dict[str, Any]:
    """So many operations in `duration` seconds, as a share of the rate of a large product."""
    at_best = rate(setting)
    return {
        "gflops": round(flops / 1e9, 1),
        "matrix_product_tflops": float(f"{at_best / 1e12:.3g}"),
        "share_of_peak": float(f"{flops / duration / at_best:.3g}"),
    }
