import math

import pytest
import torch

from tests.helpers.detclip_samples import NAMES


@pytest.fixture
def detector(tiny_model):
    """In evaluation, with scores far enough apart that rounding does not change their order."""
    with torch.no_grad():
        tiny_model.align.log_scale.fill_(math.log(30))
        tiny_model.head.centerness.weight.mul_(100)
        tiny_model.head.box.weight.mul_(30)
    tiny_model.postprocess.score_threshold = 0.1
    tiny_model.set_vocabulary(NAMES)
    return tiny_model.eval()
