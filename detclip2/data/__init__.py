"""Data sets, mappers and the loader, which give samples (see `detclip2.data.sample`)."""

from typing import TYPE_CHECKING

from detclip2.utils.lazy import lazy_names

__all__ = [
    "KEYS",
    "CaptionMapper",
    "CaptioningMapper",
    "ConceptDictionary",
    "DetectionMapper",
    "EmojiCaptioning",
    "EmojiGrounding",
    "EmojiPairs",
    "EmojiQuestions",
    "EmojiScenes",
    "GroundingMapper",
    "HybridLoader",
    "ImageTextShards",
    "ImageTextStream",
    "Key",
    "Mapper",
    "QuestionMapper",
    "SkipSample",
    "Source",
    "StreamingRecords",
    "Video",
    "category_names",
    "detection_records",
    "detection_set",
    "karpathy_records",
    "mdetr_records",
    "names_of_json",
    "read_image",
    "register_detection",
    "vqa_records",
]

if TYPE_CHECKING:
    from detclip2.data.datasets.captions import karpathy_records
    from detclip2.data.datasets.detection import (
        category_names,
        detection_records,
        detection_set,
        names_of_json,
        register_detection,
    )
    from detclip2.data.datasets.grounding import mdetr_records
    from detclip2.data.datasets.vqa import vqa_records
    from detclip2.data.emojiscenes.captioning import EmojiCaptioning
    from detclip2.data.emojiscenes.captions import EmojiPairs
    from detclip2.data.emojiscenes.grounding import EmojiGrounding
    from detclip2.data.emojiscenes.questions import EmojiQuestions
    from detclip2.data.emojiscenes.scenes import EmojiScenes
    from detclip2.data.hybrid_loader import HybridLoader
    from detclip2.data.io.image import read_image
    from detclip2.data.io.shard_stream import ImageTextStream
    from detclip2.data.io.shards import ImageTextShards
    from detclip2.data.io.video import Video
    from detclip2.data.mappers.base import Mapper
    from detclip2.data.mappers.caption import CaptionMapper
    from detclip2.data.mappers.detection import DetectionMapper
    from detclip2.data.mappers.grounding import GroundingMapper
    from detclip2.data.mappers.language import CaptioningMapper, QuestionMapper
    from detclip2.data.sample import KEYS, Key, SkipSample
    from detclip2.data.sources import Source, StreamingRecords
    from detclip2.data.text.concepts import ConceptDictionary
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "CaptionMapper": "mappers.caption",
            "CaptioningMapper": "mappers.language",
            "ConceptDictionary": "text.concepts",
            "DetectionMapper": "mappers.detection",
            "EmojiCaptioning": "emojiscenes.captioning",
            "EmojiGrounding": "emojiscenes.grounding",
            "EmojiPairs": "emojiscenes.captions",
            "EmojiQuestions": "emojiscenes.questions",
            "EmojiScenes": "emojiscenes.scenes",
            "GroundingMapper": "mappers.grounding",
            "HybridLoader": "hybrid_loader",
            "ImageTextShards": "io.shards",
            "ImageTextStream": "io.shard_stream",
            "KEYS": "sample",
            "Key": "sample",
            "Mapper": "mappers.base",
            "QuestionMapper": "mappers.language",
            "SkipSample": "sample",
            "Source": "sources",
            "StreamingRecords": "sources",
            "Video": "io.video",
            "category_names": "datasets.detection",
            "detection_records": "datasets.detection",
            "detection_set": "datasets.detection",
            "karpathy_records": "datasets.captions",
            "mdetr_records": "datasets.grounding",
            "names_of_json": "datasets.detection",
            "read_image": "io.image",
            "register_detection": "datasets.detection",
            "vqa_records": "datasets.vqa",
        },
    )
