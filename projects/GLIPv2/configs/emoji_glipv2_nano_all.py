"""GLIPv2's nano size on EmojiScenes with all losses: boxes, phrases, masks, questions, captions.

One set of weights for all tasks (GLIPv2, sec. 3), from those of emoji_glip_nano:
train.init_checkpoint=FOLDER/model.safetensors. Each task has a test set.
"""

from detectron2.config import LazyCall as L

from detclip2 import get_config
from detclip2.data.emojiscenes.questions import scene_answers
from detclip2.modeling.heads.answer_head import AnswerHead
from detclip2.modeling.heads.caption_head import CaptionHead

from .emoji_glipv2_nano_masks import (
    dataloader,
    inference,
    lr_multiplier,
    model,
    optimizer,
    train,
    world,
)
from .emoji_glipv2_nano_referring import dataloader as _references

phrases, words = get_config("data/emoji_captions.py", ("phrases", "words"))
captioning, questions, caption_test, question_test = get_config(
    "data/emoji_language.py", ("captioning", "questions", "caption_test", "question_test")
)

model.answer_head = L(AnswerHead)(
    answers=L(scene_answers)(world="${world.categories}", most=4),
    text_width="${..token_head.text_width}",
)
model.caption_head = L(CaptionHead)(beam_size=3, max_tokens=40, length_penalty=1.0)
dataloader.train.update(questions=questions, captioning=captioning)
_tests = dict(references=_references, questions=question_test, captions=caption_test)
dataloader.tests = dict(phrases=phrases, words=words) | {
    name: dict(loader=one.test, evaluator=one.evaluator, vocabulary=None)
    for name, one in _tests.items()
}
train.update(
    source_ratios=dict(detection=2, grounding=2, questions=3, captioning=2),
    source_starts=dict(),
    max_iter=9000,
)
