"""Learning rates by part of the model."""

import math
import re
from collections.abc import Callable, Sequence


class TextTowerFactor:
    """Parameter name -> factor on its learning rate (paper, sec. 4.1: 0.1 for the text tower).

    Args:
        factor: for the pretrained text model; its projection to D starts from random weights, so
            it learns at the full rate.
    """

    def __init__(self, factor: float = 0.1) -> None:
        self.factor = factor

    def __call__(self, name: str) -> float:
        """The factor of a parameter."""
        return self.factor if name.startswith("text_tower.model.") else 1.0


class LayerDecay:
    """Parameter name -> factor that falls from layer to layer towards the backbone's input.

    Not in the paper; customary where a pretrained transformer is fine-tuned (BEiT, ViTDet). The
    last block has factor ``decay``, the one before it its square, and so on; a patch merging goes
    with the block that follows it, the patch embedding comes before all. Everything outside of the
    backbone's extractor, its output norms included, learns at the full rate.

    Args:
        decay: in (0, 1]; 1 for no decay.
        depths: blocks of each stage of timm's Swin: (2, 2, 6, 2) of Swin-T, (2, 2, 18, 2) of
            Swin-B and Swin-L.
    """

    PREFIX = "backbone.bottom_up.extractor."

    def __init__(self, decay: float, depths: Sequence[int] = (2, 2, 6, 2)) -> None:
        self.decay = decay
        self.depths = tuple(depths)

    def __call__(self, name: str) -> float:
        """The factor of a parameter.

        Raises:
            ValueError: a parameter of the extractor that no Swin of these depths has.
        """
        if not name.startswith(self.PREFIX):
            return 1.0
        own = name.removeprefix(self.PREFIX)
        total = sum(self.depths)
        if own.startswith("patch_embed."):
            return self.decay ** (total + 1)
        found = re.match(r"layers_(\d+)\.(?:blocks\.(\d+)|downsample)\.", own)
        stage, block = (int(found[1]), int(found[2] or 0)) if found else (len(self.depths), 0)
        if stage >= len(self.depths) or block >= self.depths[stage]:
            raise ValueError(f"LayerDecay with depths {self.depths} does not know {name}")
        return self.decay ** (total - sum(self.depths[:stage]) - block)


class Factors:
    """The product of several such functions of a parameter's name."""

    def __init__(self, functions: Sequence[Callable[[str], float]]) -> None:
        self.functions = list(functions)

    def __call__(self, name: str) -> float:
        """The factor of a parameter."""
        return math.prod(function(name) for function in self.functions)
