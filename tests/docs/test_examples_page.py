"""docs/vocabulary.md shows the numbers of docs/examples.json, which show what it says."""

import json
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
ROWS = {
    "text": "the name, as text",
    **{f"projector, {n}": f"{n} example{'s' * (n > 1)}" for n in (1, 3, 10)},
    **{f"mean of {n}": f"mean of {n} example{'s' * (n > 1)}" for n in (1, 3, 10)},
}


def test_the_table_is_that_of_the_json():
    page = (DOCS / "vocabulary.md").read_text("utf-8")
    report = json.loads((DOCS / "examples.json").read_text("utf-8"))
    assert report["command"] in page
    assert report["results"].keys() == ROWS.keys()
    for key, title in ROWS.items():
        found = report["results"][key]
        cells = [f"{found[name]:.1f}" for name in ("AP", "AP50", "right_names")]
        row = " | ".join([title, *cells, f"{found['reported_in_a_scene']:.0f}"])
        assert f"| {row} |" in page


def test_examples_are_better_than_text_on_unseen_categories():
    results = json.loads((DOCS / "examples.json").read_text("utf-8"))["results"]
    for shots in (1, 3, 10):
        assert results[f"projector, {shots}"]["AP"] > 5 * results["text"]["AP"]
        assert results[f"projector, {shots}"]["AP"] > 5 * results[f"mean of {shots}"]["AP"]
