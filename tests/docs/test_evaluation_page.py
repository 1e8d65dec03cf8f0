"""The recipe of docs/evaluation.md for FiftyOne, run as printed."""

import json
from types import SimpleNamespace

import pytest

from detclip2.evaluation.worst_errors import write_worst_errors
from tests.helpers.own_data import own_content, write_own_data
from tests.helpers.pages import blocks

PAGE = "docs/evaluation.md"
RED, BLUE = [4, 8, 20, 24], [34, 8, 20, 24]
FOUND = [
    # Within a crowd nothing is wrong.
    (1, 1, RED, 0.9),
    (1, 1, [6, 10, 10, 10], 0.9),
    (1, 2, BLUE, 0.9),
    # Blue is unknown here; a red box is found twice.
    (2, 2, BLUE, 0.9),
    (2, 1, RED, 0.9),
    (2, 1, RED, 0.8),
    # Two wrong names, and a score below the threshold.
    (3, 2, RED, 0.9),
    (3, 1, BLUE, 0.9),
    (3, 1, RED, 0.2),
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The reader's folder after `detclip2 evaluate --errors`; image 4 has only missed boxes."""
    content = own_content(count=4)
    content["annotations"][0]["iscrowd"] = 1
    content["annotations"].append({**content["annotations"][-1], "id": 90, "iscrowd": 1})
    content["images"][1]["neg_category_ids"] = []
    content["annotations"] = [
        one for one in content["annotations"] if (one["image_id"], one["category_id"]) != (2, 2)
    ]
    results = tmp_path / "results" / "own"
    (results / "data").mkdir(parents=True)
    path = write_own_data(tmp_path / "images", content, "val.json").rename(
        results / "data" / "val.json"
    )
    keys = ("image_id", "category_id", "bbox", "score")
    found = [dict(zip(keys, one, strict=True)) for one in FOUND]
    (tmp_path / "found.json").write_text(json.dumps(found))
    write_worst_errors(path, tmp_path / "found.json", tmp_path / "images", results / "errors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_fiftyone_marks_the_same_errors(folder, monkeypatch):
    """Runs where FiftyOne and its MongoDB server are installed, no dependency of the tests."""
    monkeypatch.setenv("FIFTYONE_DATABASE_DIR", str(folder / "database"))
    monkeypatch.setenv("FIFTYONE_DO_NOT_TRACK", "true")
    fiftyone = pytest.importorskip("fiftyone", reason="FiftyOne is not installed")
    shown = []
    app = SimpleNamespace(wait=lambda: None)
    monkeypatch.setattr(fiftyone, "launch_app", lambda view: shown.append(view) or app)
    ((_, code),) = [block for block in blocks(PAGE, "python") if "fiftyone" in block[1]]
    names = {}
    exec(compile(code, PAGE, "exec"), names)
    counts = {
        sample["coco_id"]: tuple(sample[f"eval_{kind}"] for kind in ("tp", "fp", "fn"))
        for sample in shown[0]
    }
    assert counts == {1: (1, 0, 0), 2: (1, 1, 0), 3: (0, 2, 2), 4: (0, 0, 2)}
    assert next(iter(counts)) == 3
    names["dataset"].delete()
