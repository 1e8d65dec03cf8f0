"""The splits of LVIS in Detectron2's catalogs, from annotations in its layout of folders."""

import json
import os
import subprocess
import sys

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from detclip2.data.datasets.detection import category_names
from detclip2.data.datasets.lvis import SPLITS, lvis_set, register_lvis
from detclip2.utils.errors import UserError

CONTENT = {
    "images": [
        {
            "id": 7,
            "height": 60,
            "width": 80,
            "coco_url": "http://images.cocodataset.org/val2017/000000000007.jpg",
            "neg_category_ids": [2],
            "not_exhaustive_category_ids": [],
        }
    ],
    "annotations": [
        {
            "id": 1,
            "image_id": 7,
            "category_id": 1,
            "bbox": [1, 2, 30, 40],
            "area": 1200,
            "segmentation": [[1, 2, 31, 2, 31, 42]],
        }
    ],
    "categories": [
        {"id": 1, "name": "aerosol_can", "synonyms": ["aerosol_can", "spray_can"]},
        {"id": 2, "name": "air_conditioner", "synonyms": ["air_conditioner"]},
    ],
}


def forget():
    """Detectron2 has registered lvis_v1_val for its own folder."""
    for name in SPLITS:
        for catalog in (DatasetCatalog, MetadataCatalog):
            catalog.pop(name, None)


@pytest.fixture
def root(tmp_path, monkeypatch):
    forget()
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    for json_file in SPLITS.values():
        path = tmp_path / json_file
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(CONTENT))
    yield tmp_path
    forget()


@pytest.mark.parametrize("name", ["lvis_v1_minival", "lvis_v1_val"])
def test_records_of_a_split(root, name):
    (record,) = lvis_set(name)
    assert record["file_name"] == str(root / "coco" / "val2017" / "000000000007.jpg")
    assert record["image_id"] == 7
    assert record["annotations"][0]["bbox"] == [1, 2, 30, 40]
    assert "segmentation" not in record["annotations"][0]
    assert category_names(name)[:2] == ["aerosol can", "air conditioner"]
    assert MetadataCatalog.get(name).evaluator_type == "lvis"
    assert list(lvis_set(name)) == [record]  # a config can be built twice


def test_existing_registrations_are_kept(root):
    DatasetCatalog.register("lvis_v1_val", lambda: ["mine"])
    register_lvis(str(root))
    register_lvis(str(root))
    assert DatasetCatalog.get("lvis_v1_val") == ["mine"]
    assert "lvis_v1_minival" in DatasetCatalog.list()


@pytest.mark.processes
def test_import_registers(tmp_path):
    code = (
        "import detclip2.data.datasets.lvis as lvis; from detectron2.data import MetadataCatalog\n"
        "for name in lvis.SPLITS: print(MetadataCatalog.get(name).json_file)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "DETECTRON2_DATASETS": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.split() == [str(tmp_path / path) for path in SPLITS.values()]


def test_a_missing_file_is_named(root):
    (root / SPLITS["lvis_v1_minival"]).unlink()
    with pytest.raises(UserError, match=r"inserted_image_name\.json is missing; .*evaluation\.md"):
        lvis_set("lvis_v1_minival")


def test_a_missing_folder_is_named(root, monkeypatch):
    monkeypatch.delenv("DETECTRON2_DATASETS")
    with pytest.raises(UserError, match="DETECTRON2_DATASETS"):
        lvis_set("lvis_v1_minival")


def test_other_splits_are_refused():
    with pytest.raises(UserError, match="lvis_v1_minival, lvis_v1_val"):
        lvis_set("lvis_v1_test")


@pytest.mark.parametrize("key", ["images", "annotations", "categories"])
def test_a_missing_key_is_named(root, key):
    content = {k: v for k, v in CONTENT.items() if k != key}
    path = root / SPLITS["lvis_v1_minival"]
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=repr(key)) as error:
        lvis_set("lvis_v1_minival")
    assert str(path) in str(error.value)
