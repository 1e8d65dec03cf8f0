"""What matters on a GPU, in one run that ends within its budget.

    python scripts/benchmark.py gpu --budget 480    # seconds

Inference in float32 and bfloat16, step by step, recorded as a CUDA graph and compiled, of 1 and 16
images; a training step of each supervision with its share of the device's peak; a peer in turns
with ours; the exported graph in TensorRT, where ONNX Runtime has it. The rows that matter most come
first. One process measures, another watches the clock: what has not been measured when the budget
ends is named as skipped, and what fails, with its reason.
"""

import dataclasses
import multiprocessing
import queue
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from detclip2.export.graph import DetectorGraph, _plain_attention
from detclip2.modeling.meta_arch.detclipv2 import DetCLIPv2

from . import inference, peak, peers, training
from .models import build, image_of, vocabulary_of
from .timing import Setting, peak_memory, seconds, spread

PROVIDER = "TensorrtExecutionProvider"
PATIENCE = 0.2  # seconds between looks at the clock


class Skipped(Exception):
    """A row that cannot be measured here; its text says why."""


@dataclass(frozen=True)
class Sizes:
    """What is measured; a test has a small one."""

    model: str = "swin_t"
    detection: tuple[int, int] = (800, 1333)
    pair: tuple[int, int] = (320, 320)
    names: int = 80
    batches: tuple[int, int] = (1, 16)
    detections: int = 4
    """Samples of a training step."""
    captions: int = 64
    peers: tuple[str, ...] = ("omdet-turbo", "grounding-dino")
    provider: str = PROVIDER
    """Of ONNX Runtime, for the exported graph."""


@dataclass(frozen=True)
class Item:
    """A row."""

    what: str
    """inference, train_detection, train_pairs, peer or exported."""
    way: str
    """eager, graph or compile; the name of a peer or of a provider."""
    dtype: str = "float32"
    batch: int = 1


def items(sizes: Sizes) -> list[Item]:
    """The rows, those that matter most first and those that compile last."""
    few, many = sizes.batches
    halves = ("float32", "bfloat16")

    def detect(way: str) -> list[Item]:
        return [Item("inference", way, dtype, n) for dtype in halves for n in (few, many)]

    return [
        *detect("eager"),
        *detect("graph"),
        Item("train_detection", "eager", "bfloat16", sizes.detections),
        Item("train_pairs", "eager", "bfloat16", sizes.captions),
        *(Item("peer", name) for name in sizes.peers),
        Item("exported", sizes.provider),
        *detect("compile"),
    ]


def measure(setting: Setting, budget: float, sizes: Sizes = Sizes()) -> dict[str, Any]:
    """A row for each item, also for those that fail or are skipped, within a budget of seconds."""
    deadline = time.monotonic() + budget
    context = multiprocessing.get_context("spawn")
    results: Any = context.Queue()
    todo, rows = items(sizes), []
    worker = context.Process(target=work, args=(results, setting, sizes, todo), daemon=True)
    worker.start()
    why = f"skipped: the budget of {budget:g} s was over"
    while len(rows) < len(todo) and time.monotonic() < deadline:
        alive = worker.is_alive()
        try:
            rows.append(results.get(timeout=PATIENCE))
        except queue.Empty:
            if not alive:
                why = f"skipped: the process that measures died (exit code {worker.exitcode})"
                break
    worker.kill()
    worker.join()
    rows += [{**vars(item), "why": why} for item in todo[len(rows) :]]
    return {"rows": rows, "budget": budget, **dataclasses.asdict(sizes)}


def work(results: Any, setting: Setting, sizes: Sizes, todo: list[Item]) -> None:
    """Measure one item after the other into a queue; a failure is a row."""
    setting.prepare()
    for item in todo:
        own = dataclasses.replace(setting, dtype=item.dtype, compile=item.way == "compile")
        try:
            results.put({**vars(item), **MEASURE[item.what](item, own, sizes)})
        except Skipped as error:
            results.put({**vars(item), "why": f"skipped: {error}"})
        except Exception as error:  # of any library: the next item may work
            reason = " ".join(str(error).split())[:120] or type(error).__name__
            results.put({**vars(item), "why": f"failed: {reason}"})


def timed(run: Callable[[], object], setting: Setting, warm_up: int = 3) -> dict[str, Any]:
    """Seconds of a call after its warm-up, memory, and the share of the device's peak."""
    on_gpu = torch.device(setting.device).type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(setting.device)
    for _ in range(warm_up):
        run()
    times = [seconds(run, setting.device) for _ in range(setting.repeats)]
    row = {"seconds": spread(times), "peak_MiB": round(peak_memory(setting.device) / 2**20)}
    return {**row, "repeats": len(times)}


def detect(item: Item, setting: Setting, sizes: Sizes) -> dict[str, Any]:
    """Images to detections, with cached names."""
    on_gpu = torch.device(setting.device).type == "cuda"
    if item.way == "graph" and not on_gpu:
        raise Skipped("CUDA graphs need a GPU")
    case = inference.Case(sizes.names, sizes.detection, batch=item.batch, model=sizes.model)
    model, run, _ = inference.prepared_model(case, setting)
    operations = peak.operations(run) if item.way == "eager" else None
    if item.way == "graph":
        record(model, item.batch, sizes.detection, setting)
    row = timed(run, setting)
    if operations is not None:
        row |= peak.share_of(operations, row["seconds"]["median"], setting)
    return row


def record(model: DetCLIPv2, batch: int, size: tuple[int, int], setting: Setting) -> None:
    """Replace the forward passes of backbone and head by CUDA graphs for one shape of images."""
    images = model.preprocess_image([{"image": image_of(size)} for _ in range(batch)])
    with setting.context():
        backbone = Recorded(model.backbone.forward, images.tensor)
        levels = [backbone.output[name] for name in model.head_in_features]
        head = Recorded(model.head.forward, levels)
    model.backbone.forward, model.head.forward = backbone, head


class Recorded:
    """A function of tensors of fixed shapes, recorded once as a CUDA graph and then replayed.

    Its output is in the same memory at each call.
    """

    def __init__(self, function: Callable[[Any], Any], example: Any) -> None:
        self.input = pytree.tree_map(torch.clone, example)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                function(self.input)
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.output = function(self.input)

    def __call__(self, inputs: Any) -> Any:
        """The output for inputs of the shapes of the example."""
        pytree.tree_map(Tensor.copy_, self.input, inputs)
        self.graph.replay()
        return self.output


def train(item: Item, setting: Setting, sizes: Sizes) -> dict[str, Any]:
    """Forward, losses, backward and the optimiser's step, with CLIP's text tower."""
    if item.what == "train_pairs":
        samples = [training.caption_sample(n, sizes.pair) for n in range(item.batch)]
    else:
        samples = [training.detection_sample(sizes.detection) for _ in range(item.batch)]
    model = build(sizes.model, setting, text=True).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    run = training.training_step(model, optimizer, samples, setting.device, item.dtype)
    operations = peak.operations(run)
    row = timed(run, setting, warm_up=2)
    return row | peak.share_of(operations, row["seconds"]["median"], setting)


def against_peer(item: Item, setting: Setting, sizes: Sizes) -> dict[str, Any]:
    """Ours at the peer's size, in turns with the peer: its ratio is of ours to the peer."""
    del sizes
    return peers.ours_against(item.way, setting)


def exported(item: Item, setting: Setting, sizes: Sizes) -> dict[str, Any]:
    """The exported graph, names folded in, without suppression, in ONNX Runtime."""
    import onnxruntime

    if item.way not in onnxruntime.get_available_providers():
        raise Skipped(f"ONNX Runtime here has no {item.way}")
    model = build(sizes.model, Setting(device="cpu", seed=setting.seed))
    graph = DetectorGraph(model, vocabulary_of(sizes.names, model)).eval()
    height, width = (-(-edge // 128) * 128 for edge in sizes.detection)  # of the largest stride
    image = torch.zeros(1, 3, height, width)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad(), _plain_attention(graph):
        path = Path(folder) / "detector.onnx"
        torch.onnx.export(graph, (image,), str(path), dynamo=True, opset_version=20, verbose=False)
        session = onnxruntime.InferenceSession(str(path), providers=[item.way])
    [entry] = session.get_inputs()
    return timed(lambda: session.run(None, {entry.name: image.numpy()}), setting)


MEASURE: dict[str, Callable[[Item, Setting, Sizes], dict[str, Any]]] = {
    "inference": detect,
    "train_detection": train,
    "train_pairs": train,
    "peer": against_peer,
    "exported": exported,
}
