"""GLIPv2's nano size learns to write captions of EmojiScenes; boxes and grounding train on.

From a pre-trained model: train.init_checkpoint=FOLDER/model.safetensors.
"""

from detectron2.config import LazyCall as L

from detclip2 import get_config
from detclip2.modeling.heads.caption_head import CaptionHead

from .emoji_glip_nano import dataloader, inference, lr_multiplier, optimizer, train, world

captioning, caption_test = get_config("data/emoji_language.py", ("captioning", "caption_test"))
model = get_config("models/glipv2.py").nano
model.caption_head = L(CaptionHead)(beam_size=3, max_tokens=40, length_penalty=1.0)
dataloader.train.captioning = captioning
# L_mlm would mask the names of absent things, too.
dataloader.train.grounding.mapper.negatives = None
dataloader.update(caption_test)
train.update(
    source_ratios=dict(detection=1, grounding=1, captioning=3),
    source_starts=dict(),
    max_iter=4000,
)
