"""Learning rates by part of the model."""


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
