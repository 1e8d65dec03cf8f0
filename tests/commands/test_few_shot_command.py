import json

from pycocotools.coco import COCO

from detclip2.cli import main as detclip2


def test_pycocotools_reads_the_written_files(test_data, tmp_path, capsys):
    arguments = [str(test_data / "bccd" / "val.json"), "--output", str(tmp_path)]
    assert detclip2(["few-shot", *arguments, "--name", "valid", "--seeds", "3"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {
        f"fewshot_val_shot{shots}_seed3.json" for shots in (1, 3, 5, 10)
    }
    split = COCO(str(tmp_path / "fewshot_val_shot5_seed3.json"))
    assert all(len(split.getAnnIds(catIds=[c])) >= 5 for c in split.getCatIds())
    assert "fewshot_val_shot5_seed3.json: " in capsys.readouterr().out


def test_a_file_that_is_not_coco_json_is_reported_in_one_sentence(tmp_path, capsys):
    wrong = tmp_path / "wrong.json"
    wrong.write_text(json.dumps({"images": []}))
    assert detclip2(["few-shot", str(wrong), "--output", str(tmp_path / "out")]) == 2
    assert "wrong.json has no key 'annotations'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_first_images_with_few_boxes(test_data, tmp_path, capsys):
    source = test_data / "coco_open" / "annotations" / "instances_val2017.json"
    arguments = ["few-shot", str(source), "--output", str(tmp_path), "--first", "3"]
    assert detclip2(arguments) == 0
    all_of = COCO(str(source))
    split = COCO(str(tmp_path / "first3.json"))
    assert split.getImgIds() == [image["id"] for image in all_of.dataset["images"][:3]]
    assert len(split.anns) == sum(len(all_of.getAnnIds(imgIds=i)) for i in split.getImgIds())
    assert {one["category_id"] for one in split.anns.values()} == set(split.getCatIds())
    assert detclip2([*arguments, "--most-boxes", "2"]) == 0
    few = COCO(str(tmp_path / "first3.json"))
    assert all(0 < len(few.getAnnIds(imgIds=i)) <= 2 for i in few.getImgIds())
    assert detclip2([*arguments[:-1], "99"]) == 2
    assert "99 images are asked for; 25 have" in capsys.readouterr().err
