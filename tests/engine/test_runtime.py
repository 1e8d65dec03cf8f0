import copy

import pytest
import torch

from detclip2.engine.runtime import apply_runtime_options
from detclip2.utils.errors import UserError
from detclip2.utils.model_folder import save_weights
from detclip2.utils.weights import read_weights
from tests.engine.test_micro_batch import assert_same, in_parts, model_and_batch, whole


def kernels(model):
    """Memory formats of convolutions larger than 1 x 1, where the formats differ."""
    return [p for p in model.parameters() if p.dim() == 4 and min(p.shape[1:]) > 1]


@pytest.mark.parametrize("source", ["detection", "pairs"])
def test_channels_last_keeps_losses_and_gradients(source, tmp_path):
    expected = whole(*model_and_batch(source))
    model, samples = model_and_batch(source)
    before = copy.deepcopy(model.state_dict())
    apply_runtime_options(model, channels_last=True, compile_with=None)
    assert kernels(model)
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in kernels(model))
    assert_same(whole(model, samples), expected)
    # The files do not depend on the memory format.
    save_weights(model, tmp_path)
    weights = read_weights(tmp_path / "model.safetensors")
    assert weights.keys() == before.keys()
    assert all(torch.equal(weights[name], value) for name, value in before.items())


class Counting:
    """A backend of torch.compile that runs the graphs as they are, and counts them."""

    def __init__(self):
        self.graphs = 0

    def __call__(self, graph, inputs):
        self.graphs += 1
        return graph.forward


@pytest.mark.parametrize("source", ["detection", "pairs"])
@pytest.mark.slow
def test_compiled_parts_keep_losses_and_gradients(source):
    torch.compiler.reset()
    expected = whole(*model_and_batch(source))
    model, samples = model_and_batch(source)
    names = list(model.state_dict())
    backend = Counting()
    apply_runtime_options(model, channels_last=False, compile_with={"backend": backend})
    assert_same(whole(model, samples), expected)
    assert backend.graphs >= 2  # the backbone's and the head's
    assert list(model.state_dict()) == names
    model.zero_grad()
    assert_same(in_parts(model, samples, 2), expected)
    # The average of the weights, a copy, is a model like any other.
    average = copy.deepcopy(model).eval()
    average.set_vocabulary(["red apple"])
    graphs = backend.graphs
    assert len(average([{"image": samples[0]["image"]}])) == 1
    assert backend.graphs == graphs


@pytest.mark.slow
def test_gradients_flow_through_aot_autograd():
    torch.compiler.reset()
    expected = whole(*model_and_batch("detection"))
    model, samples = model_and_batch("detection")
    apply_runtime_options(model, channels_last=True, compile_with={"backend": "aot_eager"})
    assert_same(whole(model, samples), expected)


@pytest.mark.parametrize("wrong", [{"backend": "no_such"}, {"speed": 2}])
def test_invalid_arguments_of_compile_are_reported(wrong):
    model, _ = model_and_batch("detection")
    with pytest.raises(UserError, match=r"^train\.compile: .*(no_such|speed)"):
        apply_runtime_options(model, channels_last=False, compile_with=wrong)
