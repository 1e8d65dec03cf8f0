import json

import numpy as np
import pytest
from PIL import Image

NAMES = ("person", "dog", "kite")


@pytest.fixture
def photos(tmp_path):
    """A folder of photographs: two with boxes and one to validate, three with captions or names."""
    folder = tmp_path / "photos"
    for path in ("boxes/images/a", "boxes/images/b", "boxes/images/v", "pairs/x", "pairs/y"):
        file = folder / f"{path}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((40, 60, 3), dtype=np.uint8)).save(file)
    categories = [{"id": i, "name": name} for i, name in enumerate(NAMES, start=1)]

    def image(number, name, **more):
        return {
            "id": number,
            "file_name": f"images/{name}.png",
            "width": 60,
            "height": 40,
            "license": "CC BY 2.0",
            "photo_page": f"https://example.org/{name}",
            "source": "here",
            "coco_url": "train2017/a.png",
            "exhaustive_for": "coco80",
            **more,
        }

    def box(number, image_id, category_id):
        return {
            "id": number,
            "image_id": image_id,
            "category_id": category_id,
            "bbox": [5, 5, 20, 20],
            "area": 400,
            "iscrowd": 0,
        }

    train = {
        "images": [image(1, "a"), image(2, "b", exhaustive_for=["dog", "kite"])],
        "annotations": [box(1, 1, 1), box(2, 1, 2), box(3, 2, 1), box(4, 2, 2)],
        "categories": categories,
    }
    val = {"images": [image(9, "v")], "annotations": [box(1, 9, 1)], "categories": categories}
    for split, content in (("train", train), ("val", val)):
        (folder / f"boxes/{split}.json").write_text(json.dumps(content))
    lines = [
        {"image": "boxes/images/a.png", "caption": "A dog.", "kind": "caption"},
        {"image": "boxes/images/a.png", "caption": "A person and a dog.", "kind": "caption"},
        *({"image": f"pairs/{x}.png", "caption": "a red ant", "kind": "name"} for x in "xy"),
    ]
    lines = [{**line, "license": "MIT", "source": "there"} for line in lines]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder
