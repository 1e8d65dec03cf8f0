"""GLIP's training data: Objects365, GoldG, and captions of the web with boxes of a teacher.

Samples have what GLIP's captions are made of: names with a varying number of negatives, or the
caption with the spans of its phrases. Each source has its own batches; GLIP mixes them in a batch.
"""

from detectron2.config import LazyCall as L
from detectron2.data import transforms as T

from detclip2.data.datasets.grounding import OdvgCaptions, OdvgFile
from detclip2.data.hybrid_loader import Source
from detclip2.data.mappers import GroundingMapper

from .pretraining import detection, flickr, mixed, pretraining

# Numbers of images, from which the schedule is computed (GLIP, sec. 4.1).
images = dict(detection=660_000, flickr=149_000, mixed=621_000, web=4_000_000)

multi_scale = [
    L(T.ResizeShortestEdge)(
        short_edge_length=[480, 560, 640, 720, 800], max_size=1333, sample_style="choice"
    ),
    L(T.RandomFlip)(horizontal=True),  # also of captions with "left", as in GLIP
]

detection.mapper.update(augmentations=multi_scale, varied_negatives=85)
detection.total_batch_size = 64

for _source in (flickr, mixed):
    _source.records.spans = True
    _source.mapper.update(augmentations=multi_scale, negatives=None, keep=["phrase_spans"])
    _source.total_batch_size = 64

# Cap4M was not released: scripts/pseudo_label.py --score 0.5 writes such a file.
web = L(Source)(
    records=L(OdvgFile)(
        jsonl_file="${pretraining.folder}/cap4m/boxes.jsonl",
        image_root="${pretraining.folder}/cap4m/images",
    ),
    mapper=L(GroundingMapper)(
        augmentations=multi_scale,
        max_phrases=100,
        other_captions=L(OdvgCaptions)(jsonl_file="${...records.jsonl_file}"),
    ),
    total_batch_size=64,
    num_workers=8,
)
