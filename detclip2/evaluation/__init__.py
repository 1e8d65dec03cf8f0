"""Detectron2 evaluators of open-vocabulary detection."""

from typing import TYPE_CHECKING

from detclip2.utils.lazy import lazy_names

__all__ = [
    "AverageRecallEvaluator",
    "CaptionEvaluator",
    "CheckedCOCOEvaluator",
    "LVISFixedAPEvaluator",
    "MaskedWordEvaluator",
    "NameAccuracyEvaluator",
    "PartlyLabelledEvaluator",
    "PhraseGroundingEvaluator",
    "Protocol",
    "ReferringSegmentationEvaluator",
    "VQAEvaluator",
]

if TYPE_CHECKING:
    from detclip2.evaluation.average_recall import AverageRecallEvaluator
    from detclip2.evaluation.captions import CaptionEvaluator
    from detclip2.evaluation.coco import CheckedCOCOEvaluator
    from detclip2.evaluation.lvis import LVISFixedAPEvaluator
    from detclip2.evaluation.masked_words import MaskedWordEvaluator
    from detclip2.evaluation.name_accuracy import NameAccuracyEvaluator
    from detclip2.evaluation.partly_labelled import PartlyLabelledEvaluator
    from detclip2.evaluation.phrase_grounding import PhraseGroundingEvaluator
    from detclip2.evaluation.protocol import Protocol
    from detclip2.evaluation.referring_segmentation import ReferringSegmentationEvaluator
    from detclip2.evaluation.vqa import VQAEvaluator
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "AverageRecallEvaluator": "average_recall",
            "CaptionEvaluator": "captions",
            "CheckedCOCOEvaluator": "coco",
            "LVISFixedAPEvaluator": "lvis",
            "MaskedWordEvaluator": "masked_words",
            "NameAccuracyEvaluator": "name_accuracy",
            "PartlyLabelledEvaluator": "partly_labelled",
            "PhraseGroundingEvaluator": "phrase_grounding",
            "Protocol": "protocol",
            "ReferringSegmentationEvaluator": "referring_segmentation",
            "VQAEvaluator": "vqa",
        },
    )
