"""Tables and figures of the results, from synthetic records and from those of the project."""

import numpy as np
import pytest
from PIL import Image

from detclip2.utils.errors import UserError
from projects.EmojiScenes.evidence import __main__ as evidence
from projects.EmojiScenes.evidence import plots
from projects.EmojiScenes.evidence.record import write_json
from projects.EmojiScenes.evidence.rows import ROWS, TABLES
from projects.EmojiScenes.evidence.tables import MARK, table_of


def synthetic(row, seed, ap):
    seen = {"AP": ap, "APr": ap / 2, "APc": ap, "APf": ap, "AP50-base": ap, "AP50-novel": None,
            "AP-base": ap, "AP-novel": ap / 2}  # fmt: skip
    return {
        "row": row, "seed": seed, "label": ROWS[row].label, "commit": "0" * 40,
        "date": "2026-01-01", "machine": {"device": "cpu", "cores": 2, "processor": "a processor"},
        "images": {"detection": 100, "pairs": 10 * len(row)}, "iterations": 700,
        "cost": {"processor_seconds": 60.0}, "shared_start": {"processor_seconds": 30.0},
        "curves": {"total_loss": [[0, 2.0], [9, 1.0]]},
        "results": {"seen": {"bbox_fixed": seen}, "flat": {"bbox_fixed": {"AP": 7.0}}},
    }  # fmt: skip


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "results"
    for seed, ap in enumerate((10.0, 14.0)):
        record = synthetic("pairs", seed, ap)
        write_json(folder / "quick" / f"pairs-seed{seed}.json", record)
    for row in ("pairs_half", "detection"):
        file = folder / "quick" / f"{row}-seed0.json"
        write_json(file, synthetic(row, 0, 8.0))
    return folder


def cells_of(table):
    lines = [line for line in table.splitlines() if line.startswith("|")]
    titles, _, *rows = ([part.strip() for part in line.split("|")] for line in lines)
    return {row[1]: dict(zip(titles, row, strict=True)) for row in rows}


def test_a_table_has_means_spread_and_the_missing_rows(results):
    table = table_of(results, "quick", "amount")
    cells = cells_of(table)
    found = cells["all"]
    assert found["AP"] == "12.0 ± 2.8"
    assert found["APr / APf (%)"] == "50.0 ± 0.0"
    assert "names, novel" not in found  # no run has this column
    assert found["seeds"] == "0 1"
    note = table.splitlines()[-1]
    assert "2 to 2 processor minutes a run" in note  # 90 s
    assert "Not run: a quarter; twice as many." in note
    assert set(cells) == {"none", "a half", "all"}
    assert "38.4 -> 40.4" in note


def test_other_art_styles_have_a_table_of_their_own(results):
    titles = set(cells_of(table_of(results, "quick", "styles"))["boxes"])
    assert titles == {"", "seeds", "the font", "flat"}
    amount = cells_of(table_of(results, "quick", "amount"))["all"]
    assert "flat" not in amount
    found = cells_of(table_of(results, "quick", "styles"))["boxes + pairs"]
    assert found["the font"] == "12.0 ± 2.8 / 6.0 ± 1.4"  # AP / APr
    assert found["flat"] == "7.0 ± 0.0 / -"


def test_the_page_is_filled_between_its_marks_and_a_change_is_detected(results, tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text(
        "before\n<!-- table quick/amount, written by evidence/tables.py -->\nold\n"
        "<!-- end of the table -->\nafter\n"
    )
    arguments = ["tables", "--page", str(page), "--results", str(results)]
    assert evidence.main([*arguments, "--check"]) == 1
    assert evidence.main(arguments) == 0
    text = page.read_text()
    assert text.startswith("before\n<!--")
    assert text.endswith("-->\nafter\n")
    assert "12.0 ± 2.8" in text
    assert "old" not in text
    assert evidence.main([*arguments, "--check"]) == 0


def test_the_page_of_the_project_matches_its_results(capsys):
    assert evidence.main(["tables", "--check"]) == 0, (
        "run python -m projects.EmojiScenes.evidence tables"
    )
    page = evidence.PAGE.read_text()
    assert {match[3] for match in MARK.finditer(page)} >= {*TABLES}
    widths = [line.count("|") - 1 for line in page.splitlines() if line.startswith("|")]
    assert max(widths) <= 8  # wider tables cannot be read on a page


def test_figures_are_drawn_where_there_are_results(results, tmp_path):
    drawn = plots.draw_all(results, tmp_path / "figures")
    assert {path.name for path in drawn} == {
        "quick-frequency.png", "quick-pairs.png", "quick-curves.png",
    }  # fmt: skip
    with pytest.raises(UserError, match="no results"):
        plots.draw_all(tmp_path / "nothing", tmp_path)


def test_a_sheet_has_a_limited_size(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (900, 2000, 3), dtype=np.uint8)
    smooth = np.full((100, 300, 3), 200, np.uint8)
    for name, image in (("noise", noise), ("smooth", smooth)):
        plots.save(image, tmp_path / f"{name}.jpg")
        assert (tmp_path / f"{name}.jpg").stat().st_size <= plots.MAX_BYTES
    assert Image.open(tmp_path / "smooth.jpg").size == (300, 100)
    width, height = Image.open(tmp_path / "noise.jpg").size
    assert width < plots.MAX_WIDTH
    assert height == pytest.approx(width * 0.45, abs=2)
