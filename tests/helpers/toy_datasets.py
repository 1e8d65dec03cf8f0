"""Small data sets in the layouts that docs/pretraining.md and docs/evaluation.md show."""

import io
import json
import shutil
import tarfile

import timm
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

from detclip2.resources import RESOURCES
from tests.helpers.own_data import own_content, write_own_data

SWIN = {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2]}
TINY = [
    *(f"model.backbone.bottom_up.{key}={value}" for key, value in SWIN.items()),
    *("model.backbone.channels=16", "model.head.embed_dim=16", "model.head.num_convs=1"),
    *("model.head.num_groups=4", "inference.min_size=64", "inference.max_size=96"),
]
"""Overrides that make a Swin-T config small."""
CAPTION = "a red square to the left of a blue square"
SENTENCE = "[/EN#1/other a red square] to the left of [/EN#2/other a blue square] .\n"
OBJECT = (
    "<object><name>{name}</name><bndbox><xmin>{0}</xmin><ymin>{1}</ymin><xmax>{2}</xmax>"
    "<ymax>{3}</ymax></bndbox></object>"
)


def write_coco(root, count=2):
    """COCO's and LVIS's validation sets; the second has as many categories as LVIS."""
    content = own_content(count)
    for image in content["images"]:
        image["file_name"] = f"{image['id']:012d}.png"
    for box in content["annotations"]:
        x, y, w, h = box["bbox"]
        box["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    written = write_own_data(root / "coco" / "val2017", content)
    for folder in ("coco/train2017", "coco/annotations", "lvis"):
        (root / folder).mkdir()
    written.rename(root / "coco" / "annotations" / "instances_val2017.json")
    for image in content["images"]:
        url = f"http://images.cocodataset.org/val2017/{image.pop('file_name')}"
        image.update(coco_url=url, neg_category_ids=[], not_exhaustive_category_ids=[])
    categories = content["categories"]
    categories += [{"id": i, "name": f"thing_{i}"} for i in range(len(categories) + 1, 1204)]
    for category in categories:
        category.update(synonyms=[category["name"]], frequency="f", image_count=9, instance_count=9)
        category["def"] = "a shape with four equal sides"
    lvis = root / "lvis" / "lvis_v1_minival_inserted_image_name.json"
    lvis.write_text(json.dumps(content))


def write_objects365(root):
    """Objects365's training set."""
    written = write_own_data(root / "objects365" / "train", own_content(4))
    (root / "objects365" / "annotations").mkdir()
    written.rename(root / "objects365" / "annotations" / "objects365_train.json")


def write_goldg(root):
    """GoldG's two files, with their images."""
    spans = {1: [2, 12], 2: [CAPTION.index("blue"), len(CAPTION)]}
    for name, folder in (
        ("final_flickr_separateGT_train", "flickr30k/images"),
        ("final_mixed_train_no_coco", "gqa/images"),
    ):
        content = own_content(3)
        for image in content["images"]:
            image["caption"] = CAPTION
        for box in content["annotations"]:
            box["tokens_positive"] = [spans[box["category_id"]]]
        write_own_data(root / folder, content).unlink()
        (root / "mdetr_annotations").mkdir(exist_ok=True)
        (root / "mdetr_annotations" / f"{name}.json").write_text(json.dumps(content))


def write_shard(path, count=8):
    """Image-text pairs in a tar."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as shard:
        for number in range(count):
            image = io.BytesIO()
            Image.new("RGB", (48, 48), (40 * number % 256, 90, 30)).save(image, "JPEG")
            caption = f"{CAPTION} and number {number}".encode()
            for suffix, content in (("jpg", image.getvalue()), ("txt", caption)):
                member = tarfile.TarInfo(f"{number:05d}.{suffix}")
                member.size = len(content)
                shard.addfile(member, io.BytesIO(content))


def write_flickr30k_entities(root):
    """Flickr30k Entities, one image."""
    folder = root / "flickr30k_entities"
    write_own_data(folder / "images", own_content(1)).unlink()
    (folder / "images" / "1.png").rename(folder / "images" / "1.jpg")
    for name in ("Annotations", "Sentences"):
        (folder / name).mkdir()
    boxes = "".join(
        OBJECT.format(x, y, x + w, y + h, name=box["category_id"])
        for box in own_content(1)["annotations"]
        for x, y, w, h in [box["bbox"]]
    )
    size = "<size><width>64</width><height>48</height><depth>3</depth></size>"
    (folder / "Annotations" / "1.xml").write_text(f"<annotation>{size}{boxes}</annotation>")
    (folder / "Sentences" / "1.txt").write_text(SENTENCE)
    (folder / "test.txt").write_text("1\n")


def write_weights(folder):
    """A backbone in timm's names, and a CLIP text tower, as their authors' files are."""
    swin = timm.create_model("swin_tiny_patch4_window7_224", **SWIN)
    (folder / "swin_t").mkdir(parents=True)
    save_file(swin.state_dict(), folder / "swin_t" / "model.safetensors")
    shutil.copytree(RESOURCES / "text_tower_nano", folder / "clip")
    config = CLIPTextConfig.from_pretrained(RESOURCES / "text_tower_nano")
    CLIPTextModel(config).save_pretrained(folder / "clip")
