"""The names of GLIP's published weights, and their conversion to those of this package's `GLIP`."""

import re
from collections.abc import Iterable
from typing import NamedTuple

import torch

from detclip2.utils.errors import UserError
from detclip2.utils.weights import State

UNUSED = re.compile(
    r"\.relative_position_index$|\.position_ids$|\.pooler\.|^rpn\.anchor_generator\."
    r"|^rpn\.head\.cls_logits\."
)
"""Entries that the model computes, or that no output depends on."""

_IN_EVERY_FILE = ("backbone.body.patch_embed.proj.weight", "rpn.head.log_scale", "rpn.head.bias0")
_SWIN = "backbone.bottom_up.extractor."
_TOWER = "rpn.head.dyhead_tower."
_OUTSIDE_THE_TOWER = {
    "backbone.body.patch_embed.": f"{_SWIN}patch_embed.",
    **{f"backbone.body.layers.{s}.blocks.": f"{_SWIN}layers_{s}.blocks." for s in range(4)},
    # timm merges patches at the start of a stage, Swin's authors at the end of the one before.
    **{
        f"backbone.body.layers.{s}.downsample.": f"{_SWIN}layers_{s + 1}.downsample."
        for s in range(3)
    },
    **{f"backbone.body.norm{s}.": f"backbone.bottom_up.norms.{s - 1}." for s in (1, 2, 3)},
    # The published names count the backbone's stages, ours the levels of the pyramid.
    **{f"backbone.fpn.fpn_inner{s}.": f"backbone.fpn_lateral{s + 1}." for s in (2, 3, 4)},
    **{f"backbone.fpn.fpn_layer{s}.": f"backbone.fpn_output{s + 1}." for s in (2, 3, 4)},
    "backbone.fpn.top_blocks.": "backbone.top_block.",
    "language_backbone.body.model.": "text_tower.model.",
    "rpn.head.bbox_pred.": "head.box.",
    "rpn.head.centerness.": "head.centerness.",
    "rpn.head.scales.": "head.scales.",
    "rpn.head.dot_product_projection_text.": "token_head.projection.",
    "rpn.head.log_scale": "token_head.log_scale",
    "rpn.head.bias_lang": "token_head.text_bias",
    "rpn.head.bias0": "token_head.bias",
}
# Of the layers of a block.
_FUSION = {
    "b_attn.layer_norm_v.": "image_norm.",
    "b_attn.layer_norm_l.": "text_norm.",
    "b_attn.gamma_v": "image_scale",
    "b_attn.gamma_l": "text_scale",
    "b_attn.attn.v_proj.": "query.",
    "b_attn.attn.l_proj.": "key.",
    "b_attn.attn.values_v_proj.": "image_value.",
    "b_attn.attn.values_l_proj.": "text_value.",
    "b_attn.attn.out_v_proj.": "image_out.",
    "b_attn.attn.out_l_proj.": "text_out.",
}
_TEXT_LAYER = {
    "attention.self.": "self_attn.",
    "attention.output.dense.": "self_attn.out_proj.",
    "attention.output.LayerNorm.": "norm1.",
    "intermediate.dense.": "linear1.",
    "output.dense.": "linear2.",
    "output.LayerNorm.": "norm2.",
}
_IMAGE_LAYER = {
    **{
        f"DyConv.{number}.{theirs}.": f"{branch}.{ours}."
        for number, branch in enumerate(("from_coarser", "from_same", "from_finer"))
        for theirs, ours in (("conv", "conv"), ("bn", "norm"))
    },
    "AttnConv.1.": "scale_attention.",
    "relu.fc.": "task_attention.layers.",
    "offset.": "offsets_and_mask.",
}
# Several entries that are one parameter of ours, joined in the order of `_PARTS`.
_PART = re.compile(r"(.+\.self_attn)\.(query|key|value)\.(weight|bias)|(head\.scales)\.(\d)\.scale")
_PARTS = ["query", "key", "value", *map(str, range(5))]


# mmdetection's names -> the published ones, one after another.
_OF_MMDETECTION = (
    (r"^backbone\.patch_embed\.projection\.", "backbone.patch_embed.proj."),
    (r"^backbone\.stages\.", "backbone.layers."),
    (r"^backbone\.", "backbone.body."),
    (r"\.attn\.w_msa\.", ".attn."),
    (r"\.ffn\.layers\.0\.0\.", ".mlp.fc1."),
    (r"\.ffn\.layers\.1\.", ".mlp.fc2."),
    *((rf"^neck\.lateral_convs\.{i}\.conv\.", f"backbone.fpn.fpn_inner{i + 2}.") for i in range(3)),
    *((rf"^neck\.fpn_convs\.{i}\.conv\.", f"backbone.fpn.fpn_layer{i + 2}.") for i in range(3)),
    *((rf"^neck\.fpn_convs\.{i}\.conv\.", f"backbone.fpn.top_blocks.p{i + 3}.") for i in (3, 4)),
    (r"^language_model\.", ""),
    (r"^bbox_head\.", "rpn."),
    (r"\.dyconvs\.", ".DyConv."),
    (r"\.attnconv\.", ".AttnConv."),
)


class Converted(NamedTuple):
    """A published state dict in the names of this package."""

    state: State
    """For `GLIP`'s ``load_state_dict``."""
    used: dict[str, str]
    """Published name -> ours."""
    unused: list[str]
    """Published names that are not needed."""


def convert_glip(published: State) -> Converted:
    """Rename the weights of a file of microsoft/GLIP, or of mmdetection's copy of it.

    Args:
        published: its entry "model", or "state_dict".

    Raises:
        UserError: there is an entry that no model of GLIP has, or one is missing that all have.
    """
    names = {_published_name(name): name for name in published}
    for name in _IN_EVERY_FILE:
        if name not in names:
            raise UserError(f"the weights are not those of GLIP: they have no entry {name}")
    prefixes = _prefixes(names)
    used: dict[str, str] = {}
    unused, state = [], {}
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for name, original in names.items():
        prefix = next((p for p in prefixes if name.startswith(p)), None)
        if UNUSED.search(name):
            unused.append(original)
        elif prefix is None:
            raise UserError(f"the weights are not those of GLIP: they have an entry {original}")
        else:
            ours, tensor = prefixes[prefix] + name.removeprefix(prefix), published[original]
            if original.startswith("backbone.stages.") and ".downsample." in ours:
                tensor = _pixels_first(tensor)
            if part := _PART.fullmatch(ours):
                ours = part[4] or f"{part[1]}.in_proj_{part[3]}"
                parts.setdefault(ours, {})[part[2] or part[5]] = tensor
            else:
                state[ours] = tensor
            used[original] = ours
    for name, of_parts in parts.items():
        state[name] = torch.cat([of_parts[p] for p in sorted(of_parts, key=_PARTS.index)])
    for name in ("token_head.log_scale", "token_head.bias"):
        state[name] = state[name].reshape(())
    embedding = f"{_SWIN}patch_embed.proj.weight"
    state[embedding] = state[embedding].flip(1).contiguous()  # the published models read BGR
    return Converted(state, used, unused)


def _prefixes(names: Iterable[str]) -> dict[str, str]:
    """Beginnings of published names -> of ours, for a tower with the layers that ``names`` have."""
    layers = {int(name.split(".")[3]) for name in names if name.startswith(_TOWER)}
    fused = any("b_attn" in name for name in names)
    kinds = [("fusions", _FUSION), ("text_layers", _TEXT_LAYER)] if fused else []
    kinds.append(("image_layers", _IMAGE_LAYER))
    prefixes = dict(_OUTSIDE_THE_TOWER)
    for layer in layers:
        kind, table = kinds[layer % len(kinds)]
        block = layer // len(kinds)
        for theirs, ours in table.items():
            prefixes[f"{_TOWER}{layer}.{theirs}"] = f"head.{kind}.{block}.{ours}"
    return prefixes


def _published_name(name: str) -> str:
    name = name.removeprefix("module.")
    if name.startswith(("backbone.body.", "backbone.fpn.")):
        return name
    for pattern, replacement in _OF_MMDETECTION:
        name = re.sub(pattern, replacement, name)
    return name


def _pixels_first(weights: torch.Tensor) -> torch.Tensor:
    """The inputs of a patch merging in the order of Swin's authors.

    They join the channels of the 4 pixels of a patch, column by column. mmdetection's patches come
    from an unfold: for each channel its 4 pixels, row by row.
    """
    return weights.unflatten(-1, (-1, 4)).mT[..., [0, 2, 1, 3], :].flatten(-2)
