import json

import pytest

from detclip2.data.datasets.detection import category_names
from detclip2.data.datasets.odinw import odinw_prompts, odinw_set, odinw_sets, read_odinw
from detclip2.utils.errors import UserError


@pytest.mark.parametrize("benchmark", [13, 35])
def test_the_number_of_sets_matches_the_name(benchmark):
    sets = odinw_sets(benchmark)
    assert len(sets) == benchmark
    assert len({one.folder for one in sets}) == benchmark
    for one in sets:
        assert set(one.splits) - {"mini_val"} == {"train", "valid", "test"}, one.name
        assert one.source
        assert benchmark in one.benchmarks


def test_odinw_35_contains_odinw_13():
    of_35 = {one.name for one in odinw_sets(35)}
    assert {one.name for one in odinw_sets(13)} < of_35


@pytest.mark.parametrize("benchmark", [13, 35])
@pytest.mark.parametrize("written", [False, True])
def test_prompts_are_distinct(benchmark, written):
    for one in odinw_sets(benchmark):
        prompts = one.prompts(benchmark, written)
        assert len(prompts) == len(one.classes) == len(set(prompts)), one.name
        assert all(prompt == prompt.strip() != "" for prompt in prompts), one.name
        assert set(one.instead_of_names) <= set(one.classes), one.name
        if one.classes_of_13:
            assert len(one.classes_of_13) == len(one.classes)


def test_prompts_are_names_or_glips_prompts():
    (aquarium,) = odinw_sets(13, ["Aquarium"])
    assert aquarium.prompts() == list(aquarium.classes)
    assert aquarium.prompts(written=True)[3] == "puffin with orange beaks"
    (rabbits,) = odinw_sets(35, ["CottontailRabbits"])
    assert (rabbits.prompts(13), rabbits.prompts(35)) == (["Cottontail-Rabbit"], ["rabbit"])
    (drone,) = odinw_sets(35, ["DroneControl"])
    assert "follow hand" in drone.prompts()


def test_class_names_equal_an_independent_list(test_data):
    """Class names from an independent list; the keys are folders."""
    facts = json.loads((test_data / "names" / "odinw_classes.json").read_text())

    def key(text):
        return "".join(c for c in text.lower() if c.isalnum())

    for one in odinw_sets(35):
        folder = key(one.folder.rpartition("/")[0] + "_" + one.folder.rpartition("/")[2])
        (fact,) = (facts[name] for name in facts if key(name) == folder)
        assert list(one.classes) == fact["odinw_35_names"]
        assert (13 in one.benchmarks) == ("odinw_13" in fact["benchmarks"])
        if 13 in one.benchmarks:
            assert list(one.classes_of_13 or one.classes) == fact["odinw_13_names"]


def test_the_sets_that_glip_measures_on_a_part_of_valid(tmp_path):
    """Those whose config in GLIP's repository has the test set "minival", not "val"."""
    small = {one.name for one in odinw_sets(35) if "mini_val" in one.splits}
    assert small == {
        *("DroneControl", "EgoHands_generic", "EgoHands_specific", "OxfordPets_by_breed"),
        *("OxfordPets_by_species", "PKLot", "UnoCards", "VehiclesOpenImages"),
        *("brackishUnderwater", "openPoetryVision", "websiteScreenshots"),
    }
    hands, aquarium = odinw_sets(13, ["EgoHands_generic", "Aquarium"])[::-1]
    assert hands.name == "EgoHands_generic"
    folders = [one.annotations(tmp_path, "mini_val").parent for one in (hands, aquarium)]
    assert folders[0] == tmp_path / "EgoHands" / "generic" / "mini_val"
    assert folders[1] == tmp_path / aquarium.folder / "valid"


def test_the_hands_of_odinw():
    """ODinW-13 has them as one class, with GLIP's prompt; ODinW-35 also as four."""
    generic, specific = (odinw_sets(35, [f"EgoHands_{one}"])[0] for one in ("generic", "specific"))
    assert (generic.benchmarks, specific.benchmarks) == ((13, 35), (35,))
    assert generic.prompts() == ["hand"]
    assert generic.prompts(written=True) == ["hand of a person"]
    assert generic.scored_words == ("hand",)
    assert specific.prompts(written=True) == ["myleft", "myright", "yourleft", "yourright"]


def test_an_unknown_name_is_reported_with_the_nearest():
    with pytest.raises(UserError, match="did you mean 'Aquarium'"):
        odinw_sets(13, ["aquarium"])
    with pytest.raises(UserError, match="ODinW-13 has no data set 'BCCD'"):
        odinw_sets(13, ["BCCD"])
    with pytest.raises(UserError, match="no ODinW-14"):
        odinw_sets(14)


@pytest.fixture
def blood(tmp_path):
    """The data set BCCD, and a function that writes its annotations."""
    (one,) = odinw_sets(35, ["BCCD"])
    path = one.annotations(tmp_path, "valid")
    path.parent.mkdir(parents=True)

    def write(categories, category_id):
        box = {"id": 0, "image_id": 5, "category_id": category_id, "bbox": [1, 1, 2, 2]}
        content = {
            "images": [{"id": 5, "file_name": "a.jpg"}],
            "annotations": [box],
            "categories": [{"id": i, "name": name} for i, name in categories],
        }
        path.write_text(json.dumps(content))
        return read_odinw(one, tmp_path, "valid")

    return write


def test_classes_are_matched_by_the_names_in_the_file(blood):
    content = blood([(4, "WBC"), (2, "RBC"), (9, "Platelets")], 9)
    assert [c["id"] for c in content["categories"]] == [9, 2, 4]
    assert [c["name"] for c in content["categories"]] == ["Platelets", "RBC", "WBC"]


def test_unknown_names_are_matched_by_id(blood, caplog):
    content = blood([(0, "cells"), (1, "p"), (2, "r"), (3, "w")], 3)
    assert [(c["id"], c["name"]) for c in content["categories"]] == [
        (1, "Platelets"),
        (2, "RBC"),
        (3, "WBC"),
    ]
    assert "other names" in caplog.text


@pytest.mark.parametrize("category_id", [0, 4])
def test_a_box_without_a_class_is_refused(blood, category_id):
    with pytest.raises(UserError, match=rf"annotation 0 has the category_id {category_id}"):
        blood([(0, "cells"), (1, "p"), (2, "r"), (3, "w")], category_id)


def test_a_set_for_training_has_prompts_for_names(tmp_path):
    """Its file has the classes in another order, under other ids, and boxes without an area."""
    (one,) = odinw_sets(13, ["Aquarium"])
    classes = list(reversed(one.classes))
    content = {
        "images": [{"id": 7, "file_name": "a.jpg", "height": 40, "width": 40}],
        "categories": [{"id": 10 + i, "name": name} for i, name in enumerate(classes)],
        "annotations": [
            {
                "id": 0,
                "image_id": 7,
                "category_id": 10 + classes.index("puffin"),
                "bbox": [1, 2, 3, 4],
            }
        ],
    }
    path = one.annotations(tmp_path, "train")
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(content))
    (record,) = odinw_set("Aquarium", str(tmp_path), "train", str(tmp_path / "output"))
    assert record["file_name"] == str(path.parent / "a.jpg")
    prompts = odinw_prompts("Aquarium")
    assert category_names("Aquarium_train") == prompts
    assert prompts[record["annotations"][0]["category_id"]] == "puffin with orange beaks"
    written = json.loads((tmp_path / "output" / "Aquarium_train.json").read_text())
    assert written["annotations"][0]["id"] == 1
    assert written["annotations"][0]["area"] == 12


def test_few_shots_are_those_of_the_published_file_or_are_drawn(tmp_path, caplog):
    (one,) = odinw_sets(13, ["Raccoon"])
    images = [{"id": i, "file_name": f"{i}.jpg", "height": 9, "width": 9} for i in range(6)]
    boxes = [{"id": i, "image_id": i, "category_id": 1, "bbox": [1, 2, 3, 4]} for i in range(6)]
    content = {"categories": [{"id": 1, "name": "raccoon"}], "images": images, "annotations": boxes}
    path = one.annotations(tmp_path, "train")
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(content))

    def files(seed, copies=1):
        folders = str(tmp_path), "train", str(tmp_path / "output")
        records = odinw_set("Raccoon", *folders, shots=2, seed=seed, copies=copies)
        return [record["file_name"].rpartition("/")[2] for record in records]

    drawn = files(3)
    assert len(set(drawn)) == len(drawn) == 2
    assert drawn == files(3)
    assert any(drawn != files(seed) for seed in range(10))
    assert "so 2 shots are drawn" in caplog.text
    published = {**content, "images": images[4:], "annotations": boxes[4:]}
    (path.parent / "fewshot_train_shot2_seed30.json").write_text(json.dumps(published))
    assert files(30) == ["4.jpg", "5.jpg"]
    assert files(30, copies=3) == ["4.jpg", "5.jpg"] * 3
