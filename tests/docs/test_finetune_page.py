"""The numbers of docs/finetune.md on partly labelled data are those of docs/partial_labels.json."""

import json
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "finetune.md").read_text(encoding="utf-8")
RESULTS = json.loads((DOCS / "partial_labels.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("run", RESULTS["runs"].values(), ids=RESULTS["runs"])
def test_each_run_has_its_row(run):
    numbers = " | ".join(f"{value:.1f}" for value in run["results"].values())
    assert f"| {run['label']} | {numbers} |" in PAGE


def test_the_page_has_the_commands_and_the_conclusion():
    assert RESULTS["split"] in PAGE
    assert f'SETTINGS="{RESULTS["settings"]}"' in PAGE
    assert RESULTS["date"] in PAGE
    ap = {name: run["results"]["AP"] for name, run in RESULTS["runs"].items()}
    assert abs(ap["whole"] - ap["joined"]) <= 3
    recall = {name: run["results"]["recall at score 0.5"] for name, run in RESULTS["runs"].items()}
    assert recall["naive"] < recall["joined"] - 10
    assert re.search(r"output/(whole|joined|naive) \$SETTINGS", PAGE)
