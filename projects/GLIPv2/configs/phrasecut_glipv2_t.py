"""GLIPv2-T: the mask head on PhraseCut, 8 epochs, all else frozen; mean IoU on its test split.

From a detector of the same config: ``train.init_checkpoint=FILE``. The folder has refer_train.json,
refer_test.json, image_data_split.json and images/. The paper's threshold of scores is not known.
"""

from detectron2.config import LazyCall as L

from detclip2 import get_config
from detclip2.data.datasets.phrasecut import PhraseCut
from detclip2.data.hybrid_loader import HybridLoader, Source
from detclip2.data.mappers import GroundingMapper
from detclip2.engine.solver import schedule_of_epochs
from detclip2.evaluation.referring_segmentation import (
    ReferringSegmentationEvaluator,
    referring_set,
)

from .coco_glipv2_t_masks import augmentations, lr_multiplier, model, optimizer, train

dataloader, inference = get_config("data/flickr30k_entities.py", ("dataloader", "inference"))

phrasecut = dict(folder="${oc.env:DETECTRON2_DATASETS}/phrasecut", split="test")
images = dict(phrases=310_816)
dataloader.train = L(HybridLoader)(
    seed="${train.seed}",
    phrases=L(Source)(
        records=L(PhraseCut)(folder="${phrasecut.folder}", split="train"),
        mapper=L(GroundingMapper)(
            augmentations=augmentations, max_phrases=100, keep=["phrase_spans", "gt_masks"]
        ),
        total_batch_size=64,
        num_workers=4,
    ),
)
dataloader.test.dataset = L(referring_set)(
    name="phrasecut_${phrasecut.split}",
    records=L(PhraseCut)(folder="${phrasecut.folder}", split="${phrasecut.split}"),
)
dataloader.test.mapper.whole_captions = True
dataloader.evaluator = L(ReferringSegmentationEvaluator)(
    dataset_name="${..test.dataset.name}", output_dir="${train.output_dir}/inference"
)
train.update(schedule_of_epochs(images, dataloader.train, epochs=8))
