"""GLIPv2 (arXiv 2206.05836): GLIP of the same sizes, with further losses and heads.

L_inter and L_mlm are on, each with its weight; None in place of a part turns it off. Heads are None
here, and set by the configs of projects/GLIPv2 that train them.
"""

from copy import deepcopy

from detectron2.config import LazyCall as L

from detclip2 import get_config
from detclip2.modeling.heads.mask_head import MaskHead
from detclip2.modeling.losses.masked_language import MaskedLanguage
from detclip2.modeling.losses.masks import MaskCriterion
from detclip2.modeling.losses.region_word_contrast import RegionWordContrast
from detclip2.modeling.meta_arch.glipv2 import GLIPv2

_swin_t, _nano = get_config("models/glip.py", ("swin_t", "nano"))


def _glipv2(glip):
    parts = {key: value for key, value in glip.items() if key != "_target_"}
    return L(GLIPv2)(
        **parts,
        region_word_contrast=L(RegionWordContrast)(
            image_width="${..backbone.channels}",
            text_width="${..token_head.text_width}",
            width=64,
            num_regions=100,
            temperature=1.0,
            propagate=True,
            fused_text=False,
            weight=1.0,
        ),
        masked_language=L(MaskedLanguage)(
            width="${..token_head.text_width}",
            vocabulary_size=30_522,
            probability=0.15,
            positives_only=True,
            weight=1.0,
        ),
        mask_head=None,
        mask_losses=None,
    )


swin_t = _glipv2(_swin_t)

nano = _glipv2(_nano)
nano.masked_language.vocabulary_size = 8001
nano.masked_language.initial_length = 128**-0.5  # its word embeddings have unit variance
nano.region_word_contrast.temperature = 0.1  # a short training does not learn a lower one


def _with_masks(model):
    model = deepcopy(model)
    model.mask_head = L(MaskHead)(
        in_channels="${..backbone.channels}",
        text_width="${..token_head.text_width}",
        num_hourglasses=1,
        scales=1,
        num_groups=0,
    )
    model.mask_losses = L(MaskCriterion)(weight=1.0, boxes_per_object=3)
    return model


swin_t_masks = _with_masks(swin_t)
nano_masks = _with_masks(nano)
