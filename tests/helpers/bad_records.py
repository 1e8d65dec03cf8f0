"""Valid records and records with every fault that a source can pass on."""

import numpy as np
from detectron2.structures import BoxMode

SIZE = 64
NAN = float("nan")
NAMES = ["dog", ""]  # the second category has no name


class _Records:
    records: tuple[dict, ...] = ()

    def __init__(self, **settings):
        pass

    def __len__(self):
        return len(self.records)

    def __getitem__(self, index):
        image = np.random.default_rng(index).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
        common = {"image": image, "height": SIZE, "width": SIZE, "image_id": index}
        record = {**common, **self.records[index]}
        return {key: value for key, value in record.items() if value is not None}


def _boxes(*corners, category_id=0):
    return {
        "annotations": [
            {"bbox": list(c), "bbox_mode": BoxMode.XYXY_ABS, "category_id": category_id}
            for c in corners
        ]
    }


def _grounded(corners):
    [annotation] = _boxes(corners)["annotations"]
    return {"caption": "a dog by a tree", "annotations": [{**annotation, "phrases": ["a dog"]}]}


class BadBoxes(_Records):
    """Detection."""

    records = (
        _boxes([8, 8, 40, 50], [20, 20, 60, 44]),
        _boxes([70, 70, 90, 90], [40, 40, 10, 10], [8, 8, 40, NAN], [5, 5, 5, 30], [8, 8, 40, 50]),
        _boxes([8, 8, 40]),
        _boxes([8, 8, 40, 50], category_id=1),
        _boxes([8, 8, 40, 50], category_id=99),
        _boxes(),
        {**_boxes([8, 8, 40, 50]), "image": None, "file_name": "/no/such/picture.jpg"},
        {**_boxes([8, 8, 40, 50]), "height": 2 * SIZE},
    )


class BadGrounding(_Records):
    """Captions whose phrases have boxes."""

    records = (
        _grounded([8, 8, 40, 50]),
        _grounded([40, 40, 10, 10]),
        _grounded([NAN] * 4),
        {"caption": "nothing has a box", "annotations": []},
    )


class BadPairs(_Records):
    """Captions; among them two with the same phrases."""

    records = (
        {"caption": "a dog by a tree"},
        {"caption": "a dog by a tree"},
        {"caption": "two cats"},
        {"caption": ""},
        {"caption": " \t\x00"},
        {"caption": "of the and to"},
        {"caption": b"caf\xe9 noir"},
        {"caption": 3},
        {"caption": "lorem " * 10_000},
        {"caption": "a dog", "image": None, "file_name": "/no/such/picture.jpg"},
    )
