r"""GLIPv2 at its nano size on EmojiScenes, from boxes, captions, and pairs with a teacher's boxes.

The third kind of data of the paper: images of novel categories with captions alone, to which a
GLIPv2 that is trained on the other two gives boxes. With the model folder TEACHER of a training of
emoji_glipv2_nano:

    python scripts/pseudo_label.py --model TEACHER --count 20000 --score 0.3 --output labels.jsonl \
        --pairs projects/DetCLIPv2/configs/emoji_nano_pairs.py/pairs
"""

from detectron2.config import LazyCall as L

from detclip2 import get_config
from detclip2.data.datasets.grounding import OdvgCaptions
from detclip2.data.datasets.pseudo_labels import PseudoLabelled
from detclip2.data.hybrid_loader import Source
from detclip2.data.mappers import GroundingMapper

from .emoji_glipv2_nano import dataloader, inference, lr_multiplier, model, optimizer, train, world

teacher = dict(labels="labels.jsonl")

dataloader.train.web = L(Source)(
    records=L(PseudoLabelled)(
        records=get_config("data/emoji.py").pairs.records, jsonl_file="${teacher.labels}"
    ),
    mapper=L(GroundingMapper)(
        augmentations=[],
        max_phrases=100,
        other_captions=L(OdvgCaptions)(jsonl_file="${teacher.labels}"),
    ),
    total_batch_size=16,
    num_workers=2,
)
train.update(
    source_ratios=dict(detection=4, grounding=5, web=3),
    source_starts=dict(grounding=800, web=1600),
    max_iter=4400,
)
