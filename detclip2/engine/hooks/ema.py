"""An exponential moving average of the weights, which is what is evaluated and kept."""

from typing import Any

from detectron2.engine import HookBase
from timm.utils import ModelEmaV3
from torch import nn


class AverageWeights(HookBase):
    """Averages the model's weights after every step, by timm's ModelEmaV3.

    The average is shorter in the beginning, so that the random start is soon forgotten.

    Args:
        model: the one that is trained, not in DistributedDataParallel.
        decay: share of the average that stays at each step, in the long run.
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
        """Begin with the weights that were loaded, unless the average was loaded too."""
        if self.updates == 0:
            self.model.load_state_dict(self.source.state_dict())

    def after_step(self) -> None:
        """Take the new weights in."""
        self.updates += 1
        self.ema.update(self.source, step=self.updates)

    def state_dict(self) -> dict[str, Any]:
        """How many steps are in it; the weights are an entry of their own in the checkpoint."""
        return {"updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on averaging."""
        self.updates = state["updates"]
