"""Dynamic head blocks against loops, and GLIP's head."""

import pytest
import torch
from torch.nn import functional as F
from torchvision.ops import deform_conv2d

from detclip2.modeling.heads.atss_head import join_levels
from detclip2.modeling.heads.dyhead import (
    BertLayer,
    DynamicBlock,
    DynamicReLU,
    GLIPHead,
    first_places,
    split_levels,
)

CHANNELS = 8
SIZES = [(12, 20), (6, 10), (3, 5), (2, 3), (1, 2)]


def levels(seed=0, batch_size=2):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch_size, CHANNELS, *size, generator=generator) for size in SIZES]


@pytest.fixture
def block():
    torch.manual_seed(0)
    block = DynamicBlock(CHANNELS, num_groups=2)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return block.eval()


def hard_sigmoid(x):
    return F.relu6(x + 3) / 6


def conv(layer, x, offsets, mask):
    sampled = deform_conv2d(
        x, offsets, layer.conv.weight, layer.conv.bias, layer.stride, padding=1, mask=mask
    )
    return layer.norm(sampled)


def level_by_level(block, xs, image):
    """The block of one image, as in the paper, with the published order of offsets in memory."""
    xs = [x[image : image + 1] for x in xs]
    result = []
    for i, x in enumerate(xs):
        predicted = block.offsets_and_mask(x)
        offsets, mask = predicted[:, :18], predicted[:, 18:].sigmoid()
        branches = [conv(block.from_same, x, offsets, mask)]
        if i > 0:
            branches.append(conv(block.from_finer, xs[i - 1], offsets, mask))
        if i < len(xs) - 1:
            h, w = xs[i + 1].shape[-2:]
            numbers, masks = offsets.flatten().tolist(), mask.flatten().tolist()
            of_memory = torch.tensor(numbers[: 18 * h * w]).view(1, 18, h, w)
            mask_of_memory = torch.tensor(masks[: 9 * h * w]).view(1, 9, h, w)
            coarse = conv(block.from_coarser, xs[i + 1], of_memory, mask_of_memory)
            branches.append(corner_aligned(coarse, *x.shape[-2:]))
        total = 0
        for branch in branches:
            mean = branch.mean(dim=(2, 3))
            weight = block.scale_attention.weight.flatten(1)
            total += branch * hard_sigmoid(F.relu(mean @ weight.T + block.scale_attention.bias))
        result.append(block.task_attention(total / len(branches)))
    return result


def corner_aligned(x, height, width):
    """Bilinear upsampling in which corner pixels stay in the corners."""
    rows = torch.linspace(0, x.shape[-2] - 1, height)
    columns = torch.linspace(0, x.shape[-1] - 1, width)
    along = []
    for places, length in ((rows, x.shape[-2]), (columns, x.shape[-1])):
        distance = (places[:, None] - torch.arange(length)).abs()
        along.append((1 - distance).clamp(min=0))  # (new, old)
    return torch.einsum("hi,bcij,wj->bchw", along[0], x, along[1])


@torch.no_grad()
def test_a_block_equals_its_definition(block):
    xs = levels()
    ours = block(xs)
    for image in (0, 1):
        for a, b in zip(ours, level_by_level(block, xs, image), strict=True):
            torch.testing.assert_close(a[image : image + 1], b, atol=1e-4, rtol=1e-4)


def test_training_equals_evaluation(block):
    xs = levels()
    with torch.no_grad():
        expected = block(xs)
    for a, b in zip(block.train()(xs), expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("sizes", [[(3, 4)], [(1, 1)] * 3, [(1, 7), (1, 4)]])
def test_other_levels(block, sizes):
    xs = [torch.randn(1, CHANNELS, *size) for size in sizes]
    assert [x.shape[-2:] for x in block(xs)] == sizes


def test_offsets_of_a_coarser_level_are_the_first_in_memory():
    x = torch.arange(2 * 18 * 4 * 6).view(2, 18, 4, 6)
    part = first_places(x, (2, 3))
    assert part.shape == (2, 18, 2, 3)
    assert part[0].flatten().tolist() == list(range(18 * 6))
    assert part[1, 0, 0, 0] == x[1, 0, 0, 0]


def test_dynamic_relu():
    torch.manual_seed(0)
    layer = DynamicReLU(CHANNELS)
    x = torch.randn(2, CHANNELS, 3, 4)
    hidden = F.relu(layer.layers[0](x.mean(dim=(2, 3))))
    a1, b1, a2, b2 = (hard_sigmoid(layer.layers[2](hidden)) - 0.5).chunk(4, dim=1)
    for c in range(CHANNELS):
        first = (1 + 2 * a1[1, c]) * x[1, c] + b1[1, c]
        second = 2 * a2[1, c] * x[1, c] + b2[1, c]
        torch.testing.assert_close(layer(x)[1, c], torch.max(first, second))
    for layer_ in (layer.layers[0], layer.layers[2]):
        torch.nn.init.zeros_(layer_.weight), torch.nn.init.zeros_(layer_.bias)
    torch.testing.assert_close(layer(x), x.relu())


def test_a_text_layer_is_berts():
    from transformers import BertConfig
    from transformers.models.bert.modeling_bert import BertLayer as TransformersLayer

    config = BertConfig(hidden_size=8, num_attention_heads=2, intermediate_size=12)
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    theirs, ours = TransformersLayer(config).eval(), BertLayer(8, 2, 12, 0.1)
    attention = theirs.attention
    parts = [getattr(attention.self, name) for name in ("query", "key", "value")]
    with torch.no_grad():
        ours.self_attn.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
        ours.self_attn.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
    for own, other in (
        (ours.self_attn.out_proj, attention.output.dense),
        (ours.norm1, attention.output.LayerNorm),
        (ours.linear1, theirs.intermediate.dense),
        (ours.linear2, theirs.output.dense),
        (ours.norm2, theirs.output.LayerNorm),
    ):
        own.load_state_dict(other.state_dict())
    x, mask = torch.randn(2, 5, 8), torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    hidden = torch.where(mask, 0.0, torch.finfo(torch.float32).min)[:, None, None]
    expected = theirs(x, hidden)
    rates = {name: m.p for name, m in ours.named_modules() if isinstance(m, torch.nn.Dropout)}
    assert rates == {"dropout": 0.0, "dropout1": 0.1, "dropout2": 0.1}
    assert ours.self_attn.dropout == 0.1
    with torch.no_grad():
        for result in (ours.eval()(x, src_key_padding_mask=~mask),):
            torch.testing.assert_close(result[mask], expected[mask])


def head(**arguments):
    torch.manual_seed(0)
    defaults = {"num_blocks": 4, "text_width": 6, "text_heads": 2, "text_hidden": 8}
    defaults |= {"fusion_width": 16, "num_groups": 2}
    return GLIPHead(CHANNELS, **{**defaults, **arguments})


def text():
    mask = torch.ones(2, 5, dtype=torch.bool)
    mask[1, 4:] = False
    return torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(2)), mask


def test_the_first_values_are_glips():
    model = head()
    for fusion in model.fusions:
        assert (fusion.image_scale == 1 / 4).all()
        assert (fusion.text_scale == 1 / 4).all()
    assert model.box.kernel_size == model.centerness.kernel_size == (1, 1)
    assert (model.scales == 1).all()
    layer = model.image_layers[0]
    assert layer.offsets_and_mask.weight.any()
    for conv_ in (layer.from_same.conv, layer.from_finer.conv, layer.from_coarser.conv):
        assert conv_.weight.abs().max() <= (9 * CHANNELS) ** -0.5
        assert not conv_.bias.any()
    assert not layer.scale_attention.bias.any()


def test_outputs_of_each_level_and_their_scales():
    model = head().eval()
    with torch.no_grad():
        model.scales.copy_(torch.arange(1.0, 6.0))
        out = model(levels(), *text())
    regions = split_levels(out["regions"], levels())
    for level, (x, deltas) in enumerate(
        zip(regions, split_levels(out["deltas"], levels()), strict=True)
    ):
        torch.testing.assert_close(deltas, (level + 1) * model.box(x))
    assert out["centerness"].shape == out["regions"].shape[:2]
    assert out["tokens"].shape == (2, 5, 6)


def test_checkpointing_changes_no_gradient():
    gradients = []
    for checkpointing in (False, True):
        model = head(dropout=0.0, gradient_checkpointing=checkpointing).train()
        out = model(levels(), *text())
        (out["regions"].square().sum() + out["tokens"].square().sum()).backward()
        gradients.append([p.grad for p in model.fusions.parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_without_fusion_the_text_is_not_read():
    model = head(fuse=False).eval()
    assert not model.reads_text
    first = model(levels(), *text())
    other, mask = text()
    second = model(levels(), other + 1, mask)
    assert first["tokens"] is None
    assert torch.equal(first["regions"], second["regions"])


def test_splitting_undoes_joining():
    xs = levels()
    for x, again in zip(xs, split_levels(join_levels(xs), xs), strict=True):
        assert torch.equal(x, again)
