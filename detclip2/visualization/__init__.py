"""Drawing of detections and explanations, in images and videos."""

from typing import TYPE_CHECKING

from detclip2.utils.lazy import lazy_names

__all__ = [
    "annotate_image",
    "annotate_video",
    "draw_explanation",
    "draw_instances",
]

if TYPE_CHECKING:
    from detclip2.visualization.annotate import annotate_image, annotate_video
    from detclip2.visualization.detections import draw_instances
    from detclip2.visualization.explanation import draw_explanation
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "annotate_image": "annotate",
            "annotate_video": "annotate",
            "draw_explanation": "explanation",
            "draw_instances": "detections",
        },
    )
