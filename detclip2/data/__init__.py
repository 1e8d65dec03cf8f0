"""Data sets, mappers and the loader, which give samples (see `detclip2.data.sample`)."""

from typing import TYPE_CHECKING

from detclip2.utils.lazy import lazy_names

__all__ = [
    "KEYS",
    "CaptionMapper",
    "ConceptDictionary",
    "DetectionMapper",
    "EmojiGrounding",
    "EmojiPairs",
    "EmojiScenes",
    "GroundingMapper",
    "HybridLoader",
    "ImageTextShards",
    "Key",
    "Mapper",
    "SkipSample",
    "Source",
    "StreamingRecords",
    "Video",
    "detection_set",
    "mdetr_records",
    "names_of_json",
    "read_image",
    "register_detection",
]

if TYPE_CHECKING:
    from detclip2.data.datasets.detection import detection_set, names_of_json, register_detection
    from detclip2.data.datasets.grounding import mdetr_records
    from detclip2.data.emojiscenes.captions import EmojiPairs
    from detclip2.data.emojiscenes.grounding import EmojiGrounding
    from detclip2.data.emojiscenes.scenes import EmojiScenes
    from detclip2.data.hybrid_loader import HybridLoader
    from detclip2.data.io.image import read_image
    from detclip2.data.io.shards import ImageTextShards
    from detclip2.data.io.video import Video
    from detclip2.data.mappers.base import Mapper
    from detclip2.data.mappers.caption import CaptionMapper
    from detclip2.data.mappers.detection import DetectionMapper
    from detclip2.data.mappers.grounding import GroundingMapper
    from detclip2.data.sample import KEYS, Key, SkipSample
    from detclip2.data.sources import Source, StreamingRecords
    from detclip2.data.text.concepts import ConceptDictionary
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "CaptionMapper": "mappers.caption",
            "ConceptDictionary": "text.concepts",
            "DetectionMapper": "mappers.detection",
            "EmojiGrounding": "emojiscenes.grounding",
            "EmojiPairs": "emojiscenes.captions",
            "EmojiScenes": "emojiscenes.scenes",
            "GroundingMapper": "mappers.grounding",
            "HybridLoader": "hybrid_loader",
            "ImageTextShards": "io.shards",
            "KEYS": "sample",
            "Key": "sample",
            "Mapper": "mappers.base",
            "SkipSample": "sample",
            "Source": "sources",
            "StreamingRecords": "sources",
            "Video": "io.video",
            "detection_set": "datasets.detection",
            "mdetr_records": "datasets.grounding",
            "names_of_json": "datasets.detection",
            "read_image": "io.image",
            "register_detection": "datasets.detection",
        },
    )
