"""The shipped model on 51 real images with boxes, grounding and captions, to overfit them.

It is evaluated on its training images. `evidence photos overfit` (README.md) prepares the files.
"""

from detectron2.config import LazyCall as L
from detectron2.data import transforms as T

from detclip2 import get_config
from detclip2.data.datasets.captions import coco_caption_records
from detclip2.data.datasets.grounding import mdetr_records
from detclip2.data.hybrid_loader import Source
from detclip2.data.mappers import CaptionMapper, GroundingMapper
from detclip2.utils.model_folder import SHIPPED, WEIGHTS_NAME

_coco = get_config("data/coco.py")
coco, dataloader, inference = _coco.coco, _coco.dataloader, _coco.inference
model = get_config("models/detclipv2.py").nano
optimizer = get_config("optim.py").AdamW
lr_multiplier = get_config("schedules.py").cosine
train = get_config("train.py").train

coco.update(folder="${oc.env:DETCLIP2_TEST_DATA}/coco_open", json="./output/coco_open")
inference.update(min_size=512, max_size=864)  # at 320, half of the small objects are missed
_sides = dict(short_edge_length="${inference.min_size}", max_size="${inference.max_size}")
_images = "${coco.folder}"
resize = L(T.ResizeShortestEdge)(**_sides)
detection = dataloader.train.detection
detection.records.update(json_file="${coco.json}/instances.json", image_root=_images)
detection.mapper.augmentations = [resize]  # no flips: overfitting is the goal
detection.update(total_batch_size=2, num_workers=1)
dataloader.train.grounding = L(Source)(
    records=L(mdetr_records)(json_file="${coco.json}/grounding.json", image_root=_images),
    mapper=L(GroundingMapper)(augmentations=[resize], max_phrases=100),
    total_batch_size=4,
    num_workers=1,
)
dataloader.train.pairs = L(Source)(
    records=L(coco_caption_records)(json_file="${coco.json}/captions.json", image_root=_images),
    mapper=L(CaptionMapper)(augmentations=[L(T.Resize)(shape=[224, 224])]),
    total_batch_size=16,
    num_workers=1,
)
dataloader.test.update(dataset=detection.records.copy(), num_workers=0)
model.postprocess.score_threshold = 0.01
optimizer.lr, lr_multiplier.warmup_iterations = 2e-3, 50
# From random weights, the first 800 iterations distinguish objects from background, but no names.
train.update(init_checkpoint=str(SHIPPED["emoji_nano"] / WEIGHTS_NAME), max_iter=5000, device="cpu")
train.update(source_ratios=dict(detection=20, grounding=2, pairs=2))
train.update(source_starts=dict(grounding=800, pairs=800), checkpointer=dict(period=200))
