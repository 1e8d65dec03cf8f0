"""VQA v2, as its authors distribute it, and COCO's images of 2014.

`answers` is the list that the model chooses from, one a line; docs/questions_and_captions.md makes
it.
"""

from detectron2.config import LazyCall as L
from detectron2.data import build_detection_test_loader
from detectron2.data import transforms as T

from detclip2.data.datasets.vqa import read_answers, vqa_records
from detclip2.data.hybrid_loader import HybridLoader, Source
from detclip2.data.mappers import EvaluationMapper, QuestionMapper
from detclip2.evaluation.vqa import VQAEvaluator, question_set

from .test_mapper import inference, test_mapper

vqa = dict(
    folder="${oc.env:DETECTRON2_DATASETS}/vqa",
    images="${oc.env:DETECTRON2_DATASETS}/coco",
    answers="${vqa.folder}/answers.txt",
)


def _questions(split):
    return L(vqa_records)(
        questions_json=f"${{vqa.folder}}/v2_OpenEnded_mscoco_{split}_questions.json",
        annotations_json=f"${{vqa.folder}}/v2_mscoco_{split}_annotations.json",
        image_root=f"${{vqa.images}}/{split}",
    )


answers = L(read_answers)(path="${vqa.answers}")
questions = L(Source)(
    records=_questions("train2014"),
    mapper=L(QuestionMapper)(
        augmentations=[
            L(T.ResizeShortestEdge)(
                short_edge_length=[480, 560, 640, 720, 800], max_size=1333, sample_style="choice"
            )
        ],
        known_answers=answers,
        blind=False,
    ),
    total_batch_size=64,
    num_workers=4,
)
dataloader = dict(
    train=L(HybridLoader)(seed="${train.seed}", questions=questions),
    test=L(build_detection_test_loader)(
        dataset=L(question_set)(name="vqa_v2_val", records=_questions("val2014")),
        mapper=L(EvaluationMapper)(
            augmentations=test_mapper.augmentations, supervision="vqa", blind=False
        ),
        num_workers=4,
        batch_size=1,
    ),
    evaluator=L(VQAEvaluator)(
        dataset_name="vqa_v2_val",
        prior_records=_questions("train2014"),
        output_dir="${train.output_dir}/inference",
    ),
    vocabulary=None,  # each sample has its question
)
