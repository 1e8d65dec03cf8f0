"""Three images and three categories, two base and one novel, with boxes that a test gives."""

import json

import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, Instances

NAME = "toy_splits"
SPLITS = ("base", "base", "novel")


def register(folder, truths, **image_keys):
    """Write the annotations and set the metadata.

    Args:
        truths: (image, class, XYWH). Categories have ids 11, 12, 13, images 1, 2, 3.
        image_keys: keys of all images.
    """
    content = {
        "images": [{"id": i, "height": 100, "width": 100, **image_keys} for i in (1, 2, 3)],
        "categories": [
            {"id": 11 + n, "name": f"thing {n}", "split": split, "frequency": frequency}
            for n, (split, frequency) in enumerate(zip(SPLITS, "ffr", strict=True))
        ],
        "annotations": [
            {"id": n, "image_id": image, "category_id": 11 + c, "bbox": box,
             "area": box[2] * box[3], "iscrowd": 0}
            for n, (image, c, box) in enumerate(truths, 1)
        ],
    }  # fmt: skip
    path = folder / "truth.json"
    path.write_text(json.dumps(content))
    MetadataCatalog.pop(NAME, None)
    MetadataCatalog.get(NAME).set(
        json_file=str(path),
        thing_dataset_id_to_contiguous_id={11: 0, 12: 1, 13: 2},
        thing_classes=["a", "b", "c"],
    )


def feed(evaluator, found):
    """Pass detections, image -> [(class, score, XYXY)], to an evaluator."""
    for image, of_image in found.items():
        instances = Instances(
            (100, 100),
            pred_boxes=Boxes(torch.tensor([box for _, _, box in of_image]).reshape(-1, 4).float()),
            scores=torch.tensor([score for _, score, _ in of_image]).float(),
            pred_classes=torch.tensor([c for c, _, _ in of_image], dtype=torch.int64),
        )
        evaluator.process([{"image_id": image}], [{"instances": instances}])
    return evaluator
