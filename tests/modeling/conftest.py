import math

import pytest
import torch

from tests.helpers.detclip_samples import NAMES, set_score_threshold


@pytest.fixture
def detector(tiny_model):
    """In evaluation mode, with scores so different that rounding does not change their order."""
    with torch.no_grad():
        tiny_model.align.log_scale.fill_(math.log(30))
        tiny_model.head.centerness.weight.mul_(100)
        tiny_model.head.box.weight.mul_(30)
    set_score_threshold(tiny_model, 0.1)
    tiny_model.set_vocabulary(NAMES)
    return tiny_model.eval()
