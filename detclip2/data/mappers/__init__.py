"""Mappers, which make samples of records: one for each kind of supervision (paper, sec. 3.1).

A mapper takes a record and a random generator, and returns a sample (see `detclip2.data.sample`) or
raises `SkipSample`. The sample depends on the record and the generator's state alone; the mapper
never changes the record. It skips invalid boxes and counts them in ``mapper.counter``.
"""

from detclip2.data.mappers.base import Mapper, draw_sample
from detclip2.data.mappers.caption import CaptionMapper
from detclip2.data.mappers.detection import DetectionMapper
from detclip2.data.mappers.evaluation import EvaluationMapper
from detclip2.data.mappers.grounding import GroundingMapper
from detclip2.data.mappers.language import CaptioningMapper, QuestionMapper

__all__ = [
    "CaptionMapper",
    "CaptioningMapper",
    "DetectionMapper",
    "EvaluationMapper",
    "GroundingMapper",
    "Mapper",
    "QuestionMapper",
    "draw_sample",
]
