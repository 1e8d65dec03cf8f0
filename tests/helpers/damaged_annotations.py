"""A table of annotations as tools write them, and what each reader makes of them."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.helpers.own_data import HEIGHT, WIDTH, own_content

IMAGES, BOXES = 4, 8
NAN, INF = float("nan"), float("inf")


def clean():
    """A file that is COCO's and LVIS's too."""
    content = own_content(IMAGES)
    for image in content["images"]:
        image.update(neg_category_ids=[], not_exhaustive_category_ids=[])
    for category in content["categories"]:
        category["frequency"] = "f"
    return content


@dataclass
class Case:
    """A damaged file and what readers make of it; a text is the sentence of a refusal."""

    change: Callable
    """Changes the content of the file, or returns its bytes."""
    finetuning: dict | str = field(default_factory=dict)
    """The findings."""
    training: dict | str = field(default_factory=dict)
    """The skips of reading and of all samples."""
    evaluation: str = ""
    lvis: str = ""
    """The refusal of LVIS's protocol, if others do not refuse."""
    lost: tuple = ()
    """The boxes that are no objects to find, from 0."""
    lost_in_training: tuple | None = None
    """The same for training, if it differs."""
    images: str = ""
    """The sentence of the check of test images."""


def each(part, **values):
    """Set keys of all entries of a part."""

    def change(content):
        for one in content[part]:
            one.update(values)

    return change


def first(part, **values):
    """Set keys of the first entry of a part."""
    return lambda content: content[part][0].update(values)


def drop(part, *keys):
    def change(content):
        for one in content[part]:
            for key in keys:
                del one[key]

    return change


def both(*changes):
    def change(content):
        for one in changes:
            one(content)

    return change


def append(part, entry):
    return lambda content: content[part].append(entry)


def replace(part, value):
    return lambda content: content.update({part: value})


def as_text(part, key):
    return lambda content: [one.update({key: str(one[key])}) for one in content[part]]


def repeat(content):
    content["annotations"] += [dict(one) for one in content["annotations"]]


def fractions(content):
    for one in content["annotations"]:
        x, y, w, h = one["bbox"]
        one["bbox"] = [x / WIDTH, y / HEIGHT, w / WIDTH, h / HEIGHT]


def centres(content):
    content["annotations"][0]["bbox"] = [44, 8, 20, 24]
    fractions(content)
    for one in content["annotations"]:
        x, y, w, h = one["bbox"]
        one["bbox"] = [x + w / 2, y + h / 2, w, h]


def half_in_fractions(content):
    some = {"annotations": content["annotations"][:5]}
    fractions(some)


def rename_ids(new_id, parts=("images",)):
    """Ids of images and categories by a function, also where annotations refer to them."""

    def change(content):
        for part, key in (("images", "image_id"), ("categories", "category_id")):
            if part in parts:
                for one in content[part]:
                    one["id"] = new_id(one["id"])
                for one in content["annotations"]:
                    one[key] = new_id(one[key])

    return change


def list_twice(content):
    """Boxes of blue squares are on the second id of their file, and one red one on both."""
    content["images"] += [{**one, "id": one["id"] + 50} for one in content["images"]]
    for one in content["annotations"][1::2]:
        one["image_id"] += 50
    repeated = content["annotations"][0]
    content["annotations"].append({**repeated, "id": 99, "image_id": repeated["image_id"] + 50})


def backslashes(content):
    for one in content["images"]:
        one["file_name"] = f"folder\\{one['file_name']}"


def encoded(encoding):
    return lambda content: json.dumps(content).encode(encoding)


def unreadable_boxes(*boxes):
    """Cases of a first box that evaluations refuse and others skip."""
    return {
        f"bbox {box}": Case(
            first("annotations", bbox=box),
            finetuning={"box-unusable": 1},
            training={"box-invalid": 1},
            evaluation="annotation 2 has the bbox",
            lost=(0,),
        )
        for box in boxes
    }


def null_entry(part):
    return Case(
        append(part, None),
        finetuning=f"{part}.* entry .* is not an object",
        training={"record-malformed": 1},
        evaluation=f"{part}.* entry .* is not an object",
    )


def no_list(part, value):
    refused = f"{part}' is not a list"
    return Case(replace(part, value), refused, refused, refused)


def wrong_area(value):
    return Case(first("annotations", area=value), lvis="annotations.0. has no valid 'area'")


POLYGON = [[4, 8, 24, 8, 24, 32, 4, 32]]
CROWD = {"finetuning": {"box-crowd": 1}, "lost": (0,)}

CASES = {
    "nothing": Case(lambda content: None),
    # flags
    **{f"iscrowd {flag!r}": Case(each("annotations", iscrowd=flag))
       for flag in ("0", False, "false", "False", 0.0, None, "", "0.0", "no")},
    **{f"iscrowd {flag!r}": Case(first("annotations", iscrowd=flag), **CROWD)
       for flag in ("1", True, "true", "True", 1.0, "1.0", "yes")},
    **{f"ignore {flag!r}": Case(each("annotations", ignore=flag)) for flag in ("0", None, False)},
    **{f"ignored {flag!r}": Case(first("annotations", ignore=flag), **CROWD)
       for flag in ("1", True, 1)},
    "no flags": Case(drop("annotations", "iscrowd")),
    **{f"flag {flag!r}": Case(
        first("annotations", iscrowd=flag), "annotation 2 has 'iscrowd'", {"record-malformed": 1},
        "annotation 2 has 'iscrowd'", lost=(0,),
    ) for flag in ("perhaps", [], NAN)},
    # repeats and ids
    "repeats": Case(repeat, {"annotation-repeated": BOXES}, {"annotation-repeated": BOXES}),
    "one id": Case(each("annotations", id=5), {"annotation-id-twice": BOXES - 1},
                   {"annotation-duplicate": BOXES - 1}),
    "ids are digits": Case(rename_ids(str, ("images", "categories"))),
    "ids are floats": Case(rename_ids(float, ("images", "categories"))),
    "ids are digits in annotations": Case(as_text("annotations", "image_id")),
    "ids are words": Case(
        rename_ids("word {}".format, ("images", "categories")), {"id-not-integer": IMAGES + 2},
        lvis="images.0. has the id 'word 1'",
    ),
    "ids of two types": Case(
        rename_ids(lambda i: "four" if i == 4 else i), {"id-not-integer": 1},
        evaluation="'images' are numbers and texts, such as 'four'",
    ),
    # boxes
    "fractions": Case(fractions, {"box-fraction": BOXES}, {"box-fraction": BOXES}),
    "fractions as text": Case(
        both(fractions, lambda content: [one.update(bbox=[str(v) for v in one["bbox"]])
                                         for one in content["annotations"]]),
        {"box-fraction": BOXES}, {"box-fraction": BOXES},
    ),
    "fractions of images without size": Case(
        both(fractions, drop("images", "width", "height")), {"box-fraction": BOXES},
        "image 1 has no width and height", "image 1 has no width and height",
    ),
    "centres": Case(centres, *["annotation 2 reaches beyond"] * 3),
    "some fractions": Case(half_in_fractions, *["annotation 2 has .* but 3 boxes"] * 3),
    "units": Case(each("annotations", bbox=[0, 0, 1, 1]), *["annotation 2 .* of 0 and 1"] * 3),
    "text in a box": Case(first("annotations", bbox=["4", "8.0", "20", " 24"])),
    **unreadable_boxes(None, [], [4, 8, 20], [4, 8, 20, None], [4, 8, "wide", 24], "4 8 20 24",
                       [4, 8, NAN, 24], [4, 8, INF, 24], [4, 8, 20, [24]], {}, [4, 8, True, 24],
                       [4, 8, "nan", 24], [4, 8, 10**400, 24]),
    "a box of its mask": Case(
        first("annotations", bbox=None, segmentation=POLYGON), {"box-derived": 1},
        {"box-invalid": 1}, "annotation 2 has the bbox None", lost_in_training=(0,),
    ),
    "segmentation null": Case(each("annotations", segmentation=None)),
    # areas and sizes
    **{f"area {area!r}": Case(each("annotations", area=area)) for area in ("480", 480.0)},
    **{f"area {area!r}": wrong_area(area) for area in (None, "large", NAN, -1, [])},
    "no area": Case(drop("annotations", "area"), lvis="annotations.0. has no valid 'area'"),
    "sizes are texts": Case(each("images", width=str(WIDTH), height=f"{HEIGHT}.0")),
    **{f"size {size!r}": Case(each("images", width=size, height=size)) for size in (0, None, "")},
    "no sizes": Case(drop("images", "width", "height")),
    **{f"size {size!r}": Case(first("images", width=size), {"size-malformed": 1},
                              {"size-malformed": 1}) for size in ("wide", -4, NAN, [], 64.5)},
    "another size": Case(
        first("images", width=99), {"image-mismatched": 1, }, {"image-mismatched": 1},
        lost_in_training=(0, 1), images="64 x 48 pixels, but its annotations are of 99 x 48",
    ),
    # files
    "listed twice": Case(
        list_twice, {"image-listed-twice": IMAGES, "annotation-repeated": 1},
        {"image-listed-twice": IMAGES, "annotation-repeated": 1},
    ),
    "backslashes": Case(backslashes),
    "byte order mark": Case(encoded("utf-8-sig")),
    "UTF-16": Case(encoded("utf-16")),
    "levels in each other": Case(
        lambda content: json.dumps({**content, "x": 0}).replace("0}", "[" * 200 + "]" * 200 + "}")
        .encode(), *["nested more than 100 levels"] * 3,
    ),
    "a huge box": Case(
        first("annotations", bbox=[4, 8, 1e308, 24]), {"box-unusable": 1}, {"box-invalid": 1},
        "annotation 2 has the bbox", lost=(0,),
    ),
    "a huge size": Case(
        first("images", width=1e300), {"size-malformed": 1}, {"size-malformed": 1},
    ),
    "deeply nested": Case(lambda content: b"[" * 10**5, *["is not json"] * 3),
    "half": Case(lambda content: json.dumps(content).encode()[:-100], *["is not json"] * 3),
    "another file": Case(lambda content: b"null", *["has no key 'images'"] * 3),
    "a file name of null": Case(
        first("images", file_name=None), {"image-missing": 1}, {"image-unreadable": 1},
        lost_in_training=(0, 1), images="1 of 4 images",
    ),
    # names
    "names are numbers": Case(lambda content: [one.update(name=one["id"] - 1)
                                               for one in content["categories"]]),
    "a name of false": Case(first("categories", name=False)),
    "a name of null": Case(
        first("categories", name=None), {"category-unknown": IMAGES},
        {"category-unnamed": IMAGES}, "id 1 of 'categories' has null as 'name'",
        lost=(0, 2, 4, 6),
    ),
    # null
    **{f"null in {part}": null_entry(part) for part in clean()},
    **{f"{part} {value}": no_list(part, value) for part in clean() for value in (None, {})},
    "an image of null": Case(
        append("annotations", {"id": 77, "image_id": None, "category_id": 1, "bbox": [0, 0, 9, 9]}),
        {"image-unknown": 1}, {"image-unknown": 1}, "id 77 of 'annotations' has null as 'image_id'",
    ),
    "an image without id": Case(
        append("images", {"id": None, "file_name": "9.png"}), {"id-twice": 1},
        {"record-malformed": 1}, "entry 4 of 'images' has null as 'id'",
    ),
    "lists of null": Case(
        each("images", neg_category_ids=None, not_exhaustive_category_ids=None),
        lvis="images.0. has no valid 'neg_category_ids'",
    ),
    "a list that is none": Case(
        first("images", neg_category_ids="1"), "image 1 has 'neg_category_ids'",
        {"record-malformed": 1}, "image 1 has 'neg_category_ids'",
    ),
}  # fmt: skip
