import importlib.util
import json
from pathlib import Path

import pytest
from pycocotools.coco import COCO

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "make_few_shot.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("make_few_shot", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_writes_what_pycocotools_reads(script, test_data, tmp_path, capsys):
    arguments = [str(test_data / "bccd" / "val.json"), "--output", str(tmp_path)]
    assert script.main([*arguments, "--name", "valid", "--seeds", "3"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {
        f"fewshot_valid_shot{shots}_seed3.json" for shots in (1, 3, 5, 10)
    }
    split = COCO(str(tmp_path / "fewshot_valid_shot5_seed3.json"))
    assert all(len(split.getAnnIds(catIds=[c])) >= 5 for c in split.getCatIds())
    assert "fewshot_valid_shot5_seed3.json: " in capsys.readouterr().out


def test_a_file_that_is_no_coco_json_is_one_sentence(script, tmp_path, capsys):
    wrong = tmp_path / "wrong.json"
    wrong.write_text(json.dumps({"images": []}))
    assert script.main([str(wrong), "--output", str(tmp_path / "out")]) == 2
    assert "wrong.json has no key 'annotations'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
