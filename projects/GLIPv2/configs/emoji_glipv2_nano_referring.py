"""Evaluates the masks of references on EmojiScenes, "the dog on the left": for --eval-only.

The scenes and captions are those of emoji_glip_nano_phrases. A caption names one of two objects.
"""

from detectron2.config import LazyCall as L

from detclip2.evaluation.referring_segmentation import (
    ReferringSegmentationEvaluator,
    referring_set,
)

from .emoji_glip_nano_phrases import dataloader, inference, world
from .emoji_glipv2_nano_masks import model, train

_records = dataloader.test.dataset.records
_records.masks = True
dataloader.test.dataset = L(referring_set)(name="emoji_references", records=_records)
dataloader.evaluator = L(ReferringSegmentationEvaluator)(
    dataset_name="emoji_references",
    output_dir="${train.output_dir}/inference",
    score_threshold=0.3,  # a phrase may mean several objects: "two dogs"
    whole_captions=True,
)
