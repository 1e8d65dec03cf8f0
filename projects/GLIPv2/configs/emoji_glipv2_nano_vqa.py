"""GLIPv2's nano size learns to answer questions about EmojiScenes; boxes and captions train on.

From a pre-trained model: train.init_checkpoint=FOLDER/model.safetensors. The baseline without
images: dataloader.train.questions.mapper.blind=True dataloader.test.mapper.blind=True.
"""

from detectron2.config import LazyCall as L

from detclip2 import get_config
from detclip2.data.emojiscenes.questions import scene_answers
from detclip2.modeling.heads.answer_head import AnswerHead

from .emoji_glip_nano import dataloader, inference, lr_multiplier, optimizer, train, world

questions, question_test = get_config("data/emoji_language.py", ("questions", "question_test"))
model = get_config("models/glipv2.py").nano
model.answer_head = L(AnswerHead)(
    answers=L(scene_answers)(world="${world.categories}", most=4),
    text_width="${..token_head.text_width}",
)
dataloader.train.questions = questions
# L_mlm would mask the names of absent things, too.
dataloader.train.grounding.mapper.negatives = None
dataloader.update(question_test)
train.update(
    source_ratios=dict(detection=1, grounding=1, questions=4),
    source_starts=dict(),
    max_iter=4000,
)
