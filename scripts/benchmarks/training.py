"""Training time: a caption sample relative to a detection sample; a small model on a CPU."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.structures import Boxes, Instances

from detclip2.engine.runtime import apply_runtime_options
from detclip2.engine.step_cost import synthetic_samples

from .models import build, image_of, names_of
from .timing import Setting, in_turns, relative_to_reference, spread, work_seconds

PHOTO_NANO = Path(__file__).resolve().parents[2] / "projects/DetCLIPv2/configs/photo_nano.py"
NANO_VERSIONS = (("float32", False), ("bfloat16", True))
"""Precision, and whether convolutions are channels-last."""


def detection_sample(size: tuple[int, int], boxes: int = 15, phrases: int = 150) -> dict[str, Any]:
    """Samples as of DetectionMapper: some phrases have boxes, the others are negatives."""
    height, width = size
    corner = torch.rand(boxes, 2) * torch.tensor([width * 0.8, height * 0.8])
    extent = 20 + torch.rand(boxes, 2) * torch.tensor([width * 0.2, height * 0.2])
    instances = Instances(size)
    instances.gt_boxes = Boxes(torch.cat([corner, corner + extent], dim=1))
    instances.gt_boxes.clip(size)
    instances.gt_classes = torch.arange(boxes) % 7
    return {
        "image": image_of(size),
        "supervision": "detection",
        "phrases": names_of(phrases),
        "num_positives": 7,
        "instances": instances,
    }


def caption_sample(number: int, size: tuple[int, int], phrases: int = 7) -> dict[str, Any]:
    """Samples as of CaptionMapper: each has phrases of its own."""
    names = names_of((number + 1) * phrases)[number * phrases :]
    names[0] = f"a photograph of a {names[0]} and a {names[1]} behind it"
    return {
        "image": image_of(size),
        "supervision": "caption",
        "phrases": names,
        "num_positives": phrases,
    }


def measure(
    setting: Setting, detections: int = 1, captions: int = 16, size: str = "swin_t"
) -> dict[str, Any]:
    """Seconds a caption sample at 320 x 320 / a detection sample at 800 x 1333.

    A step has forward, losses, backward and the optimiser's step; both alternate in one process.
    """
    setting.prepare()
    model = build(size, setting, text=True).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    boxes = [detection_sample((800, 1333)) for _ in range(detections)]
    pairs = [caption_sample(number, (320, 320)) for number in range(captions)]

    def step(samples: list[dict[str, Any]]) -> Callable[[], None]:
        return training_step(model, optimizer, samples, setting.device, setting.dtype)

    row = relative_to_reference(step(pairs), setting, step(boxes))
    share = {key: value * detections / captions for key, value in row.pop("ratio").items()}
    return {"detections": detections, "captions": captions, "share": share, **row}


def training_step(
    model: Any,
    optimizer: torch.optim.Optimizer,
    samples: list[dict[str, Any]],
    device: str,
    dtype: str,
) -> Callable[[], None]:
    """A call with forward, losses, backward and the optimiser's step."""
    lowered, kind = getattr(torch, dtype), torch.device(device).type

    def run() -> None:
        with torch.autocast(kind, lowered, enabled=lowered != torch.float32):
            losses = model(samples)
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return run


def measure_nano(
    setting: Setting, images: int = 8, edge: int = 256, names: int = 80
) -> list[dict[str, Any]]:
    """A training step of `photo_nano` with boxes, as its config has it and in plain float32.

    Random weights; images of noise with 6 boxes each; processor seconds, in turns. Processors
    differ: those without instructions for bfloat16 are slower with it.
    """
    setting.prepare()
    samples = [*synthetic_samples(images, (edge, edge), names, "detection", boxes=6)]
    steps = []
    for dtype, channels_last in NANO_VERSIONS:
        model = instantiate(LazyConfig.load(str(PHOTO_NANO)).model).train()
        apply_runtime_options(model, channels_last, None)
        learning = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(learning, lr=1e-6)
        steps.append(training_step(model, optimizer, samples, "cpu", dtype))
        steps[-1]()
    turns = [*in_turns(steps, setting.repeats, work_seconds)]
    return [
        {
            "precision": dtype,
            "channels_last": channels_last,
            "images": images,
            "seconds": spread([times[which] for times in turns]),
            "speed": spread([times[0] / times[which] for times in turns]),
        }
        for which, (dtype, channels_last) in enumerate(NANO_VERSIONS)
    ]
