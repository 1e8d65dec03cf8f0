"""LVIS v1 for evaluation without training on it; Detectron2's layout of folders is expected.

The folder that DETECTRON2_DATASETS names has lvis/ and coco/. For the whole validation set in place
of minival: ``lvis.split=lvis_v1_val``.
"""

from detectron2.config import LazyCall as L
from detectron2.data import build_detection_test_loader

from detclip2.data.datasets.lvis import lvis_set
from detclip2.data.text.concepts import ConceptDictionary
from detclip2.evaluation.lvis import LVISFixedAPEvaluator
from detclip2.inference.vocabulary import Vocabulary

from .test_mapper import inference, test_mapper

lvis = dict(split="lvis_v1_minival")

dataloader = dict(
    test=L(build_detection_test_loader)(
        dataset=L(lvis_set)(name="${lvis.split}"),
        mapper=test_mapper,
        num_workers=4,
        batch_size=1,
    ),
    evaluator=L(LVISFixedAPEvaluator)(
        dataset_name="${lvis.split}",
        tasks=["bbox"],
        output_dir="${train.output_dir}/inference",
        max_dets_per_image=300,  # of standard AP
        max_dets_per_class=10_000,  # of Fixed AP
    ),
    # "name, definition" (paper sec. 3.1), with LVIS's own definitions.
    vocabulary=L(Vocabulary.of_dataset)(
        dataset_name="${lvis.split}",
        templates=["{}"],
        definitions=L(ConceptDictionary.builtin)(name="lvis"),
        synonyms=None,
    ),
)
