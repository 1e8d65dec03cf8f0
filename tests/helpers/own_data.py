"""A small data set in COCO's format to write faults into."""

import json

from PIL import Image, ImageDraw

WIDTH, HEIGHT = 64, 48


def own_content(count=6):
    """Annotations of `count` images with a red and a blue square each."""
    images = [
        {"id": i, "file_name": f"{i}.png", "width": WIDTH, "height": HEIGHT}
        for i in range(1, count + 1)
    ]
    annotations = [
        {
            "id": 2 * i + k,
            "image_id": i,
            "category_id": k + 1,
            "bbox": [4 + 30 * k, 8, 20, 24],
            "area": 480,
            "iscrowd": 0,
        }
        for i in range(1, count + 1)
        for k in range(2)
    ]
    categories = [{"id": 1, "name": "red square"}, {"id": 2, "name": "blue square"}]
    return {"images": images, "annotations": annotations, "categories": categories}


def write_own_data(folder, content, name="train.json"):
    """Write the json, and the missing files of the images in `content`."""
    folder.mkdir(parents=True, exist_ok=True)
    for image in content["images"]:
        path = folder / str(image["file_name"])
        if not path.exists():
            drawn = Image.new("RGB", (WIDTH, HEIGHT), "white")
            canvas = ImageDraw.Draw(drawn)
            canvas.rectangle((4, 8, 24, 32), fill="red")
            canvas.rectangle((34, 8, 54, 32), fill="blue")
            drawn.save(path)
    (folder / name).write_text(json.dumps(content))
    return folder / name
