"""EmojiScenes: the split, the sprites, and the objects of scenes with their boxes."""

import hashlib
import itertools
import json
import pickle
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from PIL import Image, ImageDraw
from torch.utils.data import DataLoader

from detclip2.data.emojiscenes import EmojiScenes, all_categories, make_world
from detclip2.data.emojiscenes import layout as layout_module
from detclip2.data.emojiscenes import scenes as scenes_module
from detclip2.data.emojiscenes import sprites as sprites_module
from detclip2.data.emojiscenes.layout import MIN_VISIBLE, OPAQUE
from detclip2.data.emojiscenes.sprites import find_emoji_font, make_sprite, warp_sprite
from detclip2.utils.errors import UserError

try:
    FONT = find_emoji_font()
except UserError as error:
    FONT, REASON = None, str(error)
else:
    REASON = ""
needs_font = pytest.mark.skipif(FONT is None, reason=REASON)


# ---------------------------------------------------------------- categories


def test_over_a_thousand_categories_have_unambiguous_names():
    categories = all_categories()
    assert len(categories) > 1000
    assert [category.id for category in categories] == list(range(1, len(categories) + 1))
    names = [name for item in categories for name in (item.name, *item.synonyms)]
    assert [name for name, number in Counter(names).items() if number > 1] == []
    assert all(name == " ".join(name.lower().split()) and name for name in names)
    assert len({category.emoji for category in categories}) == len(categories)


def test_frequencies_use_the_letters_of_lvis():
    parts = Counter((item.split, item.frequency) for item in all_categories())
    assert set(parts) == {("base", "f"), ("base", "c"), ("novel", "r"), ("unseen", "r")}
    number = len(all_categories())
    assert parts["novel", "r"] / number == pytest.approx(2 / 11, abs=0.01)
    assert parts["unseen", "r"] / number == pytest.approx(1 / 11, abs=0.01)


def test_the_split_equals_the_committed_split():
    # Results are compared on this split: changing it makes a new benchmark.
    text = json.dumps([(c.id, c.name, c.emoji, c.split, c.frequency) for c in all_categories()])
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "59d984ff5a3833a7"


@pytest.mark.parametrize(("size", "base", "novel"), [(40, 32, 8), (200, 160, 40), (1000, 800, 200)])
def test_worlds_have_their_size_and_disjoint_splits(size, base, novel):
    world = make_world(size)
    assert (len(world.base), len(world.novel), len(world)) == (base, novel, size)
    assert {item.split for item in world.base} == {"base"}
    assert {item.split for item in world.novel} == {"novel"}
    assert {item.split for item in world.unseen} == {"unseen"}


def test_worlds_are_nested_and_varied():
    worlds = [make_world(size) for size in (40, 200, 500, None)]
    for small, large in itertools.pairwise(worlds):
        for split in ("base", "novel", "unseen"):
            few, many = getattr(small, split), getattr(large, split)
            assert many[: len(few)] == few
    assert len({item.group for item in worlds[0].seen}) >= 20
    assert {"red apple", "fire engine"} <= {item.name for item in worlds[0].seen}


@pytest.mark.parametrize("size", [0, -3, 100_000])
def test_a_world_of_impossible_size_is_refused(size):
    with pytest.raises(UserError, match=str(size)):
        make_world(size)


# ---------------------------------------------------------------- font and sprites


def test_a_missing_font_says_what_to_install(monkeypatch):
    monkeypatch.setattr(sprites_module, "FONT_FOLDERS", ())
    monkeypatch.setattr(sprites_module, "_ask_fontconfig", lambda: None)
    monkeypatch.delenv("DETCLIP2_EMOJI_FONT", raising=False)
    with pytest.raises(UserError, match="apt-get install fonts-noto-color-emoji"):
        EmojiScenes(40)


def test_a_missing_font_file_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("DETCLIP2_EMOJI_FONT", str(tmp_path / "no.ttf"))
    with pytest.raises(UserError, match=r"no\.ttf"):
        find_emoji_font()


def test_a_file_that_is_not_a_font_is_refused(tmp_path):
    (tmp_path / "NotoColorEmoji.ttf").write_bytes(b"not a font")
    with pytest.raises(UserError, match="not a colour emoji font"):
        make_sprite("\U0001f34e", tmp_path / "NotoColorEmoji.ttf")


@needs_font
@pytest.mark.slow
def test_the_font_draws_every_category():
    pictures = {}
    for category in all_categories()[::9]:
        sprite = make_sprite(category.emoji, FONT)
        assert min(sprite.height, sprite.width) >= 8
        pictures[sprite.levels[0].tobytes()] = category.name
    assert len(pictures) == len(all_categories()[::9])


@needs_font
@pytest.mark.parametrize(("scale", "angle", "mirror"), [(1.0, 0.0, False), (0.6, 20.0, True)])
def test_warped_sprite_equals_pillow(scale, angle, mirror):
    sprite = make_sprite("\U0001f680", FONT)
    center = (40.3, 52.7)
    patch, left, top = warp_sprite(sprite, scale, angle, mirror, center)
    # Pillow's affine map goes from the output to the input, through pixel centres.
    whole = Image.fromarray(sprite.levels[0], "RGBA")
    back = np.linalg.inv(
        scale
        * np.array([[np.cos(a := np.radians(angle)), -np.sin(a)], [np.sin(a), np.cos(a)]])
        @ np.diag([-1.0 if mirror else 1.0, 1.0])
    )
    middle = np.array([sprite.width, sprite.height]) / 2 + sprite.BORDER
    shift = middle - back @ np.asarray(center)
    data = (*back[0], shift[0], *back[1], shift[1])
    expected = whole.transform((140, 140), Image.Transform.AFFINE, data, Image.Resampling.BILINEAR)
    ours = np.zeros((300, 300, 4), np.float32)
    ours[100 + top : 100 + top + patch.shape[0], 100 + left : 100 + left + patch.shape[1]] = patch
    difference = np.abs(ours[100:240, 100:240] - np.asarray(expected, np.float32))
    assert difference.mean() < 1.0


# ---------------------------------------------------------------- scenes


@needs_font
def test_a_record_is_in_detectron2s_format():
    scenes = EmojiScenes(40, count=6, size=128)
    record = scenes[3]
    assert record["image"].shape == (128, 128, 3)
    assert record["image"].dtype == np.uint8
    assert (record["height"], record["width"]) == (128, 128)
    assert record["annotations"]
    for item in record["annotations"]:
        left, top, right, bottom = item["bbox"]
        assert 0 <= left < right <= 128
        assert 0 <= top < bottom <= 128
        assert 0 <= item["category_id"] < 40
    assert len(scenes) == 6
    assert scenes[-1]["image_id"] == scenes[5]["image_id"]
    with pytest.raises(IndexError):
        scenes[6]


@needs_font
def test_training_boxes_have_base_categories_only():
    scenes = EmojiScenes(40, split="train", count=150)
    classes = Counter(
        item["category_id"] for r in scenes.records_without_images() for item in r["annotations"]
    )
    assert set(classes) <= set(range(32))
    assert len(classes) > 28


@needs_font
def test_validation_shows_categories_equally_often():
    scenes = EmojiScenes(40, split="val", count=200, repeat=0.0, objects=(1, 3))
    classes = Counter(
        item["category_id"] for r in scenes.records_without_images() for item in r["annotations"]
    )
    assert set(classes) == set(range(40))
    assert max(classes.values()) - min(classes.values()) <= 3


@needs_font
def test_frequent_categories_are_more_frequent():
    scenes = EmojiScenes(40, split="train", count=400, long_tail=1.0)
    counts = Counter(
        scenes.class_names[item["category_id"]]
        for record in scenes.records_without_images()
        for item in record["annotations"]
    )
    by_letter = {
        letter: np.mean([counts[c.name] for c in scenes.world.base if c.frequency == letter])
        for letter in "fc"
    }
    assert by_letter["f"] > 2 * by_letter["c"]


@needs_font
def test_unseen_categories_have_their_own_vocabulary():
    scenes = EmojiScenes(200, split="val", count=20, contents=("unseen",))
    assert scenes.class_names == [item.name for item in make_world(200).unseen]
    assert all(
        item["category_id"] < 20
        for r in scenes.records_without_images()
        for item in r["annotations"]
    )
    with pytest.raises(UserError, match="does not mix"):
        EmojiScenes(40, contents=("base", "unseen"))


@needs_font
@pytest.mark.processes
def test_scenes_depend_on_the_seed_and_index_alone():
    scenes = EmojiScenes(40, count=40, size=96, seed=5)
    digest = hashlib.sha256(b"".join(scenes[i]["image"].tobytes() for i in range(4))).hexdigest()
    longer = EmojiScenes(40, count=4000, size=96, seed=5)
    assert all(np.array_equal(longer[i]["image"], scenes[i]["image"]) for i in (9, 2))
    code = (
        "import hashlib; from detclip2.data.emojiscenes import EmojiScenes;"
        "s = EmojiScenes(40, count=40, size=96, seed=5);"
        "print(hashlib.sha256(b''.join(s[i]['image'].tobytes() for i in range(4))).hexdigest())"
    )
    other = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True
    )
    assert other.stdout.strip() == digest
    assert not np.array_equal(
        EmojiScenes(40, count=1, size=96, seed=6)[0]["image"], scenes[0]["image"]
    )


@needs_font
def test_splits_with_one_seed_share_no_scene():
    train, val = (
        EmojiScenes(40, split=split, count=1, contents=("base",)) for split in ("train", "val")
    )
    assert not np.array_equal(train[0]["image"], val[0]["image"])


@needs_font
def test_scenes_can_be_pickled_for_loader_workers():
    scenes = EmojiScenes(40, count=6, size=64)
    again = pickle.loads(pickle.dumps(scenes))
    assert np.array_equal(again[4]["image"], scenes[4]["image"])
    loader = DataLoader(scenes, batch_size=None, num_workers=2, collate_fn=lambda record: record)
    for ours, theirs in zip(scenes, loader, strict=True):
        assert np.array_equal(ours["image"], np.asarray(theirs["image"]))


@needs_font
def test_boxes_are_tight_around_visible_pixels():
    """Against a slow loop over the alpha of every object, pixel by pixel, front to back."""
    scenes = EmojiScenes(40, split="val", count=25, size=160, objects=(3, 9))
    partly_hidden = 0
    for index in range(len(scenes)):
        layout = scenes.sampler.layout(index)
        boxes = [tuple(map(int, a["bbox"])) for a in scenes[index]["annotations"]]
        assert len(boxes) == len(layout.objects)
        taken = np.zeros((160, 160), bool)
        for item, box in reversed(list(zip(layout.objects, boxes, strict=True))):
            seen, total = [], 0
            for row in range(item.patch.shape[0]):
                for column in np.flatnonzero(item.patch[row, :, 3] >= OPAQUE):
                    total += 1
                    y, x = item.top + row, item.left + int(column)
                    if 0 <= y < 160 and 0 <= x < 160 and not taken[y, x]:
                        seen.append((x, y))
            xs, ys = zip(*seen, strict=True)
            assert box == (min(xs), min(ys), max(xs) + 1, max(ys) + 1)
            assert item.area == len(seen)
            assert item.visible == pytest.approx(len(seen) / total)
            assert item.visible >= MIN_VISIBLE
            partly_hidden += item.visible < 0.95
            for x, y in seen:
                taken[y, x] = True
    assert partly_hidden > 10


@needs_font
def test_objects_are_drawn_at_their_boxes():
    scenes = EmojiScenes(40, count=12, size=160, objects=(1, 1))
    for index, record in enumerate(scenes):
        layout = scenes.sampler.layout(index)
        background = scenes.sampler.draw(index, type(layout)([], layout.owner))
        changed = np.abs(record["image"].astype(int) - background).sum(axis=2) > 60
        mask = Image.new("1", (160, 160))
        left, top, right, bottom = record["annotations"][0]["bbox"]
        ImageDraw.Draw(mask).rectangle((left - 2, top - 2, right + 1, bottom + 1), fill=1)
        assert changed.any()
        assert not (changed & ~np.asarray(mask)).any()


@needs_font
def test_an_empty_scene_is_arranged_again(monkeypatch):
    scenes = EmojiScenes(40, count=1, size=64)
    layouts = iter([layout_module.Layout([], np.zeros((64, 64))), scenes.sampler.layout(0)])
    monkeypatch.setattr(scenes_module, "arrange", lambda *_: next(layouts))
    assert scenes[0]["annotations"]


@needs_font
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"split": "test"}, "split"),
        ({"objects": (0, 3)}, "objects"),
        ({"objects": (5, 3)}, "objects"),
        ({"size": 4}, "size"),
        ({"contents": ("rare",)}, "contents"),
    ],
)
def test_invalid_settings_are_refused(wrong, message):
    with pytest.raises(UserError, match=message):
        EmojiScenes(40, **wrong)
