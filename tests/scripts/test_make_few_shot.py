import json

from pycocotools.coco import COCO

from scripts import make_few_shot as script


def test_pycocotools_reads_the_written_files(test_data, tmp_path, capsys):
    arguments = [str(test_data / "bccd" / "val.json"), "--output", str(tmp_path)]
    assert script.main([*arguments, "--name", "valid", "--seeds", "3"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {
        f"fewshot_valid_shot{shots}_seed3.json" for shots in (1, 3, 5, 10)
    }
    split = COCO(str(tmp_path / "fewshot_valid_shot5_seed3.json"))
    assert all(len(split.getAnnIds(catIds=[c])) >= 5 for c in split.getCatIds())
    assert "fewshot_valid_shot5_seed3.json: " in capsys.readouterr().out


def test_a_file_that_is_not_coco_json_is_reported_in_one_sentence(tmp_path, capsys):
    wrong = tmp_path / "wrong.json"
    wrong.write_text(json.dumps({"images": []}))
    assert script.main([str(wrong), "--output", str(tmp_path / "out")]) == 2
    assert "wrong.json has no key 'annotations'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
