"""GLIP at its nano size on EmojiScenes, from boxes and grounded captions.

The images are those of emoji_nano_grounding, which trains DetCLIPv2, in the same order. Half of the
captions say which of two objects they mean: "the dog on the left".
"""

from detclip2 import get_config

dataloader, grounding, inference, world = get_config(
    "data/emoji.py", ("dataloader", "grounding", "inference", "world")
)
model = get_config("models/glip.py").nano
optimizer = get_config("optim.py").AdamW_glip
lr_multiplier = get_config("schedules.py").cosine
train = get_config("train.py").train

world.update(size=160, pairs_size=128)
# The caption is read whole, with relations such as "left of"; its phrases are spans of it, and the
# names of absent things stand around it.
grounding.records.referring = 0.5
grounding.mapper.keep = ["phrase_spans"]
dataloader.train.grounding = grounding
optimizer.lr = 1e-3
optimizer.params.lr_factor_func.functions[0].factor = 1.0  # the text model is not pretrained
lr_multiplier.warmup_iterations = 200
train.update(
    source_ratios=dict(detection=4, grounding=5),
    source_starts=dict(grounding=800),
    max_iter=3500,
    clip_grad=1.0,
    device="cpu",
)
