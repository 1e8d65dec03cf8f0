"""A minimal model, sources and trainer for the training loop."""

import torch
from torch import nn

from detclip2.data.hybrid_loader import HybridLoader, Source
from detclip2.data.skips import SkipCounter
from detclip2.engine.trainer import NonFiniteSteps, Trainer


class ToyMapper:
    def __init__(self, value):
        self.value = value
        self.counter = SkipCounter("toy")

    def __call__(self, record, rng):
        return {"id": record["image_id"], "image_id": record["image_id"], "value": self.value}


class ToyModel(nn.Module):
    """Its losses sum to the value of its samples; it records the samples."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))
        self.seen = []

    def forward(self, samples):
        self.seen.append([sample["id"] for sample in samples])
        noise = torch.rand(3)  # stands for drop path
        value = samples[0]["value"] + (self.weight * noise).sum() * 1e-3
        return {"loss_a": value / 4, "loss_b": value * 3 / 4}


def toy_loader(batch_sizes=(2, 1), lengths=(30, 10), seed=0):
    """Source "first" (value 1), and "second" (value 5) if there are two sizes."""
    sources = {
        name: Source([{"image_id": i} for i in range(length)], ToyMapper(value), size, 0)
        for name, value, size, length in zip(
            ("first", "second"), (1.0, 5.0), batch_sizes, lengths, strict=False
        )
    }
    return HybridLoader(seed=seed, **sources)


def toy_trainer(loader):
    model = ToyModel()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return Trainer(model, loader, optimizer, NonFiniteSteps("unused"))  # all losses are finite
