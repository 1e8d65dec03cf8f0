"""EmojiScenes: captions with boxes to evaluate on: the boxes of phrases, and masked words.

The scenes have another seed than those of training. Captions of the first set refer to one of two
objects, and half of those of the second.
"""

from detectron2.config import LazyCall as L
from detectron2.data import build_detection_test_loader

from detclip2.data.emojiscenes import EmojiGrounding
from detclip2.data.mappers.masked_words import MaskedWordMapper
from detclip2.data.mappers.phrase_grounding import MentionMapper
from detclip2.evaluation.masked_words import MaskedWordEvaluator
from detclip2.evaluation.phrase_grounding import PhraseGroundingEvaluator, grounding_set

from .emoji import inference, world
from .test_mapper import test_mapper


def _captions(name, referring, mapper):
    return L(build_detection_test_loader)(
        dataset=L(grounding_set)(
            name=name,
            records=L(EmojiGrounding)(
                world="${world.categories}",
                count=500,
                size="${world.size}",
                seed=1_000_000,
                referring=referring,
            ),
        ),
        mapper=mapper,
        num_workers=0,
        batch_size=8,
    )


phrases = dict(
    loader=_captions(
        "emoji_phrases",
        1.0,
        L(MentionMapper)(augmentations=test_mapper.augmentations, whole_captions=True),
    ),
    evaluator=L(PhraseGroundingEvaluator)(
        dataset_name="${..loader.dataset.name}",
        output_dir="${train.output_dir}/inference",
        whole_captions=True,
    ),
    vocabulary=None,  # each sample has its own
)
words = dict(
    loader=_captions(
        "emoji_words",
        0.5,
        L(MaskedWordMapper)(augmentations=test_mapper.augmentations, probability=0.15),
    ),
    evaluator=L(MaskedWordEvaluator)(
        dataset_name="${..loader.dataset.name}", output_dir="${train.output_dir}/inference"
    ),
    vocabulary=None,
)
