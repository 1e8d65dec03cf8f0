"""The models: meta-architectures and their parts.

Names are imported on first use, so that one part can be used without loading the others.
``DetCLIPv2`` and ``add_detclip_config`` register the meta-architecture and its backbone with
Detectron2.
"""

from typing import TYPE_CHECKING

from detclip2.utils.lazy import lazy_names

if TYPE_CHECKING:
    from detclip2.modeling.alignment import Alignment, GroupedSimilarity
    from detclip2.modeling.assigners.atss import ATSSAssigner
    from detclip2.modeling.backbone import TimmBackbone, feature_pyramid
    from detclip2.modeling.heads.atss_head import ATSSHead
    from detclip2.modeling.heads.dyhead import GLIPHead
    from detclip2.modeling.heads.mask_head import MaskHead
    from detclip2.modeling.heads.outputs import HeadOutputs
    from detclip2.modeling.heads.token_head import TokenHead
    from detclip2.modeling.losses.detection import DetectionCriterion
    from detclip2.modeling.losses.masks import MaskCriterion
    from detclip2.modeling.losses.word_region_contrast import WordRegionContrast
    from detclip2.modeling.meta_arch.base import OpenVocabularyDetector
    from detclip2.modeling.meta_arch.detclipv2 import DetCLIPv2
    from detclip2.modeling.meta_arch.glip import GLIP
    from detclip2.modeling.meta_arch.glipv2 import GLIPv2
    from detclip2.modeling.postprocess import PostProcess, TopKPerPhrase
    from detclip2.modeling.protocol import ExplainableModel, OpenVocabularyModel
    from detclip2.modeling.text.caption_state import CaptionState
    from detclip2.modeling.text.frozen_tower import FrozenTextTower
    from detclip2.modeling.text.text_bank import TextBank, VocabularyState
    from detclip2.modeling.text.text_batch import TextBatch
    from detclip2.modeling.text.text_tower import (
        TextTower,
        fresh_text_model,
        load_text_model,
        load_tokenizer,
    )
    from detclip2.modeling.text.token_batch import TokenBatch
    from detclip2.modeling.text.token_tower import TokenTower
    from detclip2.modeling.thresholds import DetectionThresholds
    from detclip2.modeling.token_postprocess import TokenPostProcess
    from detclip2.modeling.yacs import add_detclip_config

__all__ = [
    "GLIP",
    "ATSSAssigner",
    "ATSSHead",
    "Alignment",
    "CaptionState",
    "DetCLIPv2",
    "DetectionCriterion",
    "DetectionThresholds",
    "ExplainableModel",
    "FrozenTextTower",
    "GLIPHead",
    "GLIPv2",
    "GroupedSimilarity",
    "HeadOutputs",
    "MaskCriterion",
    "MaskHead",
    "OpenVocabularyDetector",
    "OpenVocabularyModel",
    "PostProcess",
    "TextBank",
    "TextBatch",
    "TextTower",
    "TimmBackbone",
    "TokenBatch",
    "TokenHead",
    "TokenPostProcess",
    "TokenTower",
    "TopKPerPhrase",
    "VocabularyState",
    "WordRegionContrast",
    "add_detclip_config",
    "feature_pyramid",
    "fresh_text_model",
    "load_text_model",
    "load_tokenizer",
]

_NAMES = {
    "alignment": ("Alignment", "GroupedSimilarity"),
    "assigners.atss": ("ATSSAssigner",),
    "backbone": ("TimmBackbone", "feature_pyramid"),
    "heads.atss_head": ("ATSSHead",),
    "heads.dyhead": ("GLIPHead",),
    "heads.mask_head": ("MaskHead",),
    "heads.outputs": ("HeadOutputs",),
    "heads.token_head": ("TokenHead",),
    "losses.detection": ("DetectionCriterion",),
    "losses.masks": ("MaskCriterion",),
    "losses.word_region_contrast": ("WordRegionContrast",),
    "meta_arch.base": ("OpenVocabularyDetector",),
    "meta_arch.detclipv2": ("DetCLIPv2",),
    "meta_arch.glip": ("GLIP",),
    "meta_arch.glipv2": ("GLIPv2",),
    "postprocess": ("PostProcess", "TopKPerPhrase"),
    "thresholds": ("DetectionThresholds",),
    "protocol": ("ExplainableModel", "OpenVocabularyModel"),
    "text.caption_state": ("CaptionState",),
    "text.frozen_tower": ("FrozenTextTower",),
    "text.text_bank": ("TextBank", "VocabularyState"),
    "text.text_batch": ("TextBatch",),
    "text.text_tower": (
        "TextTower",
        "fresh_text_model",
        "load_text_model",
        "load_tokenizer",
    ),
    "text.token_batch": ("TokenBatch",),
    "text.token_tower": ("TokenTower",),
    "token_postprocess": ("TokenPostProcess",),
    "yacs": ("add_detclip_config",),
}
if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(
        __name__, {name: module for module, names in _NAMES.items() for name in names}
    )
