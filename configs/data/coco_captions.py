"""COCO's captions in Karpathy's splits, and COCO's images of 2014."""

from detectron2.config import LazyCall as L
from detectron2.data import build_detection_test_loader
from detectron2.data import transforms as T

from detclip2.data.datasets.captions import karpathy_records
from detclip2.data.hybrid_loader import HybridLoader, Source
from detclip2.data.mappers import CaptioningMapper, EvaluationMapper
from detclip2.evaluation.captions import CaptionEvaluator, caption_set

from .test_mapper import inference, test_mapper

karpathy = dict(
    json_file="${oc.env:DETECTRON2_DATASETS}/karpathy/dataset_coco.json",
    images="${oc.env:DETECTRON2_DATASETS}/coco",
)


def _captions(*splits):
    return L(karpathy_records)(
        json_file="${karpathy.json_file}", image_root="${karpathy.images}", splits=list(splits)
    )


captioning = L(Source)(
    records=_captions("train", "restval"),
    mapper=L(CaptioningMapper)(
        augmentations=[
            L(T.ResizeShortestEdge)(
                short_edge_length=[480, 560, 640, 720, 800], max_size=1333, sample_style="choice"
            )
        ]
    ),
    total_batch_size=64,
    num_workers=4,
)
dataloader = dict(
    train=L(HybridLoader)(seed="${train.seed}", captioning=captioning),
    test=L(build_detection_test_loader)(
        dataset=L(caption_set)(name="coco_karpathy_test", records=_captions("test")),
        mapper=L(EvaluationMapper)(
            augmentations=test_mapper.augmentations, supervision="captioning"
        ),
        num_workers=4,
        batch_size=1,
    ),
    evaluator=L(CaptionEvaluator)(
        dataset_name="coco_karpathy_test", output_dir="${train.output_dir}/inference"
    ),
    vocabulary=None,  # the model writes
)
