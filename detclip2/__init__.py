"""DetCLIPv2: open-vocabulary detection from boxes, grounded phrases and image-text pairs.

The public names are imported on first use: ``import detclip2`` loads no framework. It offers the
stand-in for Detectron2 if the real one is not installed (see `detclip2.utils.standin`).
"""

from typing import TYPE_CHECKING

from detclip2.utils import standin
from detclip2.utils.errors import UserError
from detclip2.utils.lazy import lazy_names

__version__ = "0.1.0"
__all__ = [
    "DetectionThresholds",
    "OpenVocabularyPredictor",
    "UserError",
    "Vocabulary",
    "__version__",
    "draw_instances",
    "explain",
    "get_config",
    "to_coco",
    "to_pandas",
    "to_supervision",
]

standin.offer()

if TYPE_CHECKING:
    from detclip2.config import get_config
    from detclip2.inference.explain import explain
    from detclip2.inference.predictor import OpenVocabularyPredictor
    from detclip2.inference.results import to_coco, to_pandas, to_supervision
    from detclip2.inference.vocabulary import Vocabulary
    from detclip2.modeling.thresholds import DetectionThresholds
    from detclip2.visualization.detections import draw_instances
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "DetectionThresholds": "modeling.thresholds",
            "OpenVocabularyPredictor": "inference.predictor",
            "Vocabulary": "inference.vocabulary",
            "draw_instances": "visualization.detections",
            "explain": "inference.explain",
            "get_config": "config",
            "to_coco": "inference.results",
            "to_pandas": "inference.results",
            "to_supervision": "inference.results",
        },
    )
