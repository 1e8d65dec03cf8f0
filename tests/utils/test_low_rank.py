import pytest
import torch
from torch import nn
from torch.nn import functional as F

from detclip2.utils.low_rank import merged


@pytest.mark.parametrize("layer", [nn.Linear(6, 5), nn.Conv2d(6, 5, 3, padding=1)])
def test_merged_weights_give_the_sum_of_both_ways(layer):
    """By LoRA's definition: layer(x) + up(down(x))."""
    is_linear = isinstance(layer, nn.Linear)
    down, up = torch.randn(2, *layer.weight.shape[1:]), torch.randn(5, 2)
    x = torch.randn(3, 6) if is_linear else torch.randn(3, 6, 7, 7)
    up = up if is_linear else up[..., None, None]
    call = F.linear if is_linear else F.conv2d
    low = call(call(x, down), up) if is_linear else call(call(x, down, padding=1), up)
    state = {f"a.base_layer.{name}": tensor for name, tensor in layer.state_dict().items()}
    state |= {"a.lora_A.default.weight": down, "a.lora_B.default.weight": up}
    plain = merged(state | {"b": x})
    assert plain.keys() == {"a.weight", "a.bias", "b"}
    expected = layer(x) + low
    layer.load_state_dict({"weight": plain["a.weight"], "bias": plain["a.bias"]})
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)


def test_a_plain_model_stays():
    state = nn.Linear(2, 2).state_dict()
    assert all(merged(state)[name] is state[name] for name in state)
