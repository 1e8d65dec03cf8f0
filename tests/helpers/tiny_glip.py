"""A GLIP whose forward pass takes milliseconds, with random weights."""

import math

import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertModel

from detclip2.modeling.assigners.atss import ATSSAssigner
from detclip2.modeling.backbone import TimmBackbone, feature_pyramid
from detclip2.modeling.heads.dyhead import GLIPHead
from detclip2.modeling.heads.token_head import TokenHead
from detclip2.modeling.losses.detection import DetectionCriterion
from detclip2.modeling.losses.masked_language import NOT_MASKED, MaskedLanguage
from detclip2.modeling.losses.region_word_contrast import RegionWordContrast
from detclip2.modeling.meta_arch.glip import GLIP
from detclip2.modeling.meta_arch.glipv2 import GLIPv2
from detclip2.modeling.text.token_tower import TokenTower
from detclip2.modeling.token_postprocess import TokenPostProcess
from detclip2.resources import RESOURCES
from tests.helpers.detclip_samples import sample

WIDTH, TEXT, TOKENS = 16, 16, 256


def text_tower(mask_token=None):
    """A BERT of one layer that reads at most `TOKENS` tokens, with the nano model's tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(RESOURCES / "text_tower_nano")
    if mask_token is not None:
        tokenizer.add_special_tokens({"mask_token": mask_token})
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=TOKENS,
    )
    return TokenTower(BertModel(config, add_pooling_layer=False), tokenizer, max_length=TOKENS)


def tiny_glip(fuse=True, meta_arch=GLIP, **arguments):
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
        model = meta_arch(**{**parts, **arguments})
    with torch.no_grad():
        model.token_head.bias.zero_()
        model.token_head.log_scale.fill_(-math.log(10))
        model.head.centerness.weight.mul_(100)
        model.head.box.weight.mul_(30)
    return model.train()


def tiny_glipv2(fuse=True, fused_text=False, **arguments):
    """The same with the losses of GLIPv2, or other arguments."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        tower = text_tower("<mask>")
        parts = {
            "text_tower": tower,
            "region_word_contrast": RegionWordContrast(
                WIDTH, TEXT, width=8, temperature=0.3, fused_text=fused_text
            ),
            "masked_language": MaskedLanguage(TEXT, len(tower.word_embeddings)),
        }
    return tiny_glip(fuse, GLIPv2, **{**parts, **arguments})


def masked_by_place(tokens, positive, tower):
    """Masks every third of the tokens that may be masked, in place of `MaskedLanguage.mask`."""
    ids = tokens["input_ids"]
    chosen = positive & (tokens["special_tokens_mask"] == 0)
    chosen &= torch.arange(ids.shape[1]) % 3 == 1
    return (
        {**tokens, "input_ids": ids.masked_fill(chosen, tower.mask_token)},
        ids.masked_fill(~chosen, NOT_MASKED),
    )


def without_randomness(model):
    """Dropout is off, batches have no statistics of their own, and captions one order."""
    model.shuffle = False
    if getattr(model, "masked_language", None) is not None:
        model.masked_language.mask = masked_by_place
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
        elif isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        elif isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.0
    return model


def check_half_precision(model, precision):
    """Losses in half precision are nearly the same, in float32, and have gradients."""
    model = without_randomness(model)
    samples = [sample(), sample(seed=1)]
    expected = model(samples)
    with torch.autocast("cpu", dtype=precision):
        losses = model(samples)
    sum(losses.values()).backward()
    for name, loss in losses.items():
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(expected[name].item(), rel=0.02)
