"""Results, a dict of tasks, each a dict of metrics: printed, flattened, checked."""

import logging
import math
import pprint
import sys
from collections.abc import Mapping

__all__ = ["flatten_results_dict", "print_csv_format", "verify_results"]

logger = logging.getLogger(__name__)


def print_csv_format(results):
    """Log the metrics of each task as two lines to paste into a table: names, then numbers.

    Metrics of single categories, which have a "-" in their name, are skipped.
    """
    assert isinstance(results, Mapping) or not results, results
    for task, metrics in results.items():
        if not isinstance(metrics, Mapping):
            logger.info("copypaste: %s=%s", task, metrics)
            continue
        main = {name: value for name, value in metrics.items() if "-" not in name}
        logger.info("copypaste: Task: %s", task)
        logger.info("copypaste: %s", ",".join(main))
        logger.info("copypaste: %s", ",".join(f"{value:.4f}" for value in main.values()))


def verify_results(cfg, results):
    """Compare with `cfg.TEST.EXPECTED_RESULTS`, a list of (task, metric, value, tolerance).

    True if all agree; otherwise the process exits with code 1.
    """

    def agrees(task, metric, expected, tolerance):
        actual = results[task].get(metric, math.nan)
        return abs(actual - expected) <= tolerance  # False for NaN

    expected_results = cfg.TEST.EXPECTED_RESULTS
    if not expected_results:
        return True
    if not all(agrees(*row) for row in expected_results):
        logger.error("expected results: %s", expected_results)
        logger.error("but these were found: %s", pprint.pformat(results))
        sys.exit(1)
    logger.info("the results are as expected")
    return True


def flatten_results_dict(results):
    """{"a": {"b": 1}, "c": 2} as {"a/b": 1, "c": 2}, to any depth."""
    flat = {}
    for name, value in results.items():
        if isinstance(value, Mapping):
            inner = flatten_results_dict(value)
            flat.update({f"{name}/{inner_name}": v for inner_name, v in inner.items()})
        else:
            flat[name] = value
    return flat
