"""The rendered validation set: files, LVIS format, Detectron2's catalogs and evaluator."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import LVISEvaluator
from detectron2.structures import Boxes, BoxMode, Instances
from lvis import LVIS
from PIL import Image
from pycocotools import mask as coco_masks

from detclip2.cli import main
from detclip2.data.datasets.grounding import mdetr_records
from detclip2.data.emojiscenes import (
    EmojiGrounding,
    EmojiScenes,
    register_emoji_scenes,
    register_emoji_validation,
    render_validation,
    write_grounding_json,
)
from detclip2.data.emojiscenes.sets import validation_set
from detclip2.data.emojiscenes.sprites import find_emoji_font
from detclip2.utils.errors import UserError

try:
    find_emoji_font()
except UserError as error:
    pytest.skip(str(error), allow_module_level=True)


@pytest.fixture(scope="module")
def scenes():
    return EmojiScenes(40, split="val", count=30, size=160)


@pytest.fixture(scope="module")
def json_file(scenes, tmp_path_factory):
    return render_validation(scenes, tmp_path_factory.mktemp("emoji"))


def test_lvis_api_reads_the_annotations_of_the_scenes(scenes, json_file):
    api = LVIS(str(json_file))
    assert [api.cats[i + 1]["name"] for i in range(40)] == scenes.class_names
    assert {api.cats[i]["frequency"] for i in range(1, 33)} == {"f", "c"}
    assert {api.cats[i]["frequency"] for i in range(33, 41)} == {"r"}
    for record in scenes.records_without_images():
        ours = [
            (
                item["category_id"] + 1,
                BoxMode.convert(item["bbox"], BoxMode.XYXY_ABS, BoxMode.XYWH_ABS),
            )
            for item in record["annotations"]
        ]
        theirs = [
            (item["category_id"], [float(x) for x in item["bbox"]])
            for item in api.img_ann_map[record["image_id"]]
        ]
        assert theirs == ours
        present = {category for category, _ in ours}
        negative = set(api.imgs[record["image_id"]]["neg_category_ids"])
        assert negative == set(range(1, 41)) - present


def test_outlines_cover_the_mask(scenes, json_file):
    api = LVIS(str(json_file))
    for index in range(5):
        layout = scenes.sampler.layout(index)
        for number, annotation in enumerate(api.img_ann_map[index + 1]):
            mask = layout.owner == number
            drawn = api.ann_to_mask(annotation).astype(bool)
            assert annotation["area"] == mask.sum()
            # The outline fills holes; and pycocotools rounds.
            assert (mask & drawn).sum() >= 0.97 * mask.sum()
            rows, columns = np.nonzero(mask)
            outside = drawn.copy()
            outside[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = False
            assert not outside.any()


def test_exact_masks_have_one_owner_of_each_pixel(tmp_path):
    """Records and files have the layout's pixels, in all formats; without masks nothing changes."""
    exact = EmojiScenes(20, split="val", count=6, size=96, masks=True)
    plain = EmojiScenes(20, split="val", count=6, size=96)
    references = EmojiGrounding(20, count=6, size=96, masks=True, repeat=0.6)
    for scenes in (exact, references):
        for index in range(6):
            record = scenes[index]
            owner = scenes.sampler.layout(index).owner
            masks = [coco_masks.decode(a["segmentation"]) for a in record["annotations"]]
            assert sum(masks).max() == 1
            for mask, annotation in zip(masks, record["annotations"], strict=True):
                assert mask.sum() == annotation["area"]
                assert len(np.unique(owner[mask.astype(bool)])) == 1
                rows, columns = np.nonzero(mask)
                edges = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
                assert edges == annotation["bbox"]
    assert np.array_equal(exact[0]["image"], plain[0]["image"])
    assert "segmentation" not in plain[0]["annotations"][0]
    json_file = render_validation(exact, tmp_path)
    assert json_file != render_validation(plain, tmp_path)
    api = LVIS(str(json_file))
    for annotation in api.dataset["annotations"]:
        assert api.ann_to_mask(annotation).sum() == annotation["area"]
    records = validation_set("exact_masks", tmp_path, 20, 6, 96, masks=True)
    counts = [len(record["annotations"]) for record in records]
    assert counts == [len(exact[i]["annotations"]) for i in range(6)]
    assert records[0]["annotations"][0]["segmentation"]["size"] == [96, 96]
    for catalog in (DatasetCatalog, MetadataCatalog):
        catalog.remove("exact_masks")
    written = write_grounding_json(references, tmp_path / "grounding")
    [first, *_] = mdetr_records(str(written), str(written.parent / "images"), masks=True)
    assert (
        first["annotations"][0]["segmentation"] == references[0]["annotations"][0]["segmentation"]
    )
    [plain, *_] = mdetr_records(str(written), str(written.parent / "images"))
    assert "segmentation" not in plain["annotations"][0]


def test_counts_equal_the_annotations(json_file):
    content = json.loads(json_file.read_text())
    for category in content["categories"]:
        mine = [a for a in content["annotations"] if a["category_id"] == category["id"]]
        assert category["instance_count"] == len(mine)
        assert category["image_count"] == len({a["image_id"] for a in mine})


def test_rendered_images_equal_the_scenes(scenes, json_file):
    for index in (0, 7):
        saved = np.asarray(Image.open(json_file.parent / f"images/{index:06d}.jpg"), int)
        assert np.abs(saved - scenes[index]["image"]).mean() < 6


def test_a_complete_rendering_is_kept_and_depends_on_the_seed(scenes, json_file, tmp_path):
    before = json_file.stat().st_mtime_ns
    assert render_validation(scenes, json_file.parents[1]) == json_file
    assert json_file.stat().st_mtime_ns == before
    other = EmojiScenes(40, split="val", count=30, size=160, seed=1)
    assert render_validation(other, tmp_path).parent.name != json_file.parent.name
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".part")] == []


def test_an_interrupted_rendering_is_repeated(scenes, json_file, tmp_path):
    (tmp_path / f"{json_file.parent.name}.1.part" / "images").mkdir(parents=True)
    assert render_validation(scenes, tmp_path).read_text() == json_file.read_text()


def test_a_folder_that_cannot_be_written_is_named(scenes, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file"):
        render_validation(scenes, tmp_path / "file")


def test_detectron2s_evaluator_scores_the_truth_100(scenes, json_file, tmp_path, monkeypatch):
    # lvis 0.5.3 uses np.float, which NumPy 1.24 removed.
    monkeypatch.setattr(np, "float", float, raising=False)
    register_emoji_validation("emoji_val_test", scenes, json_file.parents[1])
    # Twice, as when a config is loaded again.
    register_emoji_validation("emoji_val_test", scenes, json_file.parents[1])
    metadata = MetadataCatalog.get("emoji_val_test")
    assert metadata.thing_classes == scenes.class_names
    assert len(metadata.class_image_count) == 40
    evaluator = LVISEvaluator("emoji_val_test", distributed=False, output_dir=str(tmp_path))
    evaluator.reset()
    for record in DatasetCatalog.get("emoji_val_test"):
        assert Image.open(record["file_name"]).size == (160, 160)
        found = Instances((160, 160))
        boxes = [item["bbox"] for item in record["annotations"]]
        found.pred_boxes = Boxes(
            BoxMode.convert(torch.tensor(boxes).float(), BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)
        )
        classes = torch.tensor([item["category_id"] for item in record["annotations"]])
        # Base categories are found; all novel ones are classified as the first category.
        found.pred_classes = torch.where(classes < 32, classes, 0)
        found.scores = torch.where(classes < 32, 1.0, 0.1)
        evaluator.process([record], [{"instances": found}])
    result = evaluator.evaluate()["bbox"]
    assert result["APf"] == pytest.approx(100, abs=1e-6)
    assert result["APc"] == pytest.approx(100, abs=1e-6)
    assert result["APr"] == 0


def test_registered_training_scenes_are_lazy():
    scenes = EmojiScenes(40, count=10**7)
    register_emoji_scenes("emoji_train_test", scenes)
    assert DatasetCatalog.get("emoji_train_test") is scenes
    assert MetadataCatalog.get("emoji_train_test").thing_classes == scenes.class_names


def test_command_draws_contact_sheets(tmp_path, capsys):
    code = main(
        ["scenes", "--count", "5", "--size", "96", "--world", "40", "--output", str(tmp_path)]
    )
    assert code == 0
    sheets = [np.asarray(Image.open(tmp_path / n)) for n in ("sheet.png", "sheet-boxes.png")]
    assert sheets[0].shape == sheets[1].shape == (2 * 102 + 6, 4 * 102 + 6, 3)
    assert (sheets[0] != sheets[1]).any()
    assert len(list(tmp_path.glob("scene-*.png"))) == 5
    assert str(tmp_path / "sheet.png") in capsys.readouterr().out


def test_command_refuses_invalid_settings(tmp_path, capsys):
    assert main(["scenes", "--count", "0", "--output", str(tmp_path)]) == 2
    assert "--count 0" in capsys.readouterr().err


def test_categories_can_be_renamed_for_evaluation(tmp_path):
    settings = {"world": 20, "count": 4, "size": 96}
    called = {"elephant": "pachyderm", "horse": "pony"}
    own = validation_set("own_names_val", tmp_path, **settings)
    other = validation_set("other_names_val", tmp_path, **settings, called=called)
    names = [MetadataCatalog.get(f"{name}_names_val").thing_classes for name in ("own", "other")]
    assert names[1] == [called.get(name, name) for name in names[0]]
    assert set(called.values()) <= set(names[1])
    boxes = [[record["annotations"] for record in records] for records in (own, other)]
    assert boxes[0] == boxes[1]
    pictures = [[Path(record["file_name"]).read_bytes() for record in r] for r in (own, other)]
    assert pictures[0] == pictures[1]
    with pytest.raises(UserError, match="lorry are not categories of this world; it has elephant"):
        validation_set("wrong_val", tmp_path, **settings, called={"lorry": "truck"})
