"""LVIS v1's two validation splits in Detectron2's catalogs, under their usual names.

Detectron2 registers ``lvis_v1_val``; the stand-in in ``compat/`` does not. Neither registers
``lvis_v1_minival``: 4,809 images of the validation set, chosen for MDETR, on which DetCLIPv2, GLIP
and others report.
"""

import os
from collections.abc import Sequence
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.lvis import register_lvis_instances
from detectron2.utils.file_io import PathManager

from detclip2.data.datasets.detection import detection_records
from detclip2.utils.errors import UserError

ROOT = "DETECTRON2_DATASETS"
"""The environment variable of the folder that has ``lvis/`` and ``coco/``."""
SPLITS = {
    "lvis_v1_minival": "lvis/lvis_v1_minival_inserted_image_name.json",
    "lvis_v1_val": "lvis/lvis_v1_val.json",
}
"""Name -> annotations under `ROOT`, in Detectron2's layout."""


def register_lvis(root: str) -> None:
    """Register the `SPLITS` that are not registered; files are read when the records are needed.

    Args:
        root: the folder that has ``lvis/`` with the annotations and ``coco/`` with ``train2017/``
            and ``val2017/``.
    """
    for name, json_file in SPLITS.items():
        if name not in DatasetCatalog.list():
            # Detectron2 joins the names of folder and image without a slash.
            images = os.path.join(root, "coco", "")
            register_lvis_instances(name, {}, os.path.join(root, json_file), images)


def lvis_set(name: str) -> Sequence[dict[str, Any]]:
    """The records of a split, which is registered if necessary, for configs.

    Args:
        name: a key of `SPLITS`.

    Returns:
        The records of `detclip2.data.datasets.detection.detection_records`.

    Raises:
        UserError: there is no such split, `ROOT` is not set, or the annotations are missing or not
            LVIS's.
    """
    if name not in SPLITS:
        raise UserError(f"{name!r} is no split of LVIS; known: {', '.join(SPLITS)}")
    if os.environ.get(ROOT):
        register_lvis(os.environ[ROOT])
    if name not in DatasetCatalog.list():
        raise UserError(f"{name}: set {ROOT} to the folder that has lvis/ and coco/")
    json_file = MetadataCatalog.get(name).json_file
    if not PathManager.isfile(json_file):
        raise UserError(
            f"{name}: {json_file} is missing; docs/evaluation.md says where to get it and what "
            f"{ROOT} must hold"
        )
    try:
        return detection_records(name)
    except ModuleNotFoundError as error:  # the real Detectron2 reads these files with lvis
        raise UserError(f"{name}: {error}; pip install {error.name}") from error
    except KeyError as error:
        raise UserError(f"{json_file} lacks LVIS's key {error.args[0]!r}") from error
    except (AssertionError, ValueError) as error:
        raise UserError(f"{json_file} is not a json of LVIS: {error}") from error


if os.environ.get(ROOT):  # on import, as Detectron2 registers its own
    register_lvis(os.environ[ROOT])
