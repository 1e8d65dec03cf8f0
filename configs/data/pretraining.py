"""The pre-training data of the paper (sec. 4.1, Tab. 1): Objects365, GoldG and CC15M.

Batch sizes are those of Swin-T on 32 GPUs (Tab. 9). docs/pretraining.md says where the data comes
from and which folders are expected.
"""

from detectron2.config import LazyCall as L
from detectron2.data import transforms as T

from detclip2.data.datasets.detection import detection_set, names_of_json
from detclip2.data.datasets.grounding import mdetr_records
from detclip2.data.hybrid_loader import Source
from detclip2.data.io.shards import ImageTextShards
from detclip2.data.mappers import CaptionMapper, DetectionMapper, GroundingMapper
from detclip2.data.text.concepts import ConceptDictionary

pretraining = dict(
    folder="${oc.env:DETECTRON2_DATASETS}",
    # The concept dictionary (sec. 3.1): definitions of categories, negatives of captions.
    concepts="${pretraining.folder}/concepts.jsonl",
    # Tar shards of image-text pairs, as img2dataset writes them.
    cc3m="${pretraining.folder}/cc3m/{00000..00331}.tar",
    cc12m="${pretraining.folder}/cc12m/{00000..01242}.tar",
)

# Numbers of images in the paper (Tab. 1), from which the schedule is computed.
images = dict(detection=660_000, flickr=149_000, mixed=621_000, pairs=13_000_000)
images_of_cc3m = 3_000_000

multi_scale = [
    L(T.ResizeShortestEdge)(
        # The paper does not give the range; this is GLIP's.
        short_edge_length=[480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800],
        max_size=1333,
        sample_style="choice",
    ),
    L(T.RandomFlip)(horizontal=True),
]

detection = L(Source)(
    records=L(detection_set)(
        name="objects365_train",
        json_file="${pretraining.folder}/objects365/annotations/objects365_train.json",
        image_root="${pretraining.folder}/objects365/train",
    ),
    mapper=L(DetectionMapper)(
        names=L(names_of_json)(json_file="${...records.json_file}"),
        # "name, definition" (sec. 3.1), from the dictionary of the evaluation.
        templates="${dataloader.vocabulary.templates}",
        definitions="${dataloader.vocabulary.definitions}",
        augmentations=multi_scale,
        max_phrases=150,
    ),
    total_batch_size=128,
    num_workers=8,
)

# Definitions of the categories of all data sets, in training and in evaluation: for the key
# `dataloader.vocabulary.definitions`.
concepts = L(ConceptDictionary.load)(path="${pretraining.concepts}")

# GoldG has two files, each a source of its own.
flickr = L(Source)(
    records=L(mdetr_records)(
        json_file="${pretraining.folder}/mdetr_annotations/final_flickr_separateGT_train.json",
        image_root="${pretraining.folder}/flickr30k/images",
    ),
    mapper=L(GroundingMapper)(
        augmentations=multi_scale,
        max_phrases=100,
        negatives=concepts,
    ),
    total_batch_size=128,
    num_workers=8,
)

mixed = L(Source)(
    records=L(mdetr_records)(
        json_file="${pretraining.folder}/mdetr_annotations/final_mixed_train_no_coco.json",
        image_root="${pretraining.folder}/gqa/images",
    ),
    mapper=L(GroundingMapper)(
        augmentations=multi_scale,
        max_phrases=100,
        negatives=concepts,
    ),
    total_batch_size=128,
    num_workers=8,
)

pairs = L(Source)(
    records=L(ImageTextShards)(urls=["${pretraining.cc3m}", "${pretraining.cc12m}"]),
    mapper=L(CaptionMapper)(
        augmentations=[L(T.Resize)(shape=[320, 320])], max_phrases=32, include_caption=True
    ),
    total_batch_size=6144,
    num_workers=8,
)

cc3m = L(Source)(
    records=L(ImageTextShards)(urls="${pretraining.cc3m}"),
    mapper=pairs.mapper,
    total_batch_size=6144,
    num_workers=8,
)
