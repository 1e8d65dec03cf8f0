"""Data sets around lists and functions, the loaders, and the mapper from records to samples."""

import copy
import pickle
from itertools import islice

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import (
    DatasetCatalog,
    DatasetFromList,
    DatasetMapper,
    MapDataset,
    MetadataCatalog,
    build_batch_data_loader,
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.data import transforms as T
from detectron2.data.samplers import InferenceSampler, TrainingSampler
from detectron2.structures import BoxMode
from PIL import Image
from torch.utils.data import IterableDataset

NAME, OTHER = "contract_loader", "contract_loader_2"


@pytest.fixture(autouse=True)
def _clean():
    yield
    for name in (NAME, OTHER):
        DatasetCatalog.pop(name, None)
        MetadataCatalog.pop(name, None)


class Numbers(IterableDataset):
    def __init__(self, stop):
        self.stop = stop

    def __iter__(self):
        return iter(range(self.stop))


@pytest.mark.parametrize("serialize", [True, False])
def test_list_hands_out_copies(serialize):
    items = [{"boxes": [1, 2]}, {"boxes": np.arange(3)}, None]
    dataset = DatasetFromList(items, serialize=serialize)
    assert len(dataset) == 3
    dataset[0]["boxes"].append(3)
    assert dataset[0] == {"boxes": [1, 2]}
    assert np.array_equal(dataset[1]["boxes"], [0, 1, 2])
    assert dataset[2] is None


def test_list_unserialized_or_with_a_custom_serializer():
    items = [[1], [2]]
    assert DatasetFromList(items, copy=False, serialize=False)[0] is items[0]
    assert torch.equal(DatasetFromList([1, 2], serialize=torch.tensor)[1], torch.tensor(2))
    with pytest.raises(TypeError):
        DatasetFromList(items, serialize="yes")


def test_map_replaces_a_refused_element():
    dataset = MapDataset(DatasetFromList(list(range(10))), lambda x: x * 10 if x % 2 else None)
    assert len(dataset) == 10
    assert [dataset[i] for i in (1, 3)] == [10, 30]
    assert {dataset[i] for i in (0, 2, 4)} <= {10, 30, 50, 70, 90}
    assert dataset[0] is not None
    with pytest.raises(ValueError):  # noqa: PT011
        MapDataset(DatasetFromList([1]), lambda x: None)[0]


def test_map_skips_refused_elements_of_an_iterable():
    dataset = MapDataset(Numbers(5), lambda x: None if x == 3 else x + 1)
    assert isinstance(dataset, IterableDataset)
    assert list(dataset) == [1, 2, 3, 5]


def test_map_of_a_lambda_can_be_pickled():
    dataset = MapDataset(DatasetFromList([1, 2, 3]), lambda x: x * 2)
    assert pickle.loads(pickle.dumps(dataset))[2] == 6
    iterable = pickle.loads(pickle.dumps(MapDataset(Numbers(3), lambda x: x * 2)))
    assert list(iterable) == [0, 2, 4]


def test_train_loader_is_endless_and_the_same_for_any_number_of_workers():
    def batches(num_workers):
        loader = build_detection_train_loader(
            list(range(10)),
            mapper=lambda x: x + 100,
            sampler=TrainingSampler(10, seed=0),
            total_batch_size=3,
            aspect_ratio_grouping=False,
            num_workers=num_workers,
        )
        return list(islice(loader, 12))

    alone = batches(0)
    indices = islice(TrainingSampler(10, seed=0), 36)
    assert [x - 100 for batch in alone for x in batch] == list(indices)
    assert batches(2) == alone


def test_train_loader_groups_by_aspect_ratio():
    records = [{"width": 1 + i % 2, "height": 2 - i % 2, "id": i} for i in range(9)]
    loader = build_detection_train_loader(
        records, mapper=None, total_batch_size=4, collate_fn=lambda batch: tuple(batch)
    )
    for batch in islice(loader, 20):
        assert isinstance(batch, tuple)
        assert len(batch) == 4
        assert len({sample["id"] % 2 for sample in batch}) == 1


def test_train_loader_of_an_iterable():
    build = build_detection_train_loader
    options = {"total_batch_size": 2, "aspect_ratio_grouping": False}
    loader = build(Numbers(5), mapper=lambda x: -x, **options)
    assert list(loader) == [[0, -1], [-2, -3]]
    assert list(build(Numbers(4), mapper=None, collate_fn=sum, **options)) == [1, 5]
    with pytest.raises(AssertionError):
        build(Numbers(5), mapper=None, sampler=TrainingSampler(5), **options)
    with pytest.raises(AssertionError):
        build([1, 2], mapper=None, sampler=[0, 1], **options)


def test_batch_is_shared_by_processes(monkeypatch):
    for module in ("detectron2.utils.comm", build_batch_data_loader.__module__):
        monkeypatch.setattr(f"{module}.get_world_size", lambda: 2)
    sampler = TrainingSampler(9, seed=0)
    options = {"mapper": None, "aspect_ratio_grouping": False, "sampler": sampler}
    loader = build_detection_train_loader(list(range(9)), total_batch_size=6, **options)
    assert len(next(iter(loader))) == 3
    with pytest.raises(AssertionError):
        build_detection_train_loader(list(range(9)), total_batch_size=5, **options)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_test_loader_gives_each_record_once(num_workers, batch_size):
    loader = build_detection_test_loader(
        list(range(10)), mapper=lambda x: -x, num_workers=num_workers, batch_size=batch_size
    )
    batches = list(loader)
    assert len(loader) == len(batches) == -(-10 // batch_size)
    assert [-x for batch in batches for x in batch] == list(range(10))
    with pytest.raises(AssertionError):
        build_detection_test_loader(Numbers(3), mapper=None, sampler=InferenceSampler(3))


@pytest.fixture
def records(tmp_path):
    rng = np.random.default_rng(0)
    records = []
    for image_id in range(4):
        pixels = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{image_id}.png")
        box = {"bbox": [2, 4, 10, 5], "bbox_mode": BoxMode.XYWH_ABS, "category_id": image_id % 2}
        annotations = [[box], [], [{**box, "iscrowd": 1}], [box, {**box, "iscrowd": 1}]][image_id]
        records.append(
            {
                "file_name": str(tmp_path / f"{image_id}.png"),
                "image_id": image_id,
                "height": 20,
                "width": 30,
                "annotations": annotations,
            }
        )
    return records


def register(name, records, classes=("cat", "dog")):
    DatasetCatalog.register(name, lambda: copy.deepcopy(records))
    MetadataCatalog.get(name).thing_classes = list(classes)


def ids(records):
    return [record["image_id"] for record in records]


def test_records_of_data_sets(records):
    register(NAME, records)
    register(OTHER, records[:2])
    assert ids(get_detection_dataset_dicts(NAME)) == [0, 3]
    assert ids(get_detection_dataset_dicts([NAME], filter_empty=False)) == [0, 1, 2, 3]
    assert ids(get_detection_dataset_dicts((NAME, OTHER))) == [0, 3, 0]
    with pytest.raises(AssertionError):
        get_detection_dataset_dicts([])
    with pytest.raises(KeyError):
        get_detection_dataset_dicts("no_such_data_set")


def test_records_that_cannot_be_used(records):
    register(NAME, records)
    register(OTHER, records, classes=("cat", "bird"))
    with pytest.raises(ValueError, match="thing_classes"):
        get_detection_dataset_dicts([NAME, OTHER])
    assert len(get_detection_dataset_dicts([NAME, OTHER], check_consistency=False)) == 4
    for unusable in ([], records[1:3]):
        DatasetCatalog.pop(OTHER)
        DatasetCatalog.register(OTHER, lambda unusable=unusable: unusable)
        with pytest.raises(AssertionError, match=OTHER):
            get_detection_dataset_dicts(OTHER)


def test_class_out_of_range(records):
    register(NAME, records, classes=("cat",))
    with pytest.raises(AssertionError):
        get_detection_dataset_dicts(NAME)


def test_torch_data_set_in_the_catalog():
    DatasetCatalog.register(NAME, lambda: Numbers(6))
    assert isinstance(get_detection_dataset_dicts(NAME), Numbers)
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = (NAME,)
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.DATALOADER.NUM_WORKERS = 0
    loader = build_detection_train_loader(cfg, mapper=lambda x: x, aspect_ratio_grouping=False)
    assert list(loader) == [[0, 1], [2, 3], [4, 5]]
    loader = build_detection_test_loader(cfg, NAME, mapper=lambda x: x)
    assert list(loader) == [[0], [1], [2], [3], [4], [5]]


def test_mapper_in_training(records):
    before = copy.deepcopy(records[3])
    resize, flip = T.ResizeTransform(20, 30, 40, 60), T.HFlipTransform(60)
    mapper = DatasetMapper(True, augmentations=[resize, flip], image_format="BGR")
    sample = mapper(records[3])
    assert records[3] == before
    image = np.asarray(Image.open(records[3]["file_name"]).resize((60, 40), Image.BILINEAR))
    assert sample["image"].dtype == torch.uint8
    assert np.array_equal(sample["image"].permute(1, 2, 0).numpy(), image[:, ::-1, ::-1])
    assert (sample["height"], sample["width"], sample["image_id"]) == (20, 30, 3)
    assert "annotations" not in sample
    instances = sample["instances"]
    assert instances.image_size == (40, 60)
    assert instances.gt_boxes.tensor.tolist() == [[36, 8, 56, 18]]
    assert instances.gt_classes.tolist() == [1]


def test_mapper_in_inference(records):
    sample = DatasetMapper(False, augmentations=[T.Resize(10)], image_format="RGB")(records[0])
    assert sample["image"].shape == (3, 10, 10)
    assert "instances" not in sample
    assert "annotations" not in sample


def test_mapper_reports_a_wrong_size(records):
    mapper = DatasetMapper(True, augmentations=[], image_format="RGB")
    with pytest.raises(ValueError, match=r"0\.png"):
        mapper({**records[0], "height": 21})


def test_loaders_of_a_config(records):
    register(NAME, records)
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = (NAME,)
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.INPUT.MIN_SIZE_TRAIN = (10, 16)
    cfg.INPUT.MIN_SIZE_TEST = 12
    cfg.INPUT.CROP.ENABLED = True
    cfg.SEED = 3
    for sampler in ("TrainingSampler", "RepeatFactorTrainingSampler"):
        cfg.DATALOADER.SAMPLER_TRAIN = sampler
        cfg.DATALOADER.REPEAT_THRESHOLD = 0.5
        for batch in islice(build_detection_train_loader(cfg), 3):
            assert len(batch) == 2
            assert {min(sample["image"].shape[1:]) for sample in batch} <= {10, 16}
            assert all(sample["image_id"] in (0, 3) for sample in batch)
    tested = [batch[0] for batch in build_detection_test_loader(cfg, NAME)]
    assert ids(tested) == [0, 1, 2, 3]
    assert all(sample["image"].shape == (3, 12, 18) for sample in tested)
    cfg.DATALOADER.SAMPLER_TRAIN = "NoSuchSampler"
    with pytest.raises(ValueError, match="NoSuchSampler"):
        build_detection_train_loader(cfg)
