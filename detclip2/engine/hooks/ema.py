"""Exponential moving average of the weights, which is evaluated and saved."""

from typing import Any

from detectron2.engine import HookBase
from timm.utils import ModelEmaV3
from torch import nn


class AverageWeights(HookBase):
    """Averages the model's weights after every step, by timm's ModelEmaV3.

    The average is shorter at first, so that it soon forgets the initial weights.

    Args:
        model: the model in training, not in DistributedDataParallel.
        decay: share of the average that is kept at each step, after the warm-up.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.source = model
        self.ema = ModelEmaV3(model, decay=decay, use_warmup=True)
        for parameter in self.ema.parameters():
            parameter.requires_grad_(False)
        self.updates = 0

    @property
    def model(self) -> nn.Module:
        """The model with the averaged weights, in evaluation mode."""
        return self.ema.module

    def before_train(self) -> None:
        """Start from the loaded weights, unless the average was loaded too."""
        if self.updates == 0:
            self.model.load_state_dict(self.source.state_dict())

    def after_step(self) -> None:
        """Add the new weights to the average."""
        self.updates += 1
        self.ema.update(self.source, step=self.updates)

    def state_dict(self) -> dict[str, Any]:
        """The number of updates; the checkpoint has the weights in an entry of their own."""
        return {"updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the number of updates."""
        self.updates = state["updates"]
