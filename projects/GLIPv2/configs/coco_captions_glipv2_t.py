"""GLIPv2-T: fine-tuning on COCO's captions, from pre-trained weights: ``train.init_checkpoint``.

The paper's recipe is not known: rate, batch and length are a guess. CIDEr is not optimised.
"""

from detectron2.config import LazyCall as L

from detclip2 import get_config
from detclip2.engine.solver import schedule_of_epochs
from detclip2.modeling.heads.caption_head import CaptionHead

karpathy, dataloader, inference = get_config(
    "data/coco_captions.py", ("karpathy", "dataloader", "inference")
)
model = get_config("models/glipv2.py").swin_t
optimizer = get_config("optim.py").AdamW_glip
lr_multiplier = get_config("schedules.py").steps
train = get_config("train.py").train

model.caption_head = L(CaptionHead)(beam_size=5, max_tokens=40, length_penalty=1.0)
optimizer.lr = 1e-5
train.amp.enabled = True
train.clip_grad = 1.0
train.update(schedule_of_epochs(dict(captioning=113_287), dataloader.train, epochs=20))
