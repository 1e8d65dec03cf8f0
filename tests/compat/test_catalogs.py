import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

NAME = "contract_catalog"


@pytest.fixture(autouse=True)
def _clean():
    yield
    DatasetCatalog.pop(NAME, None)
    MetadataCatalog.pop(NAME, None)


def test_loader_runs_at_each_get():
    calls = []
    DatasetCatalog.register(NAME, lambda: calls.append(1) or [{"image_id": len(calls)}])
    assert NAME in DatasetCatalog
    assert NAME in DatasetCatalog.list()
    assert calls == []
    assert DatasetCatalog.get(NAME) == [{"image_id": 1}]
    assert DatasetCatalog.get(NAME) == [{"image_id": 2}]
    DatasetCatalog.remove(NAME)
    assert NAME not in DatasetCatalog


def test_unknown_name_is_named_in_the_error():
    with pytest.raises(KeyError, match="no_such_data_set"):
        DatasetCatalog.get("no_such_data_set")
    with pytest.raises(KeyError):
        DatasetCatalog.remove("no_such_data_set")


def test_registration_is_checked():
    with pytest.raises(AssertionError):
        DatasetCatalog.register(NAME, [])
    DatasetCatalog.register(NAME, list)
    with pytest.raises(AssertionError, match=NAME):
        DatasetCatalog.register(NAME, list)


def test_metadata_is_one_object_that_is_set_once():
    metadata = MetadataCatalog.get(NAME)
    assert metadata.name == NAME
    assert MetadataCatalog.get(NAME) is metadata
    assert metadata.set(thing_classes=["cat"], json_file="a.json") is metadata
    metadata.thing_classes = ["cat"]
    with pytest.raises(AssertionError, match="thing_classes"):
        metadata.thing_classes = ["dog"]
    assert metadata.thing_classes == ["cat"]
    assert metadata.as_dict() == {"name": NAME, "thing_classes": ["cat"], "json_file": "a.json"}
    metadata.as_dict()["other"] = 1
    assert not hasattr(metadata, "other")


def test_missing_metadata():
    metadata = MetadataCatalog.get(NAME)
    assert metadata.get("thing_classes") is None
    assert metadata.get("thing_classes", []) == []
    with pytest.raises(AttributeError, match="thing_classes"):
        metadata.thing_classes  # noqa: B018
    with pytest.raises(AssertionError):
        MetadataCatalog.get("")
    MetadataCatalog.remove(NAME)
    assert NAME not in MetadataCatalog.list()
