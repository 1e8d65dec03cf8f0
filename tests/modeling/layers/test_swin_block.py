"""Swin's block in parts against timm's block, which computes whole maps."""

import copy

import pytest
import torch
from timm.models.swin_transformer import SwinTransformerBlock
from torch.utils._python_dispatch import TorchDispatchMode

from detclip2.modeling.layers import swin_block
from detclip2.modeling.layers.swin_block import SwinBlock, window_layout

WIDTH = 12
SIZES = [(7, 7), (14, 21), (10, 9), (3, 5), (1, 30), (22, 8)]


def block(shift=3, pad_before_roll=False, window=7):
    torch.manual_seed(0)
    made = SwinBlock(
        WIDTH,
        (28, 28),
        num_heads=3,
        window_size=window,
        shift_size=shift,
        always_partition=True,
        dynamic_mask=True,
    ).eval()
    made.attn.fused_attn = True
    torch.nn.init.normal_(made.attn.relative_position_bias_table)
    made.norm1.bias.data.normal_()  # padding is zero after the norm, and not its bias
    made.pad_before_roll = pad_before_roll
    return made


def image(size, batch=1):
    return torch.randn(batch, *size, WIDTH, generator=torch.Generator().manual_seed(1))


def whole_maps(made, x):
    """timm's path, which is also that of training."""
    return made(x).detach()  # gradients are enabled


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("pad_before_roll", [False, True])
@pytest.mark.parametrize("shift", [0, 3])
@pytest.mark.parametrize("size", SIZES)
def test_parts_equal_whole_maps(monkeypatch, size, shift, pad_before_roll, batch):
    made, x = block(shift, pad_before_roll), image(size, batch)
    monkeypatch.setattr(swin_block, "LEAST_TOKENS", 1)
    monkeypatch.setattr(swin_block, "NUMBERS_AT_ONCE", 100 * 3 * WIDTH)  # two windows
    before = x.clone()
    with torch.no_grad():
        found = made(x)
    assert torch.equal(x, before), "the input stays"
    torch.testing.assert_close(found, whole_maps(made, x), atol=1e-5, rtol=1e-5)


def test_images_of_a_batch_are_independent():
    made, x = block(), image((10, 9), 2)
    with torch.no_grad():
        torch.testing.assert_close(made(x)[1:], made(x[1:]))


def test_weights_and_copies():
    made, x = block(pad_before_roll=True), image((10, 9))
    other = copy.deepcopy(made)
    with torch.no_grad():
        assert torch.equal(other(x), made(x))
        made.mlp.fc2.bias += 1  # nothing of the weights is kept
        torch.testing.assert_close(made(x), other(x) + 1)


@pytest.mark.parametrize("case", ["training", "autocast", "double"])
def test_other_than_inference_takes_whole_maps(monkeypatch, case):
    made, x = block(), image((10, 9))
    monkeypatch.setattr(SwinBlock, "_attend", None)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=case == "autocast"):
        if case == "training":
            made.train()(x)
        elif case == "double":
            made.double()(x.double())
        else:
            made(x)
        monkeypatch.undo()


class Sizes(TorchDispatchMode):
    """Keeps the storages that operations make, and the names of operations."""

    def __init__(self):
        super().__init__()
        self.made = {}
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.names.add(func.overloadpacket.__name__)
        if isinstance(result, torch.Tensor):
            storage = result.untyped_storage()
            self.made[storage.data_ptr()] = storage
        return result


def test_only_the_map_and_its_attention_are_held_whole(monkeypatch):
    """What is between is at most one part, so that it stays in the cache, and is not copied."""
    monkeypatch.setattr(swin_block, "LEAST_TOKENS", 1)
    monkeypatch.setattr(swin_block, "NUMBERS_AT_ONCE", 2 * 49 * 3 * WIDTH)
    made, x = block(), image((28, 70))
    with torch.no_grad():
        made(x)  # the layout is made
        with Sizes() as counted:
            made(x)
    layout = window_layout(1, 28, 70, (7, 7), (3, 3), False)
    known = {t.data_ptr() for t in (x, layout.tokens, layout.mask, layout.place_of_token)}
    sizes = [s.nbytes() for address, s in counted.made.items() if address not in known]
    assert sum(size >= 4 * x.numel() for size in sizes) == 2
    assert not counted.names & {"roll", "constant_pad_nd", "cat"}


def test_only_windows_at_the_border_are_masked():
    layout = window_layout(2, 28, 35, (7, 7), (3, 3), False)
    assert (len(layout.tokens), layout.num_plain) == (40, 2 * 3 * 4)
    assert len(layout.mask) == 40 - layout.num_plain
    assert all(mask.any() for mask in layout.mask)
    assert window_layout(2, 28, 35, (7, 7), (0, 0), False).num_plain == 40


@pytest.mark.parametrize("pad_before_roll", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_each_token_has_one_place(size, pad_before_roll):
    layout = window_layout(2, *size, (7, 7), (3, 3), pad_before_roll)
    tokens = layout.tokens.flatten()
    assert torch.equal(tokens[tokens >= 0].sort().values, torch.arange(2 * size[0] * size[1]))
    assert torch.equal(tokens[layout.place_of_token], torch.arange(len(layout.place_of_token)))


def test_parts_cover_all_windows_once(monkeypatch):
    seen = []
    made, x = block(), image((28, 35))
    monkeypatch.setattr(swin_block, "LEAST_TOKENS", 1)
    monkeypatch.setattr(swin_block, "NUMBERS_AT_ONCE", 5 * 49 * 3 * WIDTH)
    attend = made.attn.forward
    monkeypatch.setattr(
        made.attn, "forward", lambda y, mask: seen.append((len(y), mask)) or attend(y, mask)
    )
    with torch.no_grad():
        made(x)
    assert [count for count, _ in seen] == [5, 5, 2, 5, 3]
    assert [mask is None for _, mask in seen] == [True, True, True, False, False]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("pad_before_roll", [False, True])
def test_attention_makes_no_denormal_numbers(pad_before_roll, training):
    """CPUs multiply such numbers many times slower. Padding alone in its region has values of 0."""
    made, seen = block(pad_before_roll=pad_before_roll), []
    torch.nn.init.normal_(made.attn.qkv.weight)
    torch.nn.init.zeros_(made.attn.qkv.bias)
    made.attn.proj.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    with torch.set_grad_enabled(training):
        made(image((10, 10)))
    attended = torch.cat([x.flatten() for x in seen]).abs()
    assert (attended > 0).any()
    assert not ((attended > 0) & (attended < torch.finfo(torch.float32).tiny)).any()


@pytest.mark.parametrize("size", SIZES)
def test_the_mask_gives_what_timms_gives(size):
    made, x = block(), image(size)
    found = whole_maps(made, x)
    made.get_attn_mask = lambda x: SwinTransformerBlock.get_attn_mask(made, x)
    torch.testing.assert_close(found, whole_maps(made, x), atol=1e-6, rtol=1e-6)
