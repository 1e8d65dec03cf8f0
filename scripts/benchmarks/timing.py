"""Times relative to a reference, measured in turns so that a busy machine slows both."""

import contextlib
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import timm
import torch

REFERENCE = "timm's Swin-T features at 800 x 1333, batch 1, float32"


@dataclass
class Setting:
    """The settings of a run, the same for all its rows."""

    device: str = "cpu"
    dtype: str = "float32"
    compile: bool = False
    repeats: int = 5
    row_seconds: float = 30
    keep_freed_memory: bool = False
    processor_time: bool = False
    seed: int = 0

    def prepare(self) -> None:
        """Call once in each process, before a model or the reference is built."""
        torch.manual_seed(self.seed)
        if self.keep_freed_memory:
            from detclip2.engine.runtime import keep_freed_memory

            keep_freed_memory()

    @contextlib.contextmanager
    def context(self) -> Iterator[None]:
        """The context of measured inference: no gradients; autocast for half precision."""
        kind = torch.device(self.device).type
        dtype = getattr(torch, self.dtype)
        with torch.no_grad(), torch.autocast(kind, dtype, enabled=dtype != torch.float32):
            yield

    def module(self, module: Any) -> Any:
        """The module on the device, in evaluation mode, compiled if `compile` is set."""
        module = module.eval().to(self.device)
        if self.compile:
            module.compile(dynamic=False)
        return module


def reference(setting: Setting) -> Callable[[], object]:
    """The reference, ready to run: always in float32 and never compiled."""
    model = timm.create_model(
        "swin_tiny_patch4_window7_224", pretrained=False, features_only=True, img_size=(800, 1333)
    )
    model = model.eval().to(setting.device)
    image = torch.randn(1, 3, 800, 1333, device=setting.device)

    def run() -> object:
        with torch.no_grad():
            return model(image)

    return run


def seconds(
    run: Callable[[], object], device: str = "cpu", clock: Callable[[], float] = time.perf_counter
) -> float:
    """Seconds of a call, by the clock on the wall unless another is given."""
    synchronize(device)
    start = clock()
    run()
    synchronize(device)
    return clock() - start


def work_seconds(run: Callable[[], object], device: str = "cpu") -> float:
    """Processor seconds of a call, of all threads, which other programs change less; wall-clock
    seconds on a GPU.
    """
    if torch.device(device).type == "cuda":
        return seconds(run, device)
    start = time.process_time()
    run()
    return time.process_time() - start


def synchronize(device: str) -> None:
    """Wait for a GPU."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(device: str = "cpu") -> int:
    """Peak memory so far, bytes: torch's on a GPU, else of the whole process."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def spread(values: list[float], digits: int = 3) -> dict[str, float]:
    """Median, least and most of some values, rounded to `digits` significant digits."""
    chosen = (statistics.median(values), min(values), max(values))
    rounded = (float(f"{value:.{digits}g}") for value in chosen)
    return dict(zip(("median", "least", "most"), rounded, strict=True))


def in_turns(
    calls: Sequence[Callable[[], object]],
    repeats: int,
    measure: Callable[[Callable[[], object]], float],
) -> Iterator[list[float]]:
    """What ``measure`` gives for each call, turn by turn, so that a busy machine slows all.

    Every other turn goes backwards, so that no call always has the cache of the same other one.
    """
    for repeat in range(repeats):
        order = range(len(calls))
        times = [0.0] * len(calls)
        for which in reversed(order) if repeat % 2 else order:
            times[which] = measure(calls[which])
        yield times


def relative_to_reference(
    run: Callable[[], object], setting: Setting, other: Callable[[], object] | None = None
) -> dict[str, Any]:
    """Warm up, note the memory, and measure in turns with the reference.

    Args:
        run: the call to measure.
        setting: of the run.
        other: a call to measure against, in place of the reference.
    """
    other_is_reference = other is None
    before = peak_memory(setting.device)
    run()
    memory = peak_memory(setting.device)
    other = reference(setting) if other is None else other
    other()
    clock = time.process_time if setting.processor_time else time.perf_counter
    pairs: list[list[float]] = []
    start = time.perf_counter()
    for pair in in_turns(
        (run, other), setting.repeats, lambda call: seconds(call, setting.device, clock)
    ):
        pairs.append(pair)
        if time.perf_counter() - start > setting.row_seconds:
            break
    return {
        "repeats": len(pairs),
        "ratio": spread([ours / theirs for ours, theirs in pairs]),
        "seconds": spread([ours for ours, _ in pairs]),
        "reference_seconds" if other_is_reference else "other_seconds": spread(
            [t for _, t in pairs]
        ),
        "peak_MiB": round(memory / 2**20),
        "peak_MiB_before": round(before / 2**20),
    }


def machine(setting: Setting) -> dict[str, Any]:
    """The machine, versions and settings of a run."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
        name = names[0] if names else name
    if torch.device(setting.device).type == "cuda":
        name = torch.cuda.get_device_name(setting.device)
    return {
        "machine": name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "timm": timm.__version__,
        "date": time.strftime("%Y-%m-%d"),
        "reference": REFERENCE,
        "cpu_has_bf16": _flag("avx512_bf16") or _flag("amx_bf16"),
        **asdict(setting),
    }


def _flag(name: str) -> bool:
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        return any(line.startswith("flags") and f" {name} " in f"{line} " for line in file)
    return False
