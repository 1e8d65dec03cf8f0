"""Other art styles in place of the font's glyphs, from synthetic folders."""

import json
import logging
import pickle
import sys
import types

import numpy as np
import pytest
from PIL import Image, ImageDraw

from detclip2.data.emojiscenes import EmojiScenes, render_validation
from detclip2.data.emojiscenes.artwork import Artwork
from detclip2.data.emojiscenes.categories import make_world
from detclip2.utils.errors import UserError

WORLD = 10
EMOJI = [category.emoji for category in make_world(WORLD).seen]


def write_pictures(folder, emoji, suffix=".png", upper=False):
    """A red disc with a green corner, off the middle of a transparent square."""
    folder.mkdir(parents=True, exist_ok=True)
    for one in emoji:
        name = f"{ord(one):x}"
        picture = Image.new("RGBA", (72, 72))
        ImageDraw.Draw(picture).ellipse((4, 10, 43, 49), fill=(255, 0, 0, 255))
        picture.save(folder / f"{name.upper() if upper else name}{suffix}")
    return folder


def test_artwork_is_centered_in_its_place(tmp_path):
    artwork = Artwork(write_pictures(tmp_path, EMOJI, upper=True))
    assert EMOJI[0] in artwork
    assert "\U0001f9ff\u200d" not in artwork
    picture = artwork.picture(EMOJI[0], 60, 100)
    assert picture.shape == (60, 100, 4)
    rows, columns = np.nonzero(picture[..., 3] > 128)
    assert (rows.min(), rows.max()) == (0, 59)
    assert abs(columns.min() - 20) <= 1
    assert abs(columns.max() - 79) <= 1
    assert picture[30, 50].tolist() == [255, 0, 0, 255]
    with pytest.raises(UserError, match="has no picture"):
        artwork.picture("\U0001f9ff", 10, 10)


def test_scenes_of_another_style_have_the_same_names(tmp_path):
    folder = write_pictures(tmp_path / "art", EMOJI)
    plain = EmojiScenes(WORLD, "val", count=20, size=96)
    styled = EmojiScenes(WORLD, "val", count=20, size=96, artwork=str(folder))
    for one, other in zip(plain.records_without_images(), styled.records_without_images(),
                          strict=True):  # fmt: skip
        names = [sorted(a["category_id"] for a in r["annotations"]) for r in (one, other)]
        assert len(set(names[0]) & set(names[1])) >= len(set(names[0])) - 1
    image = pickle.loads(pickle.dumps(styled))[0]["image"]
    np.testing.assert_array_equal(image, styled[0]["image"])
    assert not np.array_equal(image, plain[0]["image"])
    files = [render_validation(scenes, tmp_path / "data") for scenes in (plain, styled)]
    assert files[0] != files[1]
    categories = [json.loads(file.read_text())["categories"] for file in files]
    assert [c["name"] for c in categories[0]] == [c["name"] for c in categories[1]]


def test_names_without_artwork_are_skipped_and_reported(tmp_path, caplog):
    folder = write_pictures(tmp_path, EMOJI[1:])
    with caplog.at_level(logging.WARNING):
        scenes = EmojiScenes(WORLD, "val", count=30, size=96, artwork=str(folder))
    assert f"no picture of 1 of {WORLD} names" in caplog.text
    assert make_world(WORLD).seen[0].name in caplog.text
    shown = {a["category_id"] for r in scenes.records_without_images() for a in r["annotations"]}
    assert shown == set(range(1, WORLD))
    assert len(scenes.vocabulary) == WORLD


def test_changed_artwork_changes_the_rendering(tmp_path):
    prints = set()
    for color in ("red", "blue"):
        folder = write_pictures(tmp_path / color, EMOJI)
        Image.new("RGBA", (8, 8), color).save(folder / f"{ord(EMOJI[0]):x}.png")
        prints.add(Artwork(folder).fingerprint())
    assert len(prints) == 2


def fake_resvg(monkeypatch):
    """resvg is an extra; its replacement here renders a square of the file's colour."""

    def svg_to_bytes(svg_string, width, **others):
        import io

        color = "lime" if "lime" in svg_string else "navy"
        data = io.BytesIO()
        Image.new("RGBA", (width, width), color).save(data, "PNG")
        return data.getvalue()

    module = types.ModuleType("resvg_py")
    module.svg_to_bytes = svg_to_bytes
    module.__spec__ = types.SimpleNamespace(name="resvg_py")
    monkeypatch.setitem(sys.modules, "resvg_py", module)


def test_iconify_sets_and_vector_files_are_read(tmp_path, monkeypatch):
    fake_resvg(monkeypatch)
    first, second, third = EMOJI[:3]
    icons = {
        "icons": {"one": {"body": "<path fill='lime'/>"}, "two": {"body": "<path fill='navy'/>"}},
        "aliases": {"other": {"parent": "one"}},
        "width": 36,
        "height": 36,
    }
    chars = {f"{ord(first):x}": "one", f"{ord(second):x}-fe0f": "other", f"{ord(third):x}": "gone"}
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "icons.json").write_text(json.dumps(icons))
    (tmp_path / "set" / "chars.json").write_text(json.dumps(chars))
    artwork = Artwork(tmp_path / "set")
    assert [emoji in artwork for emoji in (first, second, third)] == [True, True, False]
    for emoji in (first, second):
        assert artwork.picture(emoji, 10, 10)[5, 5].tolist() == [0, 255, 0, 255]
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / f"{ord(first):x}.svg").write_text("<svg fill='navy'/>")
    assert Artwork(tmp_path / "files").picture(first, 4, 4)[2, 2].tolist() == [0, 0, 128, 255]


def test_invalid_artwork_is_reported_in_one_sentence(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="npm install"):
        Artwork(tmp_path / "nothing")
    with pytest.raises(UserError, match="has no pictures named by code point"):
        Artwork(tmp_path)
    folder = write_pictures(tmp_path / "broken", EMOJI[:1])
    (folder / f"{ord(EMOJI[0]):x}.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match="is broken"):
        Artwork(folder).picture(EMOJI[0], 10, 10)
    Image.new("RGBA", (8, 8)).save(folder / f"{ord(EMOJI[0]):x}.png")
    with pytest.raises(UserError, match="is empty"):
        Artwork(folder).picture(EMOJI[0], 10, 10)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    vectors = tmp_path / "vectors"
    vectors.mkdir()
    (vectors / "1f34e.svg").write_text("<svg/>")
    with pytest.raises(UserError, match=r"detclip2\[artwork\]"):
        Artwork(vectors)
    (tmp_path / "icons.json").write_text("{}")
    (tmp_path / "chars.json").write_text("{}")
    monkeypatch.undo()
    fake_resvg(monkeypatch)
    with pytest.raises(UserError, match="not an icon set"):
        Artwork(tmp_path)
