"""The predictor: images and a vocabulary in, detections or an explanation out."""

from typing import TYPE_CHECKING

from detclip2.utils.lazy import lazy_names

__all__ = [
    "Explanation",
    "Labels",
    "OpenVocabularyPredictor",
    "PreparedVocabulary",
    "ReadyImage",
    "TiledPredictor",
    "Tracker",
    "Vocabulary",
    "ask",
    "describe",
    "to_coco",
    "to_pandas",
    "to_supervision",
]

if TYPE_CHECKING:
    from detclip2.inference.explain import Explanation
    from detclip2.inference.language import ask, describe
    from detclip2.inference.predictor import OpenVocabularyPredictor
    from detclip2.inference.prepared import PreparedVocabulary, ReadyImage
    from detclip2.inference.results import Labels, to_coco, to_pandas, to_supervision
    from detclip2.inference.tiles import TiledPredictor
    from detclip2.inference.tracking import Tracker
    from detclip2.inference.vocabulary import Vocabulary
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "Explanation": "explain",
            "Labels": "results",
            "OpenVocabularyPredictor": "predictor",
            "PreparedVocabulary": "prepared",
            "ReadyImage": "prepared",
            "TiledPredictor": "tiles",
            "Tracker": "tracking",
            "Vocabulary": "vocabulary",
            "ask": "language",
            "describe": "language",
            "to_coco": "results",
            "to_pandas": "results",
            "to_supervision": "results",
        },
    )
