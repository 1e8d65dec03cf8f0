"""DropBlock: blocks of zeros in all channels, and the mean of the mask."""

import pytest
import torch

from detclip2.modeling.layers.drop_block import DropBlock


def test_evaluation_changes_nothing():
    x = torch.randn(2, 3, 8, 9)
    assert torch.equal(DropBlock(0.9).eval()(x), x)
    assert torch.equal(DropBlock(0.0).train()(x), x)


def test_dropped_locations_are_blocks():
    torch.manual_seed(0)
    x = torch.ones(4, 5, 40, 50)
    result = DropBlock(0.3).train()(x)
    assert torch.equal(result, result[:, :1].expand_as(result))  # one mask for all channels
    dropped = result[:, 0] == 0
    assert 0.2 < dropped.float().mean() < 0.32  # blocks overlap, so a little less than 0.3
    # Each dropped location is in some 3 x 3 block that is dropped wholly.
    padded = torch.nn.functional.pad(dropped.float(), (1, 1, 1, 1), value=1.0)
    whole = torch.nn.functional.avg_pool2d(padded, 3, stride=1) > 0.999
    covered = torch.nn.functional.max_pool2d(whole.float(), 3, stride=1, padding=1) > 0
    assert (covered | ~dropped).all()
    # The rest is scaled up, so that the mean stays.
    assert result.mean() == pytest.approx(1, abs=1e-4)
    assert result[result > 0].unique().numel() == 1


def test_a_map_that_is_dropped_wholly_is_zero():
    result = DropBlock(9.0).train()(torch.ones(1, 2, 2, 2))
    assert result.isfinite().all()
    assert not result.any()
