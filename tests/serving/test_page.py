"""The page of `detclip2 web`: what it computes, and in a browser."""

import json
import socket
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detclip2.inference.results_file import Results
from detclip2.utils.errors import UserError
from tests.helpers import browser
from tests.helpers.color_model import draw_image


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "colours.png"
    Image.fromarray(draw_image(red=(10, 20, 30, 40), lime=(40, 5, 60, 25))).save(file)
    return file


def test_the_threshold_filters_what_was_found(colors, path, tmp_path):
    from detclip2.serving.page import CAPTION, NAMES, find

    found = find(colors, path, "red, lime, blue", NAMES)
    assert found.labels == ("red", "lime", "blue")
    red, lime = found.rows(0.05)
    assert red == ["red", 1, 10, 20, 30, 40]
    assert lime[:2] == ["lime", 0.5]
    np.testing.assert_allclose(lime[2:], [40, 5, 60, 25], atol=1)
    assert found.rows(0.6) == [red]
    assert (found.drawn(0.6) != found.image).any()
    np.testing.assert_array_equal(found.drawn(1.01), found.image)
    expected = Results(found.labels)
    expected.add(
        "colours.png", colors(path, vocabulary=["red", "lime", "blue"], score_threshold=0.6)
    )
    written = found.write(0.6, tmp_path / "session")
    assert written.name == "colours.json"
    assert json.loads(written.read_text()) == json.loads(json.dumps(expected.content()))
    caption = "A Man next to two small dogs"
    assert find(colors, path, caption, CAPTION).labels == ("Man", "small dogs")


@pytest.mark.parametrize(("config", "start"), [(0.3, 0.3), (None, 0.5), (0.001, 0.05)])
def test_the_threshold_starts_at_that_of_the_predictor(colors, config, start):
    """Without one in the config it is the model's, 0.5; a lower one than the slider's is raised."""
    import gradio as gr

    from detclip2.config import InferenceSettings
    from detclip2.inference.predictor import OpenVocabularyPredictor
    from detclip2.modeling.thresholds import DetectionThresholds
    from detclip2.serving.page import build

    settings = InferenceSettings(120, 200, 4, DetectionThresholds(score_threshold=config))
    page = build(OpenVocabularyPredictor.from_model(colors.model, settings))
    [slider] = [block for block in page.blocks.values() if isinstance(block, gr.Slider)]
    assert slider.value == start


def test_a_large_image_is_drawn_small_and_measured_large(colors, tmp_path):
    from detclip2.serving.page import NAMES, find

    image = np.full((200, 4000, 3), 255, np.uint8)
    image[:, 2000:] = (255, 0, 0)
    Image.fromarray(image).save(tmp_path / "wide.png")
    found = find(colors, tmp_path / "wide.png", "red", NAMES)
    assert found.image.shape == (64, 1280, 3)
    [[label, _, *box]] = found.rows(0)
    assert label == "red"
    np.testing.assert_allclose(box, [2000, 0, 4000, 200], atol=25)
    drawn = found.drawn(0)
    changed = (drawn != found.image).any(axis=2).any(axis=0).nonzero()[0]
    assert 600 < changed.min() < 650, "the box is drawn at the same place"


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        (" ", "names, separated by commas", "say what to look for"),
        ("red,,", "names, separated by commas", "name 2 is empty"),
        ("and so on", "a caption", "no noun phrase"),
        (", ".join(map(str, range(3000))), "names, separated by commas", "3,000 names; the limit"),
    ],
)
def test_mistakes(colors, path, text, kind, message):
    from detclip2.serving.page import find

    with pytest.raises(UserError, match=message):
        find(colors, path, text, kind)


def test_only_some_words_are_explained(colors, path):
    from detclip2.serving.page import NAMES, look

    with pytest.raises(UserError, match="13 words; at most 12"):
        look(colors, path, ", ".join("abcdefghijklm"), NAMES)


@pytest.mark.slow
@pytest.mark.processes
def test_in_a_browser(tmp_path, monkeypatch):
    """A person's way through the page; neither the browser nor the server asks another host."""
    if browser.program() is None:
        pytest.skip(f"no browser is installed: {', '.join(browser.PROGRAMS)}")
    import skimage

    from detclip2.inference.predictor import OpenVocabularyPredictor
    from detclip2.serving.page import build, launch

    called = []
    connect = socket.socket.connect

    def watched(self, address):
        called.append(address)
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", watched)
    predictor = OpenVocabularyPredictor("photo_nano", device="cpu")
    page, other = build(predictor, "A <b>note</b>."), build(predictor)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = launch(page, "127.0.0.1", port)
    try:
        with pytest.raises(UserError, match="choose --host and --port"):
            launch(other, "127.0.0.1", port)
        with browser.opened(address) as (tab, asked):
            walk(tab, Path(skimage.__file__).parent / "data" / "motorcycle_left.png", tmp_path)
    finally:
        page.close(verbose=False)
    assert browser.elsewhere(asked) == []
    others = [one for one in called if isinstance(one, tuple) and one[0] != "127.0.0.1"]
    assert others == []


def walk(tab, image, folder):
    """Mistakes, a detection, another threshold, the json and the heat maps."""
    detect = tab.get_by_role("button", name="Detect")
    words = tab.get_by_role("textbox", name="What to look for")
    remove = tab.get_by_role("button", name="Remove Image")
    upload = tab.locator("input[type=file]").first
    cells = tab.get_by_role("gridcell", name="motorcycle")

    detect.click()
    tab.get_by_text("drop an image first").wait_for()
    broken = folder / "half.png"
    broken.write_bytes(image.read_bytes()[:20_000])
    upload.set_input_files(broken)
    remove.wait_for()
    words.fill("motorcycle, <i>cat</i>")
    detect.click()
    tab.get_by_text("half.png: this image is truncated or damaged").wait_for()

    remove.click()
    upload.set_input_files(image)
    remove.wait_for()
    words.press("Enter")
    cells.first.wait_for()
    with tab.expect_download() as download:
        tab.get_by_role("button", name="Download json").click()
    assert download.value.suggested_filename == "motorcycle_left.json"
    content = json.loads(Path(download.value.path()).read_text())
    assert [one["name"] for one in content["categories"]] == ["motorcycle", "<i>cat</i>"]
    assert content["annotations"][0]["score"] > 0.4

    threshold = tab.get_by_role("spinbutton", name="Threshold of the score")
    threshold.fill("0.99")
    threshold.press("Tab")
    cells.first.wait_for(state="detached")

    tab.get_by_role("button", name="What each word looked at").first.click()
    tab.wait_for_function(
        "[...document.images].filter(image => image.src.includes('/file=')).length == 3"
    )
