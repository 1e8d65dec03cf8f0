"""Isotonic maps, thresholds and the calibration error against slow references."""

import itertools

import numpy as np
import pytest

from detclip2.inference.calibration import (
    BINS,
    GRID,
    MIN_BOXES,
    Calibration,
    Outcomes,
    Reliability,
    cross_fitted,
    fit,
    isotonic,
)


def outcomes(number=400, num_labels=3, seed=0, share=lambda s, _: s**2, images=40):
    """Detections whose share of right ones is known; every right one is of another box."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(num_labels, size=number)
    scores, in_image = rng.uniform(size=number), rng.integers(images, size=number)
    right = rng.uniform(size=number) < share(scores, labels)
    return Outcomes(in_image, labels, scores, right, in_image[right], labels[right])


def slow_isotonic(scores, right):
    """The steps by the minimax formula, joined from middle to middle."""
    groups = {}  # of five, from the best one; equal scores together
    for score in sorted(set(scores)):
        groups.setdefault(np.ceil(sum(scores >= score) / 5), []).append(score)
    groups = [np.isin(scores, levels) for _, levels in sorted(groups.items(), reverse=True)]

    def mean(first, last):
        return right[np.any(groups[first : last + 1], axis=0)].mean()

    fitted = [
        max(min(mean(first, last) for last in range(i, len(groups))) for first in range(i + 1))
        for i in range(len(groups))
    ]
    middles, values = [], []
    for value, members in itertools.groupby(range(len(groups)), lambda i: round(fitted[i], 9)):
        middles.append(scores[np.any([groups[i] for i in members], axis=0)].mean())
        values.append(value)
    return np.interp(GRID, middles, values)


@pytest.mark.parametrize("seed", range(3))
def test_isotonic_equals_the_minimax_formula(seed):
    rng = np.random.default_rng(seed)
    scores = rng.integers(1, 30, size=60) / 31  # some are equal
    right = (rng.uniform(size=60) < scores).astype(float)
    np.testing.assert_allclose(isotonic(scores, right), slow_isotonic(scores, right), atol=1e-6)


@pytest.mark.parametrize(
    ("scores", "right"),
    [
        ([], []),
        ([0.3], [1]),
        ([0.3], [0]),
        ([0.0, 1.0], [1, 0]),
        ([0.4] * 5, [1, 0, 1, 0, 0]),
        (np.linspace(0, 1, 30), np.ones(30)),
        (np.linspace(0, 1, 30), np.zeros(30)),
        (np.linspace(0, 1, 30), np.linspace(1, 0, 30) > 0.5),
    ],
)
def test_maps_of_degenerate_outcomes_are_maps(scores, right):
    found = isotonic(scores, right)
    assert Calibration(found[None], (0,)).fault(1) == ""
    if len(set(scores)) == 1:
        at = Calibration(found[None], (0,))([scores[0]], [0])
        assert at == pytest.approx(np.mean(right))


def test_a_known_share_is_found_and_new_detections_are_calibrated():
    def share(scores, labels):
        return np.where(labels == 0, scores**2, scores / 2)

    calibration, _ = fit(outcomes(40_000, share=share), 3)
    assert calibration.map_of_label == (1, 2, 3)
    scores = np.linspace(0.1, 0.9, 9)
    for label in range(3):
        found = calibration(scores, np.full(9, label))
        np.testing.assert_allclose(found, share(scores, label), atol=0.08)
    new = outcomes(9000, seed=1, share=share)
    before = Reliability.of(new.scores, new.right).error
    after = Reliability.of(calibration(new.scores, new.labels), new.right).error
    assert before > 0.15
    assert after < 0.03


def test_labels_with_few_boxes_have_the_pooled_map():
    def share(scores, labels):
        return np.where(labels == 2, 0.0, scores)  # the third has no right one

    some = outcomes(300, 3, share=share)
    calibration, thresholds = fit(some, 5)
    assert calibration.map_of_label == (1, 2, 0, 0, 0)  # the last two have no detection either
    np.testing.assert_array_equal(calibration.maps[0], isotonic(some.scores, some.right))
    assert thresholds[2] == thresholds[3] == thresholds[4]
    for number, own in ((MIN_BOXES - 1, 0), (MIN_BOXES, 1)):
        all_right = fit(outcomes(number, 1, share=lambda s, _: s + 1), 1)[0]
        assert all_right.map_of_label == (own,)
        many_wrong = fit(outcomes(30 * number, 1, share=lambda s, _: s > 1), 1)[0]
        assert many_wrong.map_of_label == (0,)


def test_the_pooled_map_decides_where_a_label_has_hardly_any_detection():
    many = outcomes(20_000, 1, share=lambda s, _: s)
    rng = np.random.default_rng(1)
    scores = np.concatenate([rng.uniform(0.1, 0.3, 400), [0.8, 0.81]])
    right = np.concatenate([rng.uniform(size=400) < 0.6, [True, True]])
    images, labels = np.arange(402), np.ones(402, np.int64)
    both = Outcomes(
        np.r_[many.images, images],
        np.r_[many.labels, labels],
        np.r_[many.scores, scores],
        np.r_[many.right, right],
        np.r_[many.box_images, images[right]],
        np.r_[many.box_labels, labels[right]],
    )
    calibration, _ = fit(both, 2)
    assert calibration.map_of_label == (1, 2)
    assert calibration([0.2], [1]) == pytest.approx(0.6, abs=0.1)  # its own
    assert 0.75 < calibration([0.8], [1])[0] < 0.95  # two right ones do not make it certain


@pytest.mark.parametrize("precision", [0.5, 0.7, 0.9])
def test_thresholds_reach_the_precision_with_the_most_detections(precision):
    some = outcomes(3000, 2)
    calibration, thresholds = fit(some, 2, precision)
    for label, threshold in enumerate(thresholds):
        calibrated = calibration(
            some.scores[some.labels == label], [label] * sum(some.labels == label)
        )
        assert calibrated[calibrated >= threshold].mean() >= precision
        lower = calibrated[calibrated < threshold].max(initial=0)
        assert calibrated[calibrated >= lower].mean() < precision
        # The fit keeps the number of right ones of each step.
        right = some.right[some.labels == label][calibrated >= threshold].mean()
        assert right == pytest.approx(precision, abs=0.05)


def test_without_a_precision_the_threshold_has_the_best_f1():
    some = outcomes(600, 1)
    calibration, (threshold,) = fit(some, 1)
    calibrated = calibration(some.scores, some.labels)

    def f1(least):
        kept = calibrated[calibrated >= least]
        return 2 * kept.sum() / (len(kept) + len(some.box_labels))

    assert f1(threshold) == pytest.approx(max(map(f1, calibrated)))


def test_a_precision_that_no_score_reaches_keeps_nothing():
    some = outcomes(600, 1, share=lambda s, _: s / 2)
    calibration, (threshold,) = fit(some, 1, 0.95)
    assert threshold == 1
    assert calibration(some.scores, some.labels).max() < 1


def test_equal_scores_are_kept_together():
    scores = np.array([0.9] * 30 + [0.5] * 30)
    right = np.array([True] * 30 + [True] * 15 + [False] * 15)
    at, labels = np.arange(60), np.zeros(60, np.int64)
    some = Outcomes(at, labels, scores, right, at[right], labels[right])
    for precision in (0.7, 0.8):
        calibration, (threshold,) = fit(some, 1, precision)
        kept = calibration(scores, labels) >= threshold
        assert kept.sum() == (60 if precision == 0.7 else 30)


def test_the_other_half_calibrates():
    some = outcomes(800, 2)
    first = some.images % 2 == 0
    changed = Outcomes(
        some.images, some.labels, some.scores, some.right ^ first, some.box_images, some.box_labels
    )
    (scores, _), (others, _) = cross_fitted(some, 2), cross_fitted(changed, 2)
    np.testing.assert_array_equal(scores[first], others[first])
    assert (scores[~first] != others[~first]).mean() > 0.9
    half, thresholds = fit(some.of_half(1), 2, 0.5)
    scores, kept = cross_fitted(some, 2, 0.5)
    expected = half(some.scores[first], some.labels[first])
    np.testing.assert_array_equal(scores[first], expected)
    np.testing.assert_array_equal(kept[first], expected >= np.array(thresholds)[some.labels[first]])


def test_cross_fitting_with_an_empty_half():
    some = outcomes(50, 1, images=1)
    scores, kept = cross_fitted(some, 1, 0.5)
    np.testing.assert_allclose(scores, some.scores, atol=1e-6)  # nothing is known: as they were
    assert not kept.any()


def test_the_error_is_the_mean_distance_of_scores_and_shares():
    scores = [0.05, 0.05, 0.95, 0.95, 0.95, 0.95]
    right = [0, 1, 1, 1, 1, 0]
    found = Reliability.of(scores, right)
    assert found.counts.tolist() == [2] + [0] * (BINS - 2) + [4]
    assert found.error == pytest.approx((2 * 0.45 + 4 * 0.2) / 6)
    assert Reliability.of([1.0, 0.0], [1, 0]).error == 0
    assert np.isnan(Reliability.of([], []).error)


def test_no_detection_below_the_least_score_is_reported():
    rng = np.random.default_rng(0)
    maps = np.sort(rng.uniform(size=(4, len(GRID))).astype(np.float32), axis=1)
    maps[3] = 0  # reaches nothing
    calibration = Calibration(maps, (0, 1, 2, 3, 1))
    scores, labels = rng.uniform(size=4000), rng.integers(5, size=4000)
    calibrated = calibration(scores, labels)
    for least in ([0.5, 0.7, 0.9, 0.1, 0.99], [0.0] * 5, [1.0] * 5):
        reached = calibrated >= np.array(least)[labels]
        floor = calibration.least_score(least)
        assert not reached[scores < floor].any()
        if reached.any():
            assert scores[reached].min() - floor < 0.011


def test_a_map_keeps_the_order_of_a_label():
    calibration, _ = fit(outcomes(500, 2), 2)
    scores = np.linspace(0, 1, 5000)
    for label in (0, 1):
        assert (np.diff(calibration(scores, np.full(5000, label))) >= 0).all()


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"maps": np.zeros((0, 101), np.float32)}, "have the shape"),
        ({"maps": np.zeros((1, 7), np.float32)}, "have the shape"),
        ({"maps": GRID[None, ::-1]}, "not monotone"),
        ({"maps": GRID[None] * 2}, "not monotone"),
        ({"maps": np.full((1, 101), np.nan)}, "not monotone"),
        ({"map_of_label": (0,)}, "one map for each of its 2"),
        ({"map_of_label": (0, 1)}, "do not all have one of its 1 maps"),
        ({"map_of_label": (0, -1)}, "do not all have"),
        ({"map_of_label": (0, True)}, "do not all have"),
        ({"map_of_label": 3}, "one map for each"),
    ],
)
def test_faults_of_values_from_a_file(change, fault):
    good = {"maps": GRID[None].astype(np.float32), "map_of_label": (0, 0)}
    assert Calibration(**good).fault(2) == ""
    assert fault in Calibration(**(good | change)).fault(2)


def test_a_label_with_few_detections_has_the_pooled_map():
    def outcomes(detections):
        return Outcomes(
            images=np.zeros(detections, np.int64),
            labels=np.zeros(detections, np.int64),
            scores=np.linspace(0.1, 0.9, detections),
            right=np.ones(detections, bool),
            box_images=np.zeros(MIN_BOXES, np.int64),
            box_labels=np.zeros(MIN_BOXES, np.int64),
        )

    assert fit(outcomes(MIN_BOXES), 1)[0].map_of_label == (1,)
    assert fit(outcomes(MIN_BOXES - 1), 1)[0].map_of_label == (0,)
