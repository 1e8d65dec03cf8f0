"""Two phrases in PhraseCut's format."""

import json

from PIL import Image

SQUARE = [[[10, 20], [30, 20], [30, 40], [10, 40]]]
TASKS = [
    {
        "task_id": "7__1_2",
        "image_id": 7,
        "ann_ids": [1, 2],
        "instance_boxes": [[10, 20, 21, 21], [50.5, 5, 20, 11]],
        "Polygons": [SQUARE, [[[50.5, 5.9], [69, 5], [69, 15]], [[60, 40], [61, 40], [60, 41]]]],
        "phrase": "walking  people",
        "phrase_structure": {"name": "people", "attributes": ["walking"], "type": "attribute"},
    },
    {
        "task_id": "8__3",
        "image_id": 8,
        "ann_ids": [3],
        "instance_boxes": [[10, 20, 21, 21]],
        "Polygons": [[[[5, 5]], [[1, 1], [4, 1]], *SQUARE]],
        "phrase": "red door",
        "phrase_structure": None,
    },
]
SIZES = [
    {"image_id": 7, "width": 80, "height": 60, "split": "test"},
    {"image_id": 8, "width": 70, "height": 50, "split": "test"},
]


def write(folder, tasks=TASKS, sizes=SIZES):
    (folder / "images").mkdir(exist_ok=True)
    for entry in SIZES:
        size = entry["width"], entry["height"]
        Image.new("RGB", size, (90, 40, 20)).save(folder / "images" / f"{entry['image_id']}.jpg")
    (folder / "refer_test.json").write_text(json.dumps(tasks))
    (folder / "image_data_split.json").write_text(json.dumps(sizes))
    return str(folder)
