"""Training time of a caption sample relative to a detection sample."""

from collections.abc import Callable
from typing import Any

import torch
from detectron2.structures import Boxes, Instances

from .models import build, image_of, names_of
from .timing import Setting, relative_to_reference


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
        def run() -> None:
            dtype = getattr(torch, setting.dtype)
            kind = torch.device(setting.device).type
            with torch.autocast(kind, dtype, enabled=dtype != torch.float32):
                losses = model(samples)
            torch.stack(list(losses.values())).sum().backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        return run

    row = relative_to_reference(step(pairs), setting, step(boxes))
    share = {key: value * detections / captions for key, value in row.pop("ratio").items()}
    return {"detections": detections, "captions": captions, "share": share, **row}
