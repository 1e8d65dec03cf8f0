"""EmojiScenes with questions, and with captions to write: sources and test sets."""

from detectron2.config import LazyCall as L
from detectron2.data import build_detection_test_loader

from detclip2.data.emojiscenes.captioning import EmojiCaptioning, spellings_of_names
from detclip2.data.emojiscenes.questions import EmojiQuestions
from detclip2.data.hybrid_loader import Source
from detclip2.data.mappers import CaptioningMapper, EvaluationMapper, QuestionMapper
from detclip2.evaluation.captions import CaptionEvaluator, caption_set
from detclip2.evaluation.vqa import VQAEvaluator, question_set

from .test_mapper import test_mapper

# Another seed of the world, so that no image of a test set is one of training.
OTHER_SEED = 1_000_000


def _scenes(kind, count, seed):
    return L(kind)(world="${world.categories}", count=count, size="${world.size}", seed=seed)


def _test_loader(dataset, supervision):
    return L(build_detection_test_loader)(
        dataset=dataset,
        # blind=True shows black images: with the same in training, the baseline without images.
        mapper=L(EvaluationMapper)(
            augmentations=test_mapper.augmentations, supervision=supervision, blind=False
        ),
        num_workers=0,
        batch_size=16,
    )


questions = L(Source)(
    records=_scenes(EmojiQuestions, 100_000, "${world.seed}"),
    mapper=L(QuestionMapper)(augmentations=[], blind=False),  # no flip: questions say "left of"
    total_batch_size=32,
    num_workers=2,
)
question_test = dict(
    test=_test_loader(
        L(question_set)(name="emoji_questions", records=_scenes(EmojiQuestions, 1000, OTHER_SEED)),
        "vqa",
    ),
    evaluator=L(VQAEvaluator)(
        dataset_name="emoji_questions",
        prior_records=_scenes(EmojiQuestions, 5000, "${world.seed}"),
        output_dir="${train.output_dir}/inference",
    ),
    vocabulary=None,
)

captioning = L(Source)(
    records=_scenes(EmojiCaptioning, 100_000, "${world.seed}"),
    mapper=L(CaptioningMapper)(augmentations=[]),
    total_batch_size=32,
    num_workers=2,
)
caption_test = dict(
    test=_test_loader(
        L(caption_set)(name="emoji_captioning", records=_scenes(EmojiCaptioning, 500, OTHER_SEED)),
        "captioning",
    ),
    evaluator=L(CaptionEvaluator)(
        dataset_name="emoji_captioning",
        spellings=L(spellings_of_names)(world="${world.categories}"),
        output_dir="${train.output_dir}/inference",
    ),
    vocabulary=None,
)
