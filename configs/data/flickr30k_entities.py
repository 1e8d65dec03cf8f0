"""Phrase grounding on Flickr30k Entities, for evaluation; the model takes `postprocess` from here.

The folder holds Annotations/, Sentences/ and test.txt as the data set's authors distribute them,
and in images/ the images, which come from elsewhere.
"""

from detectron2.config import LazyCall as L
from detectron2.data import build_detection_test_loader

from detclip2.data.datasets.flickr30k_entities import flickr30k_entities_records
from detclip2.data.mappers.phrase_grounding import MentionMapper
from detclip2.evaluation.phrase_grounding import PhraseGroundingEvaluator, grounding_set
from detclip2.modeling.postprocess import TopKPerPhrase

from .test_mapper import inference, test_mapper

flickr30k = dict(folder="${oc.env:DETECTRON2_DATASETS}/flickr30k_entities", split="test")

dataloader = dict(
    test=L(build_detection_test_loader)(
        dataset=L(grounding_set)(
            name="flickr30k_entities_${flickr30k.split}",
            records=L(flickr30k_entities_records)(
                folder="${flickr30k.folder}",
                image_root="${flickr30k.folder}/images",
                split="${flickr30k.split}",
            ),
        ),
        mapper=L(MentionMapper)(augmentations=test_mapper.augmentations),
        num_workers=4,
        batch_size=1,
    ),
    evaluator=L(PhraseGroundingEvaluator)(
        dataset_name="${..test.dataset.name}",
        output_dir="${train.output_dir}/inference",
    ),
    vocabulary=None,  # each sample asks for the phrases of its own caption
)

postprocess = L(TopKPerPhrase)(nms_threshold=0.6, max_candidates=1000, max_detections=10)
