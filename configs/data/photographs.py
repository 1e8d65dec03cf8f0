"""Openly licensed photographs: boxes, things with a name, captions.

`photos.images` is the folder of photographs, `photos.data` what
``projects.Photographs.tools.prepare_data`` and ``scripts.name_regions`` have made of it.
"""

from copy import deepcopy

from detectron2.config import LazyCall as L
from detectron2.data import build_detection_test_loader
from detectron2.data import transforms as T

from detclip2.data.datasets.captions import CaptionJsonl
from detclip2.data.datasets.decoded import DecodedImages
from detclip2.data.datasets.detection import detection_set, names_of_json
from detclip2.data.datasets.grounding import OdvgFile, odvg_phrases
from detclip2.data.hybrid_loader import HybridLoader, Source
from detclip2.data.mappers import CaptionMapper, DetectionMapper, GroundingMapper
from detclip2.data.text.concepts import ConceptDictionary
from detclip2.evaluation.partly_labelled import PartlyLabelledEvaluator, frequent_names
from detclip2.inference.vocabulary import Vocabulary

from .test_mapper import inference, test_mapper

photos = dict(images="${oc.env:DETCLIP2_TEST_DATA}/photos", data="output/photographs")

detection = L(Source)(
    records=L(DecodedImages)(
        records=L(detection_set)(
            name="photos_train",
            json_file="${photos.data}/boxes_train.json",
            image_root="${photos.images}/boxes",
        )
    ),
    # Crops of 256 px at the scales of inference: a third less time than whole images.
    mapper=L(DetectionMapper)(
        names=L(names_of_json)(json_file="${...records.records.json_file}"),
        augmentations=[
            L(T.ResizeShortestEdge)(
                short_edge_length=[224, 384], max_size=640, sample_style="range"
            ),
            L(T.RandomCrop)(crop_type="absolute", crop_size=[256, 256]),
            L(T.RandomFlip)(horizontal=True),
        ],
        max_phrases=80,
    ),
    total_batch_size=8,
    num_workers=0,
)

# Images of one thing, with a box where a classifier sees it (scripts/name_regions.py).
regions = L(Source)(
    records=L(DecodedImages)(
        records=L(OdvgFile)(
            jsonl_file="${photos.data}/names_regions.jsonl", image_root="${photos.images}"
        )
    ),
    mapper=L(GroundingMapper)(
        augmentations=[
            L(T.ResizeShortestEdge)(
                short_edge_length=[128, 320], max_size=384, sample_style="range"
            ),
            L(T.RandomFlip)(horizontal=True),
        ],
        max_phrases=32,
        negatives=L(ConceptDictionary.load)(path="${photos.data}/concepts.jsonl"),
    ),
    total_batch_size=8,
    num_workers=0,
)

# Images with captions, with a box of each phrase whose things the classifier sees. Not every thing
# of a phrase is found: an image's own phrases have no negatives in it.
located = deepcopy(regions)
located.records.records.jsonl_file = "${photos.data}/captions_regions.jsonl"
located.mapper.update(
    augmentations=detection.mapper.augmentations,
    negatives=L(odvg_phrases)(jsonl_file="${...records.records.jsonl_file}"),
    exhaustive=False,
)

captions = L(Source)(
    records=L(DecodedImages)(
        records=L(CaptionJsonl)(
            jsonl_file="${photos.data}/captions.jsonl", image_root="${photos.images}"
        )
    ),
    mapper=L(CaptionMapper)(
        augmentations=[
            L(T.Resize)(shape=[256, 256]),
            L(T.RandomFlip)(horizontal=True),
        ],
        max_phrases=12,
    ),
    total_batch_size=16,
    num_workers=0,
)

# The same names as image-text pairs, for the contrast: no teacher locates them.
named = deepcopy(captions)
named.records.records.jsonl_file = "${photos.data}/names.jsonl"
named.mapper.include_caption = False

dataloader = dict(
    train=L(HybridLoader)(seed="${train.seed}", detection=detection),
    test=L(build_detection_test_loader)(
        dataset=L(detection_set)(
            name="photos_val",
            json_file="${photos.data}/boxes_val.json",
            image_root="${photos.images}/boxes",
        ),
        mapper=test_mapper,
        num_workers=0,
        batch_size=4,
    ),
    evaluator=L(PartlyLabelledEvaluator)(
        dataset_name="${..test.dataset.name}",
        names=L(frequent_names)(json_file="${photos.data}/boxes_train.json"),
        tasks=["bbox"],
        output_dir="${train.output_dir}/inference",
    ),
    vocabulary=L(Vocabulary.of_dataset)(
        dataset_name="${..test.dataset.name}", templates=["{}"], definitions=None, synonyms=None
    ),
)

# Half of the detections with a score of at least 0.5 are right, see the model card.
inference.update(min_size=320, max_size=640, batch_size=4, score_threshold=0.5)
