"""The conversion of GLIP's published names, for the entries of every published size."""

import hashlib
import math
import random

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from transformers import BertConfig, BertModel

from detclip2.utils.errors import UserError
from detclip2.utils.glip_weights import UNUSED, convert_glip
from tests.helpers import glip_reference
from tests.helpers.glip_published import SIZES, published_shapes

NODES = {"A": "swin_t_unfused", "T": "swin_t", "L": "swin_l"}
# Of the sorted lines "NAME [SHAPE]" of the state dicts that GLIP's published code builds.
LISTS = {
    "A": (541, "210c7d762aeaa4c4abf3fdf912c88c817fcf16294f3fb117e7e9faab8fc7ff60", 151.4),
    "T": (745, "7f72abe7ddc91640a89493a1c426cf0b55de437c3f6769b7a5bed98062ba25cb", 231.8),
    "L": (1021, "9e093c1760e84d95f0091ec2ea1546b7071d96be0bad1cc5e321d95a2432828e", 430.4),
}


@pytest.mark.parametrize("size", SIZES)
def test_the_helper_lists_what_is_published(size):
    number, digest, millions = LISTS[size]
    shapes = published_shapes(SIZES[size])
    assert len(shapes) == number
    lines = "\n".join(f"{name} {list(shape)}" for name, shape in sorted(shapes.items()))
    assert hashlib.sha256(lines.encode()).hexdigest() == digest
    buffers = ("relative_position_index", "cell_anchors")
    weights = [s for name, s in shapes.items() if not any(b in name for b in buffers)]
    assert sum(map(math.prod, weights)) / 1e6 == pytest.approx(millions, abs=0.06)


@pytest.mark.parametrize("size", SIZES)
def test_every_published_entry_has_a_place_in_the_model(size, request):
    """The model of the config has the converted entries, with their shapes, and no others."""
    node = LazyConfig.load(str(request.config.rootpath / "configs/models/glip.py"))[NODES[size]]
    with torch.device("meta"):
        node.text_tower.model = BertModel(BertConfig(), add_pooling_layer=False)
        node.text_tower.tokenizer = None
        own = instantiate(node).state_dict()
        published = {
            f"module.{name}": torch.empty(shape)
            for name, shape in published_shapes(SIZES[size]).items()
        }
    converted = convert_glip(published)
    assert {n: t.shape for n, t in converted.state.items()} == {n: t.shape for n, t in own.items()}
    assert set(converted.used.values()) == set(own)
    assert set(converted.used) | set(converted.unused) == set(published)
    assert not set(converted.used) & set(converted.unused)
    kinds = {name.removeprefix("module.").rpartition(".")[0] for name in converted.unused}
    kinds = {kind for kind in kinds if ".attn" not in kind}
    assert kinds == {"rpn.head.cls_logits", "rpn.anchor_generator.cell_anchors"}
    assert sum(name.endswith("relative_position_index") for name in converted.unused) == sum(
        SIZES[size].depths
    )


def test_the_order_of_a_file_does_not_matter():
    """safetensors sorts names, so that the key comes before the query."""
    state = glip_reference.published_state()
    names = sorted(state)
    random.Random(0).shuffle(names)
    expected = convert_glip(state).state
    for name, tensor in convert_glip({n: state[n] for n in names}).state.items():
        assert torch.equal(tensor, expected[name])
    layer = "rpn.head.dyhead_tower.1.attention.self"
    joined = torch.cat([state[f"{layer}.{part}.weight"] for part in ("query", "key", "value")])
    assert torch.equal(expected["head.text_layers.0.self_attn.in_proj_weight"], joined)
    scales = torch.cat([state[f"rpn.head.scales.{level}.scale"] for level in range(5)])
    assert torch.equal(expected["head.scales"], scales)


def test_channels_become_rgb():
    state = glip_reference.published_state()
    published = state["backbone.body.patch_embed.proj.weight"]
    ours = convert_glip(state).state["backbone.bottom_up.extractor.patch_embed.proj.weight"]
    assert torch.equal(ours, published[:, [2, 1, 0]])


def empty_state():
    """Entries of the published names without memory."""
    shapes = published_shapes(SIZES["A"])
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def test_entries_of_other_models_are_refused():
    state = empty_state()
    with pytest.raises(UserError, match=r"not those of GLIP: they have an entry backbone\.conv1"):
        convert_glip({**state, "backbone.conv1.weight": torch.zeros(1)})
    with pytest.raises(UserError, match=r"not those of GLIP: they have no entry rpn\.head\.bias0"):
        convert_glip({n: t for n, t in state.items() if n != "rpn.head.bias0"})


@pytest.mark.parametrize(
    "name",
    [
        "language_backbone.body.model.pooler.dense.weight",
        "language_backbone.body.model.embeddings.position_ids",
        "backbone.body.layers.0.blocks.0.attn.relative_position_index",
    ],
)
def test_entries_that_are_not_needed(name):
    assert UNUSED.search(name)
    state = {**empty_state(), name: torch.empty(2, device="meta")}
    assert name in convert_glip(state).unused


def as_mmdetection(name, tensor):
    """An entry as mmdetection's converter writes it, the other way round than ours."""
    if name.startswith("language_backbone"):
        return f"language_model.{name}", tensor
    for theirs, other in (
        ("backbone.body.patch_embed.proj.", "backbone.patch_embed.projection."),
        ("backbone.body.layers.", "backbone.stages."),
        ("backbone.body.", "backbone."),
        (".attn.qkv", ".attn.w_msa.qkv"),
        (".attn.proj", ".attn.w_msa.proj"),
        (".attn.relative", ".attn.w_msa.relative"),
        (".mlp.fc1.", ".ffn.layers.0.0."),
        (".mlp.fc2.", ".ffn.layers.1."),
        ("backbone.fpn.fpn_inner2.", "neck.lateral_convs.0.conv."),
        ("backbone.fpn.fpn_inner3.", "neck.lateral_convs.1.conv."),
        ("backbone.fpn.fpn_inner4.", "neck.lateral_convs.2.conv."),
        ("backbone.fpn.fpn_layer2.", "neck.fpn_convs.0.conv."),
        ("backbone.fpn.fpn_layer3.", "neck.fpn_convs.1.conv."),
        ("backbone.fpn.fpn_layer4.", "neck.fpn_convs.2.conv."),
        ("backbone.fpn.top_blocks.p6.", "neck.fpn_convs.3.conv."),
        ("backbone.fpn.top_blocks.p7.", "neck.fpn_convs.4.conv."),
    ):
        name = name.replace(theirs, other)
    if name.startswith("rpn."):
        name = f"bbox_head.{name.removeprefix('rpn.')}"
    if ".downsample." in name:
        # F.unfold gives the 4 pixels of a patch for each channel; Swin's authors' concatenation
        # gives the channels of pixels (0, 0), (1, 0), (0, 1), (1, 1), in (row, column).
        channels = tensor.shape[-1] // 4
        moved = torch.empty_like(tensor)
        for c in range(channels):
            for row in (0, 1):
                for column in (0, 1):
                    place = (row + 2 * column) * channels + c
                    moved[..., 4 * c + 2 * row + column] = tensor[..., place]
        tensor = moved
    return name, tensor


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("renamed", [False, True])
def test_mmdetections_copy_gives_the_same_weights(fused, renamed):
    """With the names of its converter, and with those of its present modules."""
    published = glip_reference.published_state(fused)
    copy = dict(as_mmdetection(name, tensor) for name, tensor in published.items())
    assert not set(copy) & set(published)
    if renamed:
        copy = {
            n.replace(".DyConv.", ".dyconvs.").replace(".AttnConv.", ".attnconv."): t
            for n, t in copy.items()
        }
    expected, found = convert_glip(published), convert_glip(copy)
    assert set(found.state) == set(expected.state)
    for name, tensor in found.state.items():
        assert torch.equal(tensor, expected.state[name]), name
    assert len(found.unused) == len(expected.unused)
