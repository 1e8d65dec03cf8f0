"""A tiny GLIP with weights and images by formula, and what GLIP's published code gives for it.

The numbers in ``glip_reference.safetensors`` are samples of the outputs of that code
(microsoft/GLIP 9dda9558, on a CPU, float32) for the same formulas; no weights and no code of it are
needed. Of each tensor there are the largest absolute value, the mean and the mean square, then
about 500 of its values. Boxes of detections hold their last pixels, so their right and lower edges
are 1 px further.
"""

import functools
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from detclip2.modeling.assigners.atss import ATSSAssigner
from detclip2.modeling.backbone import TimmBackbone, feature_pyramid
from detclip2.modeling.heads.dyhead import GLIPHead
from detclip2.modeling.heads.token_head import TokenHead
from detclip2.modeling.losses.detection import DetectionCriterion
from detclip2.modeling.meta_arch.glip import GLIP
from detclip2.modeling.text.token_tower import TokenTower
from detclip2.modeling.token_postprocess import TokenPostProcess
from tests.helpers.glip_published import TINY, published_shapes

EXPECTED = Path(__file__).with_name("glip_reference.safetensors")
NAMES = ["person", "traffic light", "hair drier", "teddy bear_(toy)"]
BOXES = [
    [(10, 20, 70, 80), (60, 10, 125, 90), (5, 5, 30, 40)],
    [(8, 6, 60, 70), (50, 20, 100, 75), (70, 2, 108, 30)],
]
"""Of two images; their last pixels, not their edges. Their names are 0, 1 and 3."""
SIZES = [(96, 136), (80, 112)]
LOSSES = {
    "fused": {"loss_align": 2.02162504, "loss_box": 1.09829915, "loss_centerness": 0.70252848},
    "unfused": {"loss_align": 85.56946564, "loss_box": 1.61265087, "loss_centerness": 0.78100741},
}
# Words of the vocabulary of bert-base-uncased, by their ids there.
WORDS = {
    "[PAD]": 0,
    "[UNK]": 100,
    "[CLS]": 101,
    "[SEP]": 102,
    ".": 1012,
    "light": 2422,
    "hair": 2606,
    "person": 2711,
    "dr": 2852,
    "##ier": 3771,
    "traffic": 4026,
    "bear": 4562,
    "teddy": 11389,
}
VOCABULARY_SIZE = 30522


def tokenizer(words=()):
    """BERT's uncased tokenizer with a few words: those of `NAMES`, and more."""
    vocabulary = dict(WORDS)
    for word in words:
        vocabulary.setdefault(word, 20000 + len(vocabulary))
    wordpiece = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    wordpiece.normalizer = normalizers.BertNormalizer(lowercase=True)
    wordpiece.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    wordpiece.post_processor = processors.BertProcessing(("[SEP]", 102), ("[CLS]", 101))
    return PreTrainedTokenizerFast(
        tokenizer_object=wordpiece,
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        pad_token="[PAD]",
    )


def model(fused=True, drop_block=0.0, **arguments):
    """The tiny model with its own random weights, every dropout off."""
    config = BertConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=96,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    bottom_up = TimmBackbone(
        "swin_tiny_patch4_window7_224",
        drop_path_rate=0.0,
        pad_before_roll=True,
        embed_dim=24,
        depths=(2, 2, 2, 2),
        num_heads=(1, 2, 4, 8),
    )
    parts = {
        "backbone": feature_pyramid(bottom_up, 256, drop_block),
        "text_tower": TokenTower(BertModel(config, add_pooling_layer=False), tokenizer()),
        "head": GLIPHead(
            num_blocks=2, fuse=fused, text_width=64, text_heads=4, text_hidden=96, dropout=0.0
        ),
        "token_head": TokenHead(text_width=64),
        "box_losses": DetectionCriterion(
            ATSSAssigner(inset=0.5, margin=0.01), boxes_of_grounding=True
        ),
        "postprocess": TokenPostProcess(),
        "shuffle": False,
    }
    return GLIP(**{**parts, **arguments})


def formula(name, shape):
    """The weights of a name in the published state dict."""
    number = int(np.prod(shape))
    i, c = np.arange(number, dtype=np.float64), zlib.crc32(name.encode()) % 10007
    w = np.sin(0.7317 * i + c) + 0.5 * np.sin(2.193 * i + 0.1 * c)
    if name.endswith("bias0"):
        w = np.full(number, -1.0)
    elif len(shape) > 1:
        w *= 0.05 if "embeddings" in name else np.prod(shape[1:]) ** -0.5
    elif name.endswith(".weight") or "gamma" in name:
        w = 1 + 0.2 * w
    elif name.endswith(".scale"):
        w = 1 + 0.05 * w
    else:
        w = 0.05 * w
    return torch.from_numpy(w.reshape(shape).astype(np.float32))


def images():
    """The two images, normalised, RGB, padded to one size: (2, 3, 96, 160)."""
    batch = torch.zeros(2, 3, 96, 160)
    for k, (height, width) in enumerate(SIZES):
        c, y, x = np.meshgrid(range(3), range(height), range(width), indexing="ij")
        i = (c * height + y) * width + x
        value = np.sin(x / (7 + k) + c) + np.cos(y / (5 + k) + 2 * c) + 0.3 * np.sin(0.37 * i)
        batch[k, :, :height, :width] = torch.from_numpy(value.astype(np.float32)).flip(0)
    return batch


@functools.cache
def published_state(fused=True):
    """The state dict of the tiny model by formula, in the published names; read-only."""
    shapes = published_shapes(replace(TINY, fused=fused))
    return {name: formula(name, shape) for name, shape in shapes.items()}


def expected(variant):
    """Name -> numbers of a tensor, for "fused" or "unfused"."""
    prefix = f"{variant}."
    tensors = load_file(EXPECTED)
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def assert_matches(tensor, numbers):
    """`tensor` is the one that the numbers are of, within 1e-4 of its largest absolute value."""
    largest, mean, mean_square = numbers[:3].tolist()
    values = tensor.detach().double().flatten()
    step = max(1, len(values) // 500) | 1
    assert len(values[::step]) == len(numbers) - 3
    assert (values[::step] - numbers[3:]).abs().max() <= 1e-4 * largest
    assert abs(values.abs().max() - largest) <= 1e-4 * largest
    assert abs(values.mean() - mean) <= 1e-4 * largest
    assert abs(values.square().mean() - mean_square) <= 1e-4 * mean_square


def samples(supervision="detection"):
    """The two images' boxes as samples, without pixels."""
    result = []
    for size, boxes in zip(SIZES, BOXES, strict=True):
        instances = Instances(size)
        edges = torch.tensor(boxes, dtype=torch.float32) + torch.tensor([0, 0, 1, 1])
        instances.gt_boxes, instances.gt_classes = Boxes(edges), torch.tensor([0, 1, 3])
        sample = {"supervision": supervision, "phrases": NAMES, "num_positives": 4}
        result.append({**sample, "instances": instances})
    return result
