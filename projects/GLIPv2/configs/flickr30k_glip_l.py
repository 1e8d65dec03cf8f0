"""GLIP-L on Flickr30k Entities: recall of the phrases of captions, read whole; for --eval-only."""

from detclip2 import get_config

dataloader, flickr30k, inference = get_config(
    "data/flickr30k_entities.py", ("dataloader", "flickr30k", "inference")
)
model = get_config("models/glip.py").swin_l
train = get_config("train.py").train

dataloader.test.mapper.whole_captions = True
dataloader.evaluator.whole_captions = True
model.text_tower.model.pretrained = False  # its weights are among the model's
model.postprocess.max_detections = 100  # of a caption, all phrases together, as published
