"""Weights with low-rank matrices of LoRA beside them, by peft's names, and merged with them."""

from collections.abc import Mapping

from torch import Tensor

State = dict[str, Tensor]

_DOWN, _UP, _BASE = ".lora_A.default.weight", ".lora_B.default.weight", ".base_layer."


def plain_names(state: Mapping[str, Tensor]) -> State:
    """The entries with the names that they have in a model without low-rank matrices."""
    return {name.replace(_BASE, "."): tensor for name, tensor in state.items()}


def merged(state: Mapping[str, Tensor]) -> State:
    """The entries of the plain model: weight + up x down where there are two such matrices.

    Those of a convolution are themselves convolutions: a smaller one, and one of 1 x 1.

    Args:
        state: with names of peft's model, or plain names, and the matrices.
    """
    plain = plain_names({n: t for n, t in state.items() if not n.endswith((_DOWN, _UP))})
    for name, down in state.items():
        if name.endswith(_DOWN):
            layer = name.removesuffix(_DOWN)
            weight = plain[f"{layer}.weight"]
            change = state[layer + _UP].flatten(1) @ down.flatten(1)
            plain[f"{layer}.weight"] = weight + change.view(weight.shape)
    return plain
