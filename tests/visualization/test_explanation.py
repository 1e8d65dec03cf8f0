import numpy as np
import pytest

from detclip2.inference.explain import Explanation
from detclip2.visualization.explanation import (
    GAP,
    MIN_WIDTH,
    NOTHING,
    PANEL,
    draw_explanation,
    draw_scale,
)
from detclip2.visualization.text_panel import draw_text


def explanation(count=2, size=(60, 80), seed=0):
    height, width = size
    rng = np.random.default_rng(seed)
    return Explanation(
        image=np.full((height, width, 3), 200, np.uint8),
        caption="two red apples on a table",
        phrases=[f"thing {i}" for i in range(count)],
        boxes=np.array([[0, 0, width / 2, height / 2]] * count, np.float32).reshape(-1, 4),
        scores=np.linspace(0.9, 0.2, count, dtype=np.float32),
        heat=rng.random((count, 3 * height, 3 * width), dtype=np.float32),
    )


@pytest.mark.parametrize(("count", "rows", "columns"), [(1, 1, 2), (3, 1, 4), (4, 2, 3), (9, 3, 4)])
def test_panels_in_rows_of_equal_length(count, rows, columns):
    figure = draw_explanation(explanation(count))
    assert figure.dtype == np.uint8
    title = len(draw_text(["x"], PANEL))
    width = columns * (PANEL + GAP) + GAP
    header = len(draw_text(["two red apples on a table"], width, 18)) + len(draw_scale(1, width))
    panel_height = round(60 * PANEL / 80)
    assert figure.shape == (header + rows * (title + panel_height + GAP), width, 3)


@pytest.mark.parametrize("size", [(1, 1), (1, 1000), (1000, 1), (2000, 1500)])
def test_images_of_any_shape(size):
    figure = draw_explanation(explanation(1, size))
    panel = max(MIN_WIDTH, round(PANEL * size[1] / max(size)))
    assert figure.shape[1] == 2 * (panel + GAP) + GAP


def test_heat_is_drawn_at_its_place():
    cold = explanation(2)
    cold.heat[:] = 0.0
    cold.heat[0] = 0.2
    cold.heat[1, 0, 0] = 0.9  # the top of the scale
    hot = explanation(2)
    hot.heat[:] = cold.heat
    hot.heat[0, 120:150, 180:220] = 0.3
    changed = (draw_explanation(hot) != draw_explanation(cold)).any(axis=2)
    rows, columns = changed.nonzero()
    figure = draw_explanation(cold)
    left, top = PANEL + 2 * GAP, len(figure) - GAP - round(60 * PANEL / 80)
    scale = PANEL / (3 * 80)
    title_below = rows >= top  # the title has the highest value, which differs too
    assert rows[title_below].min() == pytest.approx(top + 120 * scale, abs=4)
    assert rows[title_below].max() == pytest.approx(top + 150 * scale, abs=4)
    assert columns[title_below].min() == pytest.approx(left + 180 * scale, abs=4)
    assert columns[title_below].max() == pytest.approx(left + 220 * scale, abs=4)


def test_all_maps_share_one_scale_and_nothing_is_grey():
    one = explanation(4)
    one.scores[:] = [0.8, 0.4, 0.4, NOTHING / 2]
    one.heat[:] = one.scores[:, None, None]
    figure = draw_explanation(one)
    height, step = round(60 * PANEL / 80), PANEL + GAP
    bottom = len(figure) - GAP  # of the second row: panels 3 and 4; the box is in the upper left
    first_row = bottom - height - GAP - len(draw_text(["x"], PANEL))
    center = [figure[first_row - 20, GAP + i * step + PANEL - 20].astype(int) for i in (1, 2)]
    center += [figure[bottom - 20, GAP + i * step + PANEL - 20].astype(int) for i in (0, 1)]
    strong, weak, equal, nothing = center
    assert strong[0] > strong[2]  # red
    assert abs(weak - strong).max() > 50
    np.testing.assert_array_equal(weak, equal)
    assert nothing[0] == nothing[1] == nothing[2] > 200
    panel = figure[bottom - height : bottom, GAP + step : GAP + step + PANEL]
    assert (panel == panel[..., :1]).all()  # no coloured box either


def test_the_bar_has_the_colours_of_the_maps():
    bar = draw_scale(0.5, 800)
    assert bar.shape[1] == 800
    row = bar[len(bar) // 2]
    assert row[GAP + 2, 2] > row[GAP + 2, 0]
    assert row[MIN_WIDTH - GAP - 30, 0] > row[MIN_WIDTH - GAP - 30, 2]
    assert draw_scale(0.5, 10).shape[1] == 10


def test_text_fits_its_width():
    short = draw_text(["a few words"], 300)
    long = draw_text(["many words " * 30, "", "and a paragraph"], 300)
    assert short.shape[1] == long.shape[1] == 300
    assert len(long) > 3 * len(short)
    assert (long[:, -1] == 255).all(), "text does not exceed its width"
    assert (short != 255).any()
