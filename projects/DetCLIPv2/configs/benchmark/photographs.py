"""The shipped model on 51 photographs with boxes, grounding and captions, to know them by heart.

It is evaluated on what it has learnt. `scripts/evidence.py photos overfit` prepares the files.
"""

from detectron2.config import LazyCall as L
from detectron2.data import transforms as T

from detclip2.data.datasets.captions import coco_caption_records
from detclip2.data.datasets.grounding import mdetr_records
from detclip2.data.hybrid_loader import Source
from detclip2.data.mappers import CaptionMapper, GroundingMapper
from detclip2.utils.model_folder import SHIPPED, WEIGHTS_NAME

from .....configs.data.coco import coco, dataloader, inference
from .....configs.models.detclipv2 import nano as model
from .....configs.optim import AdamW as optimizer
from .....configs.schedules import cosine as lr_multiplier
from .....configs.train import train

coco.update(folder="${oc.env:DETCLIP2_TEST_DATA}/coco_open", json="./output/coco_open")
inference.update(min_size=512, max_size=864)  # at 320, half of the small things are missed
_sides = dict(short_edge_length="${inference.min_size}", max_size="${inference.max_size}")
resize = L(T.ResizeShortestEdge)(**_sides)

detection = dataloader.train.detection
detection.records.update(json_file="${coco.json}/instances.json", image_root="${coco.folder}")
detection.mapper.augmentations = [resize]  # nothing that flips: it shall know these pictures
detection.update(total_batch_size=2, num_workers=1)
dataloader.train.grounding = L(Source)(
    records=L(mdetr_records)(json_file="${coco.json}/grounding.json", image_root="${coco.folder}"),
    mapper=L(GroundingMapper)(augmentations=[resize], max_phrases=100),
    total_batch_size=4,
    num_workers=1,
)
dataloader.train.pairs = L(Source)(
    records=L(coco_caption_records)(
        json_file="${coco.json}/captions.json", image_root="${coco.folder}"
    ),
    mapper=L(CaptionMapper)(augmentations=[L(T.Resize)(shape=[224, 224])]),
    total_batch_size=16,
    num_workers=1,
)
dataloader.test.update(dataset=detection.records.copy(), num_workers=0)
model.postprocess.score_threshold = 0.01
optimizer.lr, lr_multiplier.warmup_iterations = 2e-3, 50
# From random weights, the first 800 iterations tell things from background, and no names.
train.update(init_checkpoint=str(SHIPPED / WEIGHTS_NAME), max_iter=5000, device="cpu")
train.update(source_ratios=dict(detection=20, grounding=2, pairs=2))
train.update(source_starts=dict(grounding=800, pairs=800), checkpointer=dict(period=200))
