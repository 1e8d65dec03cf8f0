"""The names and shapes of GLIP's published state dicts, written down from its architecture."""

from dataclasses import dataclass

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Size:
    """What the sizes of GLIP differ in."""

    swin: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    window: int = 7
    text: int = 768
    text_hidden: int = 3072
    text_layers: int = 12
    blocks: int = 6
    fused: bool = True
    classes: int = 80


SIZES = {
    "A": Size(fused=False),
    "T": Size(),
    "L": Size(192, (2, 2, 18, 2), (6, 12, 24, 48), 12, blocks=8),
}
"""The published ones. B and C have the entries of T."""
TINY = Size(24, (2, 2, 2, 2), (1, 2, 4, 8), text=64, text_hidden=96, text_layers=2, blocks=2)


def published_shapes(size: Size) -> Shapes:
    """Name -> shape of every entry, without "module."."""
    shapes = {**_swin(size), **_pyramid(size)}
    body = "language_backbone.body.model"
    for name, rows in (("word", 30522), ("position", 512), ("token_type", 2)):
        shapes[f"{body}.embeddings.{name}_embeddings.weight"] = (rows, size.text)
    shapes.update(_affine(f"{body}.embeddings.LayerNorm", size.text))
    for i in range(size.text_layers):
        shapes.update(_bert_layer(f"{body}.encoder.layer.{i}", size))
    tower, layers = "rpn.head.dyhead_tower", 3 if size.fused else 1
    for block in range(size.blocks):
        last = layers * block + layers - 1
        if size.fused:
            shapes.update(_fusion(f"{tower}.{last - 2}.b_attn", size.text))
            shapes.update(_bert_layer(f"{tower}.{last - 1}", size))
        shapes.update(_dynamic(f"{tower}.{last}"))
    head = "rpn.head"
    for name, out in (("cls_logits", size.classes), ("bbox_pred", 4), ("centerness", 1)):
        shapes.update(_affine(f"{head}.{name}", out, 256, 1, 1))
    shapes.update(_affine(f"{head}.dot_product_projection_text", 256, size.text))
    shapes.update({f"{head}.log_scale": (1,), f"{head}.bias0": (1,)})
    shapes[f"{head}.bias_lang"] = (size.text,)
    for level in range(5):
        shapes[f"{head}.scales.{level}.scale"] = (1,)
        shapes[f"rpn.anchor_generator.cell_anchors.{level}"] = (1, 4)
    return shapes


def _affine(name: str, *weight: int) -> Shapes:
    return {f"{name}.weight": weight, f"{name}.bias": weight[:1]}


def _swin(size: Size) -> Shapes:
    body = "backbone.body"
    shapes = _affine(f"{body}.patch_embed.proj", size.swin, 3, 4, 4)
    shapes.update(_affine(f"{body}.patch_embed.norm", size.swin))
    for stage, (depth, heads) in enumerate(zip(size.depths, size.heads, strict=True)):
        width = size.swin * 2**stage
        for block in range(depth):
            name = f"{body}.layers.{stage}.blocks.{block}"
            table = (2 * size.window - 1) ** 2
            shapes[f"{name}.attn.relative_position_bias_table"] = (table, heads)
            shapes[f"{name}.attn.relative_position_index"] = (size.window**2, size.window**2)
            shapes.update(_affine(f"{name}.norm1", width))
            shapes.update(_affine(f"{name}.attn.qkv", 3 * width, width))
            shapes.update(_affine(f"{name}.attn.proj", width, width))
            shapes.update(_affine(f"{name}.norm2", width))
            shapes.update(_affine(f"{name}.mlp.fc1", 4 * width, width))
            shapes.update(_affine(f"{name}.mlp.fc2", width, 4 * width))
        if stage < 3:
            shapes[f"{body}.layers.{stage}.downsample.reduction.weight"] = (2 * width, 4 * width)
            shapes.update(_affine(f"{body}.layers.{stage}.downsample.norm", 4 * width))
        if stage > 0:
            shapes.update(_affine(f"{body}.norm{stage}", width))
    return shapes


def _pyramid(size: Size) -> Shapes:
    shapes: Shapes = {}
    for stage in (2, 3, 4):
        width = size.swin * 2 ** (stage - 1)
        shapes.update(_affine(f"backbone.fpn.fpn_inner{stage}", 256, width, 1, 1))
        shapes.update(_affine(f"backbone.fpn.fpn_layer{stage}", 256, 256, 3, 3))
    for level in ("p6", "p7"):
        shapes.update(_affine(f"backbone.fpn.top_blocks.{level}", 256, 256, 3, 3))
    return shapes


def _bert_layer(name: str, size: Size) -> Shapes:
    shapes: Shapes = {}
    for part in ("query", "key", "value"):
        shapes.update(_affine(f"{name}.attention.self.{part}", size.text, size.text))
    shapes.update(_affine(f"{name}.attention.output.dense", size.text, size.text))
    shapes.update(_affine(f"{name}.attention.output.LayerNorm", size.text))
    shapes.update(_affine(f"{name}.intermediate.dense", size.text_hidden, size.text))
    shapes.update(_affine(f"{name}.output.dense", size.text, size.text_hidden))
    shapes.update(_affine(f"{name}.output.LayerNorm", size.text))
    return shapes


def _fusion(name: str, text: int) -> Shapes:
    shapes: Shapes = {f"{name}.gamma_v": (256,), f"{name}.gamma_l": (text,)}
    for letter, width in (("v", 256), ("l", text)):
        shapes.update(_affine(f"{name}.layer_norm_{letter}", width))
        shapes.update(_affine(f"{name}.attn.{letter}_proj", 2048, width))
        shapes.update(_affine(f"{name}.attn.values_{letter}_proj", 2048, width))
        shapes.update(_affine(f"{name}.attn.out_{letter}_proj", width, 2048))
    return shapes


def _dynamic(name: str) -> Shapes:
    shapes: Shapes = {}
    for branch in range(3):
        shapes.update(_affine(f"{name}.DyConv.{branch}.conv", 256, 256, 3, 3))
        shapes.update(_affine(f"{name}.DyConv.{branch}.bn", 256))
    shapes.update(_affine(f"{name}.AttnConv.1", 1, 256, 1, 1))
    shapes.update(_affine(f"{name}.relu.fc.0", 64, 256))
    shapes.update(_affine(f"{name}.relu.fc.2", 1024, 64))
    shapes.update(_affine(f"{name}.offset", 27, 256, 3, 3))
    return shapes
