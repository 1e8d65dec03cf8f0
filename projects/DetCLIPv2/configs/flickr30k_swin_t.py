"""Evaluates Swin-T on Flickr30k Entities: phrase grounding, for --eval-only."""

from ....configs.data.flickr30k_entities import dataloader, flickr30k, inference, postprocess
from ....configs.models.detclipv2 import swin_t as model
from ....configs.optim import AdamW as optimizer
from ....configs.schedules import cosine as lr_multiplier
from ....configs.train import train

model.postprocess = postprocess
