"""Dataset records become samples: one mapper for each kind of supervision (paper, sec. 3.1).

A mapper is called with a record and a random generator, and returns the sample of
:mod:`detclip2.data.sample` or raises :class:`~detclip2.data.sample.SkipSample`. A sample is a
function of the record and the generator's state alone, and the record is never changed. Boxes that
are of no use are left out and counted in ``mapper.counter``.
"""

from detclip2.data.mappers.base import Mapper, draw_sample
from detclip2.data.mappers.caption import CaptionMapper
from detclip2.data.mappers.detection import DetectionMapper
from detclip2.data.mappers.grounding import GroundingMapper

__all__ = ["CaptionMapper", "DetectionMapper", "GroundingMapper", "Mapper", "draw_sample"]
