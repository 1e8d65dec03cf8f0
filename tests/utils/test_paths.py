"""Names in data stay inside the folder that they are relative to."""

import json

import pytest
from detectron2.data import DatasetCatalog

from detclip2.data.datasets.captions import CaptionJsonl, CaptionTsv, coco_caption_records
from detclip2.data.datasets.detection import load_detection_json
from detclip2.data.datasets.grounding import OdvgFile, mdetr_records
from detclip2.data.sample import SkipSample
from detclip2.data.skips import SkipCounter
from detclip2.utils.errors import UserError
from detclip2.utils.paths import FolderOfFiles, path_in


@pytest.fixture
def folder(tmp_path):
    """A folder of images, with links in it and out of it."""
    images = tmp_path / "images"
    (images / "sub").mkdir(parents=True)
    (tmp_path / "images-of-others").mkdir()
    (tmp_path / "secret.jpg").touch()
    (images / "a.jpg").touch()
    (images / "sub" / "b.jpg").touch()
    (images / "alias.jpg").symlink_to("sub/b.jpg")
    (images / "out.jpg").symlink_to(tmp_path / "secret.jpg")
    (images / "out").symlink_to(tmp_path)
    (images / "loop").symlink_to("loop")
    (tmp_path / "link").symlink_to(images)
    return images


GOOD = ["a.jpg", "sub/b.jpg", "./a.jpg", "sub//b.jpg", "alias.jpg", "missing.jpg", "no/such.jpg",
        "a..b.jpg", "sub/../a.jpg", "...", "sub/.../c.jpg"]  # fmt: skip
BAD = ["../secret.jpg", "sub/../../secret.jpg", "..", "../images-of-others/x.jpg",
       "/etc/passwd", "out.jpg", "out/secret.jpg", "..\\secret.jpg", "C:\\secret.jpg",
       "\\\\host\\share\\a.jpg"]  # fmt: skip


@pytest.mark.parametrize(
    "path", [path_in, lambda folder, name: FolderOfFiles(folder).path(name)], ids=["one", "many"]
)
def test_names_inside_and_outside(folder, path):
    for root in (folder, folder.parent / "link", f"{folder}/"):
        for name in GOOD:
            assert path(root, name) == f"{str(root).rstrip('/')}/{name}"
        for name in BAD:
            with pytest.raises(UserError, match=r"leads out of the folder .*images|.*link"):
                path(root, name)
    assert path(folder, str(folder / "a.jpg")) == str(folder / "a.jpg")  # absolute, but inside
    assert path("/", str(folder / "a.jpg")) == str(folder / "a.jpg")
    assert path("", "/anywhere/a.jpg") == "/anywhere/a.jpg"  # no folder: names as they are


def test_many_names_of_one_folder(folder):
    files = FolderOfFiles(folder)
    for name in GOOD * 2:
        files.path(name)
    for name in BAD * 2:
        with pytest.raises(UserError):
            files.path(name)


@pytest.mark.parametrize("name", ["../secret.jpg", "/etc/passwd", "out.jpg"])
def test_readers_of_json_refuse_the_file(folder, name):
    path = folder.parent / "data.json"
    image = {"id": 1, "file_name": name, "height": 1, "width": 1, "caption": "a"}
    captions = [{"id": 1, "image_id": 1, "caption": "a"}]
    content = {"images": [image], "annotations": captions, "categories": []}
    path.write_text(json.dumps(content))
    readers = [
        lambda: mdetr_records(str(path), str(folder)),
        lambda: coco_caption_records(str(path), str(folder)),
        lambda: load_detection_json(str(path), str(folder), SkipCounter(), False),
    ]
    for read in readers:
        with pytest.raises(UserError, match="leads out of the folder"):
            read()


def test_the_url_of_lvis_leads_nowhere_else(folder):
    path = folder.parent / "lvis.json"
    image = {"id": 1, "coco_url": "http://x/../secret.jpg", "neg_category_ids": []}
    path.write_text(json.dumps({"images": [image], "annotations": [], "categories": []}))
    with pytest.raises(UserError, match="leads out of the folder"):
        load_detection_json(str(path), str(folder), SkipCounter(), False)
    assert not [name for name in DatasetCatalog.list() if "secret" in name]


@pytest.mark.parametrize("name", ["../secret.jpg", "/etc/passwd", "out.jpg"])
def test_readers_of_lines_skip_the_line(folder, name):
    path = folder.parent / "data.jsonl"
    lines = [
        {"image": name, "caption": "a", "filename": name, "detection": {"instances": []}},
        {"image": "a.jpg", "caption": "a", "filename": "a.jpg", "detection": {"instances": []}},
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    for records in (CaptionJsonl(str(path), str(folder)), OdvgFile(str(path), str(folder))):
        with pytest.raises(SkipSample, match="leads out of the folder"):
            records[0]
        assert records[1]["file_name"] == str(folder / "a.jpg")


def test_a_tsv_skips_the_line(folder):
    path = folder.parent / "data.tsv"
    path.write_text("a dog\thttp://x/a\na cat\thttp://x/b\n")
    (folder / "0.jpg").symlink_to(folder.parent / "secret.jpg")
    records = CaptionTsv(str(path), str(folder), file_name="{index}.jpg")
    with pytest.raises(SkipSample, match="leads out of the folder"):
        records[0]
    assert records[1]["file_name"] == str(folder / "1.jpg")
    outside = CaptionTsv(str(path), str(folder), file_name="../{index}.jpg")
    with pytest.raises(SkipSample, match="leads out of the folder"):
        outside[1]


@pytest.mark.parametrize("reader", [CaptionJsonl, OdvgFile])
def test_deep_json_skips_the_line(tmp_path, reader):
    path = tmp_path / "deep.jsonl"
    path.write_text("[" * 100_000)
    with pytest.raises(SkipSample, match="nested more than 100 levels deep"):
        reader(str(path), str(tmp_path))[0]


def test_deep_json_is_refused(tmp_path):
    path = tmp_path / "deep.json"
    path.write_text('{"images": ' + "[" * 100_000)
    with pytest.raises(UserError, match="nested more than 100 levels deep"):
        load_detection_json(str(path), str(tmp_path), SkipCounter(), False)
