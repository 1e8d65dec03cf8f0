"""Common parts of the benchmark's sizes: sources, model, optimizer, and the node ``benchmark``.

`python -m projects.EmojiScenes.evidence` alone reads ``benchmark``: it divides the iterations among
the sources of a row, trains the shared start and the smaller worlds of ``growth`` first, and then
this config. train_net.py trains this config from random weights, in the whole world at once.
"""

from detectron2.config import LazyCall as L

from detclip2 import get_config
from detclip2.engine.solver import WarmupHoldCosine

_emoji = get_config("data/emoji.py")
dataloader, inference, world = _emoji.dataloader, _emoji.inference, _emoji.world
model = get_config("models/detclipv2.py").nano
optimizer = get_config("optim.py").AdamW
train = get_config("train.py").train

benchmark = dict(
    # Iterations of boxes alone, with which all rows begin; rows with an equal start share it.
    shared=800,
    # Smaller worlds that come before the whole one: [categories, last iteration]. The first is
    # the world of the shared start.
    growth=[],
    # Iterations of each source in all; those of detection include the shared ones. Multiples of
    # 100, so that the shares of the sources are kept exactly.
    iterations=dict(detection=2000, grounding=2000, pairs=2000),
    # Test set -> what differs from `dataloader.test.dataset`.
    tests=dict(seen=dict(contents=None), unseen=dict(contents=["unseen"])),
    # The same, for the rows that ask for them (`Row.more_tests`).
    more_tests=dict(),
)

dataloader.train.update(grounding=_emoji.grounding, pairs=_emoji.pairs)
# Names that never have a box are negatives where they are absent, in every row: emoji_nano_pairs.
dataloader.train.detection.mapper.negatives = _emoji.concepts
# AP needs all detections (1,000 for Fixed AP); a user wants those with high scores.
model.postprocess.update(score_threshold=0.001, max_detections=1000)
inference.score_threshold = 0.3

lr_multiplier = L(WarmupHoldCosine)(
    max_iter="${train.max_iter}", warmup_iterations=200, decay_start="${benchmark.shared}"
)
train.update(device="cpu", checkpointer=dict(period=500, max_to_keep=1))
