"""Evaluates Swin-T on Flickr30k Entities: phrase grounding, for --eval-only."""

from detclip2 import get_config

dataloader, flickr30k, inference, postprocess = get_config(
    "data/flickr30k_entities.py", ("dataloader", "flickr30k", "inference", "postprocess")
)
model = get_config("models/detclipv2.py").swin_t
train = get_config("train.py").train


model.postprocess = postprocess
