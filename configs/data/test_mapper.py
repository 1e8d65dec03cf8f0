"""Preprocessing outside of training: images are resized, nothing else."""

from detectron2.config import LazyCall as L
from detectron2.data import transforms as T

from detclip2.data.mappers import EvaluationMapper

inference = dict(min_size=800, max_size=1333, score_threshold=0.3, batch_size=1)

test_mapper = L(EvaluationMapper)(
    augmentations=[
        L(T.ResizeShortestEdge)(
            short_edge_length="${inference.min_size}", max_size="${inference.max_size}"
        )
    ],
)
