import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator, DatasetEvaluators
from detectron2.structures import Boxes, BoxMode, Instances

from detclip2.data.emojiscenes.sets import validation_set
from detclip2.evaluation.lvis import LVISFixedAPEvaluator


def noisy_detections(record, num_classes, rng):
    """Most of the true boxes, slightly moved, some with a wrong class, and a few false alarms."""
    boxes, classes = [], []
    for annotation in record["annotations"]:
        if rng.random() < 0.9:
            xyxy = BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS)
            boxes.append(np.asarray(xyxy) + rng.normal(0, 2, 4))
            wrong = rng.random() < 0.2
            classes.append(rng.integers(num_classes) if wrong else annotation["category_id"])
    for _ in range(3):
        corner = rng.uniform(0, 60, 2)
        boxes.append(np.concatenate([corner, corner + rng.uniform(5, 30, 2)]))
        classes.append(rng.integers(num_classes))
    return Instances(
        (record["height"], record["width"]),
        pred_boxes=Boxes(torch.tensor(np.array(boxes), dtype=torch.float32)),
        pred_classes=torch.tensor(np.array(classes)),
        scores=torch.tensor(rng.random(len(boxes)), dtype=torch.float32),
    )


def test_coco_and_lvis_ap_are_equal_on_exhaustive_boxes(tmp_path):
    """EmojiScenes is boxed exhaustively, so LVIS's federated AP equals COCO's AP on it."""
    name = "emoji_val_of_two_evaluators"
    records = validation_set(name, tmp_path / "data", world=10, count=12, size=96)
    metadata = MetadataCatalog.get(name)
    metadata.thing_dataset_id_to_contiguous_id = {i + 1: i for i in range(10)}
    coco = COCOEvaluator(name, tasks=["bbox"], output_dir=str(tmp_path / "coco"))
    lvis = LVISFixedAPEvaluator(name, tasks=["bbox"], output_dir=str(tmp_path / "lvis"))
    both = DatasetEvaluators([coco, lvis])
    both.reset()
    rng = np.random.default_rng(0)
    for record in records:
        detections = noisy_detections(record, len(metadata.thing_classes), rng)
        both.process([record], [{"instances": detections}])
    by_coco, by_lvis = coco.evaluate()["bbox"], lvis.evaluate()["bbox"]
    assert 10 < by_coco["AP"] < 90
    for metric in ("AP", "AP50", "AP75"):
        assert by_coco[metric] == pytest.approx(by_lvis[metric], abs=1e-6)
