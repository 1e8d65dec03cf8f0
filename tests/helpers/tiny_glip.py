"""A GLIP whose forward pass takes milliseconds, with random weights."""

import math

import torch
from transformers import BertConfig, BertModel

from detclip2.modeling.assigners.atss import ATSSAssigner
from detclip2.modeling.backbone import TimmBackbone, feature_pyramid
from detclip2.modeling.heads.dyhead import GLIPHead
from detclip2.modeling.heads.token_head import TokenHead
from detclip2.modeling.losses.detection import DetectionCriterion
from detclip2.modeling.meta_arch.glip import GLIP
from detclip2.modeling.text.text_tower import TokenTower, load_tokenizer
from detclip2.modeling.token_postprocess import TokenPostProcess

WIDTH, TEXT, TOKENS = 16, 16, 256


def text_tower():
    """A BERT of one layer that reads at most `TOKENS` tokens, with the nano model's tokenizer."""
    tokenizer = load_tokenizer("resource://text_tower_nano")
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=TOKENS,
    )
    return TokenTower(BertModel(config, add_pooling_layer=False), tokenizer, max_length=TOKENS)


def tiny_glip(fuse=True, **arguments):
    """In training mode; its scores differ so much that rounding does not change their order."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        bottom_up = TimmBackbone(
            "resnet10t",
            drop_path_rate=0.0,
            norm_outputs=False,
            layers=(1, 1, 1, 1),
            channels=(8, 8, 16, 16),
            stem_width=8,
        )
        parts = {
            "backbone": feature_pyramid(bottom_up, WIDTH),
            "text_tower": text_tower(),
            "head": GLIPHead(
                WIDTH,
                num_blocks=2,
                fuse=fuse,
                text_width=TEXT,
                text_heads=2,
                text_hidden=32,
                fusion_width=32,
                num_groups=4,
            ),
            "token_head": TokenHead(TEXT, WIDTH),
            "box_losses": DetectionCriterion(ATSSAssigner(), boxes_of_grounding=True),
            "postprocess": TokenPostProcess(max_detections=300),
        }
        model = GLIP(**{**parts, **arguments})
    with torch.no_grad():
        model.token_head.bias.zero_()
        model.token_head.log_scale.fill_(-math.log(10))
        model.head.centerness.weight.mul_(100)
        model.head.box.weight.mul_(30)
    return model.train()


def without_randomness(model):
    """Dropout is off, batches have no statistics of their own, and captions one order."""
    model.shuffle = False
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
        elif isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        elif isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.0
    return model
