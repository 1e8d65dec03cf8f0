"""EmojiScenes: detection data drawn on the fly, and its validation set in LVIS's format."""

from detectron2.config import LazyCall as L
from detectron2.data import build_detection_test_loader

from detclip2.data.emojiscenes import EmojiGrounding, EmojiPairs, EmojiScenes
from detclip2.data.emojiscenes.sets import base_names, seen_names, validation_set
from detclip2.data.hybrid_loader import HybridLoader, Source
from detclip2.data.mappers import CaptionMapper, DetectionMapper, GroundingMapper
from detclip2.data.text.concepts import ConceptDictionary
from detclip2.evaluation.lvis import LVISFixedAPEvaluator
from detclip2.inference.vocabulary import Vocabulary

from .test_mapper import inference, test_mapper

# The world that all parts of a config share: how many categories, and pixels of an edge, of scenes
# and of those that come with a caption.
world = dict(categories=200, size=320, pairs_size="${world.size}", seed=0)

# Further names for negatives (the paper's concept dictionary, sec. 3.1).
concepts = L(ConceptDictionary.from_names)(names=L(seen_names)(world="${world.categories}"))

detection = L(Source)(
    records=L(EmojiScenes)(
        world="${world.categories}",
        split="train",
        count=100_000,
        size="${world.size}",
        seed="${world.seed}",
    ),
    mapper=L(DetectionMapper)(
        names=L(base_names)(world="${world.categories}"),
        augmentations=[],  # scenes vary enough without augmentation
        max_phrases=150,
    ),
    total_batch_size=16,
    num_workers=2,
)

# Image-text pairs show base and novel categories; captions name only some of the objects.
pairs = L(Source)(
    records=L(EmojiPairs)(
        world="${world.categories}",
        count=100_000,
        size="${world.pairs_size}",
        seed="${world.seed}",
    ),
    mapper=L(CaptionMapper)(augmentations=[], max_phrases=16, include_caption=True),
    total_batch_size=32,
    num_workers=2,
)

# Captions whose phrases have boxes, of base categories only.
grounding = L(Source)(
    records=L(EmojiGrounding)(
        world="${world.categories}", count=100_000, size="${world.size}", seed="${world.seed}"
    ),
    mapper=L(GroundingMapper)(
        augmentations=[],  # no flip: captions say "left of"
        max_phrases=100,
        negatives=concepts,
    ),
    total_batch_size=16,
    num_workers=2,
)

dataloader = dict(
    train=L(HybridLoader)(seed="${train.seed}", detection=detection),
    test=L(build_detection_test_loader)(
        dataset=L(validation_set)(
            name="emoji_val",
            folder="${train.output_dir}/data",
            world="${world.categories}",
            count=500,
            size="${world.size}",
            seed="${world.seed}",
        ),
        mapper=test_mapper,
        num_workers=0,
        batch_size=8,
    ),
    evaluator=L(LVISFixedAPEvaluator)(
        dataset_name="${..test.dataset.name}",
        tasks=["bbox"],
        output_dir="${train.output_dir}/inference",
    ),
    # Training and evaluation use names alone as phrases.
    vocabulary=L(Vocabulary.of_dataset)(
        dataset_name="${..test.dataset.name}", templates=["{}"], definitions=None, synonyms=None
    ),
)

inference.update(min_size="${world.size}", batch_size=8)
