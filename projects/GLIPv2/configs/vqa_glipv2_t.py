"""GLIPv2-T: fine-tuning on VQA v2, from pre-trained weights: ``train.init_checkpoint=FILE``.

The paper's recipe is not known: rate, batch and length are those that ViLT has (arXiv 2102.03334).
"""

from detectron2.config import LazyCall as L

from detclip2 import get_config
from detclip2.engine.solver import schedule_of_epochs
from detclip2.modeling.heads.answer_head import AnswerHead

vqa, answers, dataloader, inference = get_config(
    "data/vqa.py", ("vqa", "answers", "dataloader", "inference")
)
model = get_config("models/glipv2.py").swin_t
optimizer = get_config("optim.py").AdamW_glip
lr_multiplier = get_config("schedules.py").steps
train = get_config("train.py").train

model.answer_head = L(AnswerHead)(answers=answers, text_width=768)
optimizer.lr = 1e-4
train.amp.enabled = True
train.clip_grad = 1.0
train.update(schedule_of_epochs(dict(questions=443_757), dataloader.train, epochs=10))
