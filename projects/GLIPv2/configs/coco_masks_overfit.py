"""GLIPv2 at its nano size on a few images of COCO, to overfit their masks: a check of the whole.

It is evaluated on its training images. Backbone and pyramid are those of the shipped photo_nano,
with its weights. docs/masks.md shows how the two files of `few` are made.
"""

from detectron2.config import LazyCall as L
from detectron2.data import transforms as T

from detclip2 import get_config

_coco = get_config("data/coco.py")
coco, dataloader, inference = _coco.coco, _coco.dataloader, _coco.inference
model = get_config("models/glipv2.py").nano_masks
_photo_nano = get_config("models/photo_nano.py").photo_nano
optimizer = get_config("optim.py").AdamW_glip
lr_multiplier = get_config("schedules.py").cosine
train = get_config("train.py").train

few = dict(json="./output/few/first2.json", weights="./output/few/backbone.safetensors")
coco.folder = "${oc.env:DETCLIP2_TEST_DATA}/coco_open"
inference.update(min_size=256, max_size=384)
model.update(masked_language=None, region_word_contrast=None)
model.head.num_blocks = 1  # enough for a few images
model.backbone = _photo_nano.backbone
model.backbone.bottom_up.frozen = ["conv_stem", "bn1", "blocks"]
model.update(pixel_mean=_photo_nano.pixel_mean, pixel_std=_photo_nano.pixel_std)
detection = dataloader.train.detection
detection.records.update(json_file="${few.json}", image_root="${coco.folder}/val2017", masks=True)
detection.mapper.update(
    augmentations=[
        L(T.ResizeShortestEdge)(
            short_edge_length="${inference.min_size}", max_size="${inference.max_size}"
        )  # no flips: overfitting is the goal
    ],
    keep=["gt_masks"],
)
detection.update(total_batch_size=2, num_workers=0)
dataloader.test.update(dataset=detection.records.copy(), num_workers=0)
dataloader.evaluator.tasks = ["bbox", "segm"]
optimizer.lr, lr_multiplier.warmup_iterations = 2e-3, 20
optimizer.params.lr_factor_func.functions[0].factor = 1.0  # the text model is not pretrained
train.update(init_checkpoint="${few.weights}", max_iter=160, clip_grad=1.0, device="cpu")
