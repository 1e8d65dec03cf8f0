"""The evaluator of the benchmark, on a toy data set whose metrics are known."""

import json

import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, Instances

from projects.EmojiScenes.evidence.evaluator import benchmark_evaluator

SPLITS = ("base", "base", "novel")


def write_truth(folder, truths, **image_keys):
    """Truths: (image, class, XYWH). Categories have ids 11, 12, 13."""
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
    (folder / "truth.json").write_text(json.dumps(content))


@pytest.fixture
def dataset(tmp_path):
    name = "benchmark_toy"
    if name in MetadataCatalog:
        MetadataCatalog.remove(name)
    MetadataCatalog.get(name).set(json_file=str(tmp_path / "truth.json"))
    yield name
    MetadataCatalog.remove(name)


def instances(found):
    """Found: (class, score, XYXY)."""
    return Instances(
        (100, 100),
        pred_boxes=Boxes(torch.tensor([box for _, _, box in found]).reshape(-1, 4).float()),
        scores=torch.tensor([score for _, score, _ in found]).float(),
        pred_classes=torch.tensor([c for c, _, _ in found], dtype=torch.int64),
    )


def test_all_measures_of_one_pass_and_ap_of_splits(tmp_path, dataset):
    """Class 0 is found perfectly, 1 not at all, 2 in one of its two boxes."""
    truths = [(1, 0, [0, 0, 40, 40]), (1, 1, [50, 50, 40, 40]), (2, 2, [0, 0, 40, 40]),
              (3, 2, [0, 0, 40, 40])]  # fmt: skip
    write_truth(tmp_path, truths, neg_category_ids=[11, 12, 13], not_exhaustive_category_ids=[])
    MetadataCatalog.get(dataset).set(
        thing_dataset_id_to_contiguous_id={11: 0, 12: 1, 13: 2}, thing_classes=["a", "b", "c"]
    )
    evaluator = benchmark_evaluator(dataset, output_dir=str(tmp_path / "out"))
    found = {1: [(0, 0.9, [0, 0, 40, 40])], 2: [(2, 0.8, [0, 0, 40, 40])], 3: []}
    for image, of_image in found.items():
        evaluator.process([{"image_id": image}], [{"instances": instances(of_image)}])
    results = evaluator.evaluate()
    assert set(results) == {"bbox", "bbox_fixed", "box_recall", "names"}
    fixed = results["bbox_fixed"]
    half = 100 * 51 / 101  # of 101 recalls, those up to a half have precision 1
    assert [fixed["AP-base"], fixed["AP50-base"]] == pytest.approx([50] * 2)
    of_novel = [fixed["AP-novel"], fixed["AP50-novel"], fixed["APr"]]
    assert of_novel == pytest.approx([half] * 3)
    assert results["box_recall"]["AR@100"] == pytest.approx(50)
    assert results["names"]["accuracy-novel"] == pytest.approx(50)


def test_a_box_under_many_labels_counts_once_in_recall(tmp_path, dataset):
    write_truth(
        tmp_path, [(1, 0, [0, 0, 40, 40]), (1, 1, [50, 50, 40, 40])],
        neg_category_ids=[13], not_exhaustive_category_ids=[],
    )  # fmt: skip
    MetadataCatalog.get(dataset).set(
        thing_dataset_id_to_contiguous_id={11: 0, 12: 1, 13: 2}, thing_classes=["a", "b", "c"]
    )
    evaluator = benchmark_evaluator(dataset, max_detections=[2])
    found = [(c, 0.9, [0, 0, 40, 40]) for c in range(3)] + [(1, 0.5, [50, 50, 90, 90])]
    for image in (1, 2, 3):
        of_image = found if image == 1 else []
        evaluator.process([{"image_id": image}], [{"instances": instances(of_image)}])
    assert evaluator.evaluate()["box_recall"]["AR@2"] == pytest.approx(100)
