"""The evaluator of the benchmark, on a toy data set whose metrics are known."""

import pytest

from projects.EmojiScenes.evidence.evaluator import benchmark_evaluator
from tests.helpers import toy_splits


def test_all_measures_of_one_pass_and_ap_of_splits(tmp_path):
    """Class 0 is found perfectly, 1 not at all, 2 in one of its two boxes."""
    truths = [(1, 0, [0, 0, 40, 40]), (1, 1, [50, 50, 40, 40]), (2, 2, [0, 0, 40, 40]),
              (3, 2, [0, 0, 40, 40])]  # fmt: skip
    negative = {"neg_category_ids": [11, 12, 13], "not_exhaustive_category_ids": []}
    toy_splits.register(tmp_path, truths, **negative)
    evaluator = benchmark_evaluator(toy_splits.NAME, output_dir=str(tmp_path / "out"))
    found = {1: [(0, 0.9, [0, 0, 40, 40])], 2: [(2, 0.8, [0, 0, 40, 40])], 3: []}
    results = toy_splits.feed(evaluator, found).evaluate()
    assert set(results) == {"bbox", "bbox_fixed", "box_recall", "names"}
    fixed = results["bbox_fixed"]
    half = 100 * 51 / 101  # of 101 recalls, those up to a half have precision 1
    assert [fixed["AP-base"], fixed["AP50-base"]] == pytest.approx([50] * 2)
    of_novel = [fixed["AP-novel"], fixed["AP50-novel"], fixed["APr"]]
    assert of_novel == pytest.approx([half] * 3)
    assert results["box_recall"]["AR@100"] == pytest.approx(50)
    assert results["names"]["accuracy-novel"] == pytest.approx(50)


def test_a_box_under_many_labels_counts_once_in_recall(tmp_path):
    toy_splits.register(
        tmp_path, [(1, 0, [0, 0, 40, 40]), (1, 1, [50, 50, 40, 40])],
        neg_category_ids=[13], not_exhaustive_category_ids=[],
    )  # fmt: skip
    evaluator = benchmark_evaluator(toy_splits.NAME, max_detections=[2])
    found = [(c, 0.9, [0, 0, 40, 40]) for c in range(3)] + [(1, 0.5, [50, 50, 90, 90])]
    toy_splits.feed(evaluator, {1: found, 2: [], 3: []})
    assert evaluator.evaluate()["box_recall"]["AR@2"] == pytest.approx(100)
