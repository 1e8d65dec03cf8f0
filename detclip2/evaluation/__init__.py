"""Detectron2 evaluators of open-vocabulary detection."""

from typing import TYPE_CHECKING

from detclip2.utils.lazy import lazy_names

__all__ = [
    "AverageRecallEvaluator",
    "CheckedCOCOEvaluator",
    "LVISFixedAPEvaluator",
    "NameAccuracyEvaluator",
    "PartlyLabelledEvaluator",
    "PhraseGroundingEvaluator",
    "Protocol",
]

if TYPE_CHECKING:
    from detclip2.evaluation.average_recall import AverageRecallEvaluator
    from detclip2.evaluation.coco import CheckedCOCOEvaluator
    from detclip2.evaluation.lvis import LVISFixedAPEvaluator
    from detclip2.evaluation.name_accuracy import NameAccuracyEvaluator
    from detclip2.evaluation.partly_labelled import PartlyLabelledEvaluator
    from detclip2.evaluation.phrase_grounding import PhraseGroundingEvaluator
    from detclip2.evaluation.protocol import Protocol
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "AverageRecallEvaluator": "average_recall",
            "CheckedCOCOEvaluator": "coco",
            "LVISFixedAPEvaluator": "lvis",
            "NameAccuracyEvaluator": "name_accuracy",
            "PartlyLabelledEvaluator": "partly_labelled",
            "PhraseGroundingEvaluator": "phrase_grounding",
            "Protocol": "protocol",
        },
    )
