"""COCO's boxes, or any data in its format; Detectron2's layout of folders is expected."""

from detectron2.config import LazyCall as L
from detectron2.data import build_detection_test_loader
from detectron2.data import transforms as T

from detclip2.data.datasets.detection import detection_set, names_of_json
from detclip2.data.hybrid_loader import HybridLoader, Source
from detclip2.data.mappers import DetectionMapper
from detclip2.evaluation.coco import CheckedCOCOEvaluator
from detclip2.inference.vocabulary import Vocabulary

from .test_mapper import inference, test_mapper

# The folder that has annotations/, train2017/ and val2017/. For other names of files and folders,
# override `json_file` and `image_root` below.
coco = dict(folder="${oc.env:DETECTRON2_DATASETS}/coco")

detection = L(Source)(
    records=L(detection_set)(
        name="coco_train",
        json_file="${coco.folder}/annotations/instances_train2017.json",
        image_root="${coco.folder}/train2017",
    ),
    mapper=L(DetectionMapper)(
        names=L(names_of_json)(json_file="${...records.json_file}"),
        augmentations=[
            L(T.ResizeShortestEdge)(
                short_edge_length=[480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800],
                max_size=1333,
                sample_style="choice",
            ),
            L(T.RandomFlip)(horizontal=True),
        ],
        templates="${dataloader.vocabulary.templates}",  # as in evaluation
        definitions="${dataloader.vocabulary.definitions}",
        max_phrases=150,
    ),
    total_batch_size=16,
    num_workers=4,
)

dataloader = dict(
    train=L(HybridLoader)(seed="${train.seed}", detection=detection),
    test=L(build_detection_test_loader)(
        dataset=L(detection_set)(
            name="coco_val",
            json_file="${coco.folder}/annotations/instances_val2017.json",
            image_root="${coco.folder}/val2017",
        ),
        mapper=test_mapper,
        num_workers=4,
        batch_size=1,
    ),
    evaluator=L(CheckedCOCOEvaluator)(
        dataset_name="${..test.dataset.name}",
        tasks=["bbox"],
        output_dir="${train.output_dir}/inference",
    ),
    # The vocabulary of the model: names alone.
    vocabulary=L(Vocabulary.of_dataset)(
        dataset_name="${..test.dataset.name}", templates=["{}"], definitions=None, synonyms=None
    ),
)
