"""Records of data sets, by name."""

import logging
from collections import Counter
from itertools import chain

from tabulate import tabulate
from torch.utils.data import ConcatDataset, Dataset

from detectron2 import _subset
from detectron2.utils.logger import log_first_n

from .catalog import DatasetCatalog, MetadataCatalog
from .detection_utils import check_metadata_consistency

logger = logging.getLogger(__name__)


def get_detection_dataset_dicts(
    names, filter_empty=True, min_keypoints=0, proposal_files=None, check_consistency=True
):
    """The records of one data set or of several, one after the other.

    `filter_empty` drops images without annotations other than crowds.
    `check_consistency` raises ValueError if the data sets do not have the same classes.
    A data set that is a torch `Dataset` already is returned as it is (several: concatenated).
    """
    if min_keypoints > 0 or proposal_files is not None:
        raise NotImplementedError(_subset.not_here("Data sets with keypoints or proposals"))
    names = [names] if isinstance(names, str) else names
    assert len(names), "no data set is named"
    loaded = [DatasetCatalog.get(name) for name in names]
    if isinstance(loaded[0], Dataset):
        return loaded[0] if len(loaded) == 1 else ConcatDataset(loaded)

    for name, records in zip(names, loaded, strict=True):
        assert len(records), f"data set '{name}' is empty"
    records = list(chain.from_iterable(loaded))
    if "annotations" in records[0]:
        if filter_empty:
            records = _with_objects(records)
        class_names = [MetadataCatalog.get(name).get("thing_classes") for name in names]
        if check_consistency and None not in class_names:
            check_metadata_consistency("thing_classes", names)
            _log_instances_per_class(records, class_names[0])
    assert records, f"no image of {', '.join(names)} has an annotation"
    return records


def _with_objects(records):
    kept = [r for r in records if any(not a.get("iscrowd", 0) for a in r["annotations"])]
    skipped = len(records) - len(kept)
    logger.info("%d images without annotations skipped, %d kept", skipped, len(kept))
    return kept


def _log_instances_per_class(records, class_names, classes_per_row=3):
    counts = Counter(
        annotation["category_id"]
        for record in records
        for annotation in record["annotations"]
        if not annotation.get("iscrowd", 0)
    )
    for category_id in counts:
        assert 0 <= category_id < len(class_names), (
            f"an annotation has category_id {category_id}, the data set {len(class_names)} classes"
        )
    cells = list(chain.from_iterable((n, counts[i]) for i, n in enumerate(class_names)))
    width = min(2 * classes_per_row, len(cells))
    rows = [cells[start : start + width] for start in range(0, len(cells), width)]
    headers = ["category", "#instances"] * (width // 2)
    table = tabulate(rows, headers=headers, tablefmt="pipe")
    message = f"{counts.total()} instances of {len(class_names)} classes:\n{table}"
    log_first_n(logging.INFO, message, key="message")
