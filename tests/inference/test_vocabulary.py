import json
import logging
import math
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from detclip2.data.datasets.detection import detection_set
from detclip2.data.text.concepts import Concept, ConceptDictionary
from detclip2.inference.vocabulary import PROBE, Vocabulary
from detclip2.modeling.text.prompt_ensemble import twins
from detclip2.modeling.text.text_tower import BATCH_SIZE
from detclip2.utils.errors import UserError

WIDTH = 6


def embedding(text, seed=0):
    """An encoder whose embedding depends on the text alone."""
    rng = np.random.default_rng([zlib.crc32(text.encode()), seed])
    return torch.from_numpy(rng.standard_normal(WIDTH).astype(np.float32))


def encode_phrases(phrases):
    return torch.stack([embedding(phrase) for phrase in phrases])


def unit(text):
    return F.normalize(embedding(text), dim=0)


def assert_means(rows, groups):
    for row, prompts in zip(rows, groups, strict=True):
        mean = sum(unit(prompt) for prompt in prompts)
        torch.testing.assert_close(row, mean / mean.norm())


def test_labels_equal_the_callers_strings():
    names = ["Red  Apple", " fire engine", "яблоко", "りんご", "تفاح", "🍎", "a{}b", "x, y", "a\nb"]
    vocabulary = Vocabulary.from_names(names).encode(encode_phrases)
    assert list(vocabulary.labels) == names
    assert vocabulary.prompts[0] == (("Red Apple",),)
    assert vocabulary.embeddings.shape == (len(names), WIDTH)
    torch.testing.assert_close(vocabulary.embeddings[5], unit("🍎"))


def test_embedding_of_a_label_is_the_mean_of_its_prompts():
    templates = ("{}", "a photo of a {}.")
    vocabulary = Vocabulary.from_names(
        [["truck", "lorry"], "cat"], templates, definitions={"cat": "a small animal"}
    ).encode(encode_phrases)
    assert vocabulary.labels == ("truck", "cat")
    truck = ("truck", "a photo of a truck.", "lorry", "a photo of a lorry.")
    cat = ("cat, a small animal", "a photo of a cat., a small animal")
    assert vocabulary.prompts == ((truck,), (cat,))
    assert vocabulary.label_of_row is None
    assert_means(vocabulary.embeddings, [truck, cat])


def test_each_name_of_a_label_has_an_embedding_under_max():
    templates = ("{}", "a photo of a {}.")
    vocabulary = Vocabulary.from_names(
        [["truck", "lorry", "truck"], "cat"], templates, {"truck": "it is big"}, synonyms="max"
    ).encode(encode_phrases)
    truck = ("truck, it is big", "a photo of a truck., it is big")
    lorry = ("lorry, it is big", "a photo of a lorry., it is big")
    cat = ("cat", "a photo of a cat.")
    assert vocabulary.labels == ("truck", "cat")
    assert vocabulary.prompts == ((truck, lorry), (cat,))
    assert vocabulary.label_of_row.tolist() == [0, 0, 1]
    assert_means(vocabulary.embeddings, [truck, lorry, cat])


def test_rules_agree_where_no_label_has_synonyms():
    names, templates = ["truck", "cat"], ("{}", "a {}")
    by_mean = Vocabulary.from_names(names, templates).encode(encode_phrases)
    by_max = Vocabulary.from_names(names, templates, synonyms="max").encode(encode_phrases)
    assert by_max.label_of_row is None
    assert torch.equal(by_max.embeddings, by_mean.embeddings)


def test_rules_that_do_not_exist():
    with pytest.raises(UserError, match="'best'; expected one of mean, max"):
        Vocabulary.from_names(["cat"], synonyms="best")


def test_repr_is_one_line():
    names = [["name 0", "zero"], *(f"name {i}" for i in range(1, 1203))]
    assert repr(Vocabulary.from_names(names, synonyms="max")) == (
        "Vocabulary(1203 labels: 'name 0', 'name 1', 'name 2', ...; 1204 rows; synonyms by max; "
        "1 templates: '{}'; not encoded)"
    )
    encoded = Vocabulary.from_names(["x" * 1000], ["{}", "a {}"]).encode(encode_phrases, "tower-6")
    assert repr(encoded) == (
        "Vocabulary(1 labels: 'xxxxxxxxxxxx...xxxxxxxxxxxxx'; 1 rows; synonyms by mean; "
        "2 templates: '{}', 'a {}'; encoded by 'tower-6', 6 wide)"
    )


def test_names_in_one_string():
    assert Vocabulary.from_text(" red apple,fire engine ").labels == ("red apple", "fire engine")
    assert Vocabulary.from_text("one").labels == ("one",)


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        ([], "no names"),
        (["cat", ""], "name 2 is empty"),
        (["cat", " \t\n"], "name 2 is empty"),
        (["\u200b\x00"], "name 1 is empty"),
        (["cat", "x" * 10_000], r"name 2 has 10,000 characters .* 1,000"),
        (["cat", 3], "name 2 is of type int"),
        ([["cat", None]], "name 1 holds a NoneType"),
        ([[]], "name 1 is an empty list"),
        (["\udcff"], "name 1 is not valid text"),
        ("cat", "must be a list"),
        (b"cat", "name 1 is of type int"),
        (None, "must be a list"),
    ],
)
def test_names_that_cannot_be_names(names, reason):
    with pytest.raises(UserError, match=reason):
        Vocabulary.from_names(names)


@pytest.mark.parametrize(
    ("text", "reason"), [("", "no names"), (" ", "no names"), ("a,,b", "name 2"), ("a,", "name 2")]
)
def test_text_without_names(text, reason):
    with pytest.raises(UserError, match=reason):
        Vocabulary.from_text(text)


def test_1000_characters_are_a_name():
    assert Vocabulary.from_names(["x" * 1000]).labels == ("x" * 1000,)


def test_templates_and_definitions_are_checked():
    for templates in (["a photo"], ["{} and {}"], []):
        with pytest.raises(UserError, match="template"):
            Vocabulary.from_names(["cat"], templates)
    with pytest.raises(UserError, match="'dog', which is not a label"):
        Vocabulary.from_names(["cat"], definitions={"dog": "an animal"})


def test_repeated_names_become_one_label(caplog):
    with caplog.at_level(logging.WARNING):
        vocabulary = Vocabulary.from_names(["cat", "dog", "cat", " dog ", "Cat"])
    assert vocabulary.labels == ("cat", "dog")
    assert "more than once" in caplog.text
    assert "'cat'" in caplog.text
    assert "' dog '" in caplog.text


def test_each_prompt_is_encoded_once_in_batches():
    calls = []

    def spy(phrases):
        calls.append(phrases)
        return encode_phrases(phrases)

    names = [f"name {i}" for i in range(5000)] + [["several", "name 7"]]
    vocabulary = Vocabulary.from_names(names).encode(spy)
    texts = [text for batch in calls for text in batch]
    assert len(texts) == len(set(texts)) == 5002
    assert set(texts) == {*(f"name {i}" for i in range(5000)), "several", PROBE}
    assert len(calls) == math.ceil(5002 / BATCH_SIZE)
    for i in (0, 255, 256, 4999):
        torch.testing.assert_close(vocabulary.embeddings[i], unit(f"name {i}"))


def test_names_that_the_encoder_cannot_distinguish_are_reported(caplog):
    def unknown(phrases):
        return torch.stack([embedding("?" if not p.isascii() else p) for p in phrases])

    with caplog.at_level(logging.WARNING):
        Vocabulary.from_names(["cat", "りんご", "dog", "яблоко"]).encode(unknown)
    assert "'りんご' from 'яблоко'" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        Vocabulary.from_names(["cat", "りんご", "dog"]).encode(unknown)
    assert not caplog.text


def test_many_names_show_progress(monkeypatch):
    seen = []

    def track(items, description, **options):
        seen.append((len(items), description))
        return items

    monkeypatch.setattr("detclip2.inference.vocabulary.track", track)
    for number in (1, BATCH_SIZE - 1, 1203):
        Vocabulary.from_names([f"name {i}" for i in range(number)]).encode(encode_phrases)
    assert seen == [(math.ceil(1204 / BATCH_SIZE), "encoding names")]


def test_indistinguishable_synonyms_are_allowed(caplog):
    def colour_blind(phrases):
        return torch.stack([embedding(p.replace("grey", "gray")) for p in phrases])

    names = ["cat", ["grey dog", "gray dog"], ["grey ape", "ape"], "gray ape"]
    with caplog.at_level(logging.WARNING):
        Vocabulary.from_names(names[:3], synonyms="max").encode(colour_blind)
    assert not caplog.text
    with caplog.at_level(logging.WARNING):
        Vocabulary.from_names(names, synonyms="max").encode(colour_blind)
    assert "'grey ape' from 'gray ape'" in caplog.text


def test_indistinguishable_names_in_different_blocks():
    units = F.normalize(torch.randn(3000, WIDTH, generator=torch.Generator().manual_seed(0)))
    units[2999] = units[5]
    units[1030] = units[1025]
    units[7] = units[5]
    assert list(twins(units)) == [(5, 7), (7, 2999), (1025, 1030)]
    for rows in (1, 2000):
        assert list(twins(units[:1].expand(rows, -1))) == [(i, i + 1) for i in range(rows - 1)]


def test_an_encoder_that_returns_nan_is_refused():
    with pytest.raises(UserError, match="NaN"):
        Vocabulary.from_names(["cat"]).encode(lambda p: torch.full((len(p), WIDTH), torch.nan))


@pytest.mark.parametrize("synonyms", ["mean", "max"])
def test_saved_and_loaded(tmp_path, synonyms):
    vocabulary = Vocabulary.from_names([["りんご", "apple"], "dog"], ["a {}"], synonyms=synonyms)
    vocabulary = vocabulary.encode(encode_phrases, "tower-6")
    path = tmp_path / "new" / "v.safetensors"
    vocabulary.save(path)
    assert [file.name for file in path.parent.iterdir()] == ["v.safetensors"]
    loaded = Vocabulary.load(path)
    assert loaded == vocabulary
    assert loaded.synonyms == synonyms
    assert loaded.encoder == "tower-6"
    assert loaded.labels == ("りんご", "dog")
    rows = None if synonyms == "mean" else [0, 0, 1]
    assert (loaded.label_of_row if rows is None else loaded.label_of_row.tolist()) == rows
    assert torch.equal(loaded.embeddings, vocabulary.embeddings)
    assert torch.equal(loaded.probe, vocabulary.probe)
    loaded.check_fits("tower-6", WIDTH, encode_phrases)


@pytest.mark.parametrize(("version", "more"), [(2, {}), (3, {"thresholds": "[0.5, 0]"})])
def test_files_of_earlier_versions_are_read(tmp_path, version, more):
    """Written before vocabularies had thresholds (2), and a calibration (3)."""
    vocabulary = Vocabulary.from_names(["cat", "dog"], definitions={"cat": "it purrs"})
    vocabulary = vocabulary.encode(encode_phrases, "tower-6")
    tensors = {"embeddings": vocabulary.embeddings, "probe": vocabulary.probe}
    metadata = {
        "format": f"detclip2-vocabulary-{version}",
        "labels": '["cat", "dog"]',
        "prompts": '[[["cat, it purrs"]], [["dog"]]]',
        "templates": '["{}"]',
        "synonyms": "mean",
        "encoder": "tower-6",
        "width": "6",
        **more,
    }
    save_file(tensors, tmp_path / "old.safetensors", metadata)
    loaded = Vocabulary.load(tmp_path / "old.safetensors")
    assert loaded == replace(vocabulary, thresholds=loaded.thresholds)
    assert loaded.thresholds == (None if version == 2 else (0.5, 0))
    assert loaded.calibration is None
    assert loaded.definitions == ("it purrs", "")


@pytest.mark.parametrize(
    ("thresholds", "reason"),
    [({"dog": 0.5}, "'dog', which is not a label"), ({"cat": 2}, "0 to 1")],
)
def test_thresholds_are_checked(thresholds, reason):
    with pytest.raises(UserError, match=reason):
        Vocabulary.from_names(["cat"]).with_thresholds(thresholds)


def test_the_description_counts_labels_and_prompts():
    assert Vocabulary.from_names(["cat"]).description == "1 name (cat)"
    names = [["truck", "lorry", "van"], "cat", "dog", ["cow", "cattle"]]
    plain = Vocabulary.from_names(names, definitions={"cat": "it purrs"}, synonyms="max")
    assert plain.description == ("4 names (truck, cat, ...), 1 with definitions, 3 synonyms by max")
    templates = ("a {}", "the {}", "{}")
    every = dict.fromkeys(("truck", "cat", "dog", "cow"), "a thing")
    full = Vocabulary.from_names(names, templates, every).encode(encode_phrases, "tower-6")
    assert full.description == (
        "4 names (truck, cat, ...), 3 templates (a {}, the {}, ...), with definitions, "
        "3 synonyms by mean, text encoder tower-6"
    )
    assert full.definitions == ("a thing",) * 4


@pytest.fixture
def dataset(tmp_path):
    """A data set with unordered names, one of them repeated and one blank."""
    categories = [
        {"id": 7, "name": "spray_can", "synonyms": ["spray_can", "aerosol"]},
        {"id": 3, "name": "cat", "synonyms": []},
        {"id": 9, "name": "cat"},
        {"id": 11, "name": ""},
    ]
    path = tmp_path / "set.json"
    path.write_text(json.dumps({"images": [], "annotations": [], "categories": categories}))
    name = "a_set_of_the_vocabulary_tests"
    detection_set(name, str(path), str(tmp_path))
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def test_the_vocabulary_of_a_data_set_has_a_label_for_each_class(dataset):
    vocabulary = Vocabulary.of_dataset(dataset)
    assert vocabulary.labels == ("cat", "spray can", "cat", "")
    assert vocabulary.label_of_row is None
    assert vocabulary.encode(encode_phrases).embeddings.shape == (4, WIDTH)
    concepts = ConceptDictionary([Concept("spray can", "it sprays"), Concept("cat")])
    defined = Vocabulary.of_dataset(dataset, ["a {}"], concepts)
    assert [rows for (rows,) in defined.prompts] == [
        ("a cat",), ("a spray can, it sprays",), ("a cat",), ("a ",)
    ]  # fmt: skip
    assert defined.description == (
        "4 names (cat, spray can, ...), 1 template (a {}), 1 with definitions"
    )


def test_synonyms_of_a_data_set_are_used_where_a_rule_is_given(dataset):
    by_max = Vocabulary.of_dataset(dataset, synonyms="max")
    assert by_max.prompts[1] == (("spray can",), ("aerosol",))
    assert by_max.label_of_row.tolist() == [0, 1, 1, 2, 3]
    assert Vocabulary.of_dataset(dataset, synonyms="mean").prompts[1] == (("spray can", "aerosol"),)


class Model:
    embed_dim = WIDTH
    text_identity = "tower-6"
    reads_names = False
    encode_phrases = staticmethod(encode_phrases)


def test_a_vocabulary_is_encoded_by_the_model_or_must_match_it():
    encoded = Vocabulary.from_names(["cat"]).encode_with(Model())
    assert encoded.encoder == "tower-6"
    assert encoded.encode_with(Model()) is encoded
    other = Model()
    other.embed_dim = 8
    with pytest.raises(UserError, match="6 wide and the model's are 8"):
        encoded.encode_with(other)
    without = Model()
    without.text_identity = None
    assert encoded.encode_with(without) is encoded


def test_a_vocabulary_of_another_encoder_or_width_is_refused():
    vocabulary = Vocabulary.from_names(["cat"]).encode(encode_phrases, "tower-6")
    vocabulary.check_fits("", WIDTH)
    with pytest.raises(UserError, match="6 wide and the model's are 8"):
        vocabulary.check_fits("tower-6", 8)
    with pytest.raises(UserError, match=r"'tower-6' and the model has 'tower-7'"):
        vocabulary.check_fits("tower-7", WIDTH)
    with pytest.raises(UserError, match="other weights"):
        vocabulary.check_fits(
            "tower-6", WIDTH, lambda phrases: torch.stack([embedding(p, 1) for p in phrases])
        )


def test_damaged_files_are_refused(tmp_path):
    good = tmp_path / "good.safetensors"
    Vocabulary.from_names(["cat", "dog"]).encode(encode_phrases).save(good)
    data = good.read_bytes()
    cases = {
        "missing": (None, "no such"),
        "empty": (b"", "damaged"),
        "cut": (data[:-9], "damaged"),
        "other": (b"these are notes, not tensors", "damaged"),
    }
    for name, (content, reason) in cases.items():
        path = tmp_path / f"{name}.safetensors"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(UserError, match=reason) as error:
            Vocabulary.load(path)
        assert path.name in str(error.value)
    weights = tmp_path / "weights.safetensors"
    save_file({"x": torch.zeros(1)}, weights)
    with pytest.raises(UserError, match="no vocabulary"):
        Vocabulary.load(weights)
    with safe_open(good, "pt") as file:
        metadata = file.metadata()
    for change, reason in [
        ({"labels": '["cat", "dog", "cow"]'}, "prompts for 2 of its 3 labels"),
        ({"labels": "["}, "damaged"),
        ({"labels": "[" * 100_000}, "nested more than 100"),
        ({"prompts": '[[["cat"]], []]'}, "prompts for 1 of its 2 labels"),
        ({"prompts": '[[["cat"], ["kitty"]], [["dog"]]]'}, "for 3 names"),
        ({"prompts": "[1, 2]"}, "its prompts are"),
        ({"prompts": '[[["cat"]], [[2]]]'}, "prompts are not all texts"),
        ({"labels": '["cat", 2]'}, "its labels are"),
        ({"templates": '[["{}"]]'}, "its templates are"),
        ({"thresholds": "[0.5, NaN]"}, "its thresholds are"),
        ({"synonyms": "best"}, "its rule for synonyms is 'best'"),
        ({"width": "wide"}, "damaged"),
        ({"width": "7"}, "of width 7"),
        ({"thresholds": "[0.5]"}, "1 thresholds for its 2 labels"),
        ({"format": "detclip2-vocabulary-1"}, "another version .* encode the names again"),
        ({"format": "safetensors"}, "no vocabulary"),
    ]:
        save_file(load_file(good), weights, metadata | change)
        with pytest.raises(UserError, match=reason) as error:
            Vocabulary.load(weights)
        assert str(weights) in str(error.value)
    for tensor, content, reason in [
        ("embeddings", torch.full((2, WIDTH), torch.nan), "NaN"),
        ("embeddings", torch.zeros(3, WIDTH), "for 2 names"),
        ("probe", torch.zeros(1), "for 2 names"),
        ("probe", torch.full((WIDTH,), torch.inf), "infinity"),
        ("maps", torch.zeros(1, 7), "its maps have the shape"),
        ("maps", torch.zeros(1, 101), "one map for each of its 2 labels"),
    ]:
        of_label = {"map_of_label": "[0]"}
        save_file(load_file(good) | {tensor: content}, weights, metadata | of_label)
        with pytest.raises(UserError, match=reason):
            Vocabulary.load(weights)
    save_file({"probe": load_file(good)["probe"]}, weights, metadata)
    with pytest.raises(UserError, match="embeddings"):
        Vocabulary.load(weights)


def test_a_file_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    vocabulary = Vocabulary.from_names(["cat"]).encode(encode_phrases)
    with pytest.raises(UserError, match="cannot be written"):
        vocabulary.save(tmp_path / "file" / "v.safetensors")


def test_names_from_a_text_file(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("\ufeffred apple\r\n\n  fire engine \nx, y\n", encoding="utf-8")
    assert Vocabulary.from_file(path).labels == ("red apple", "fire engine", "x, y")


def test_names_from_a_csv(tmp_path):
    path = tmp_path / "names.csv"
    path.write_text(
        'id,name,synonyms,definition\n1,truck,"lorry; van",\n2,"x, y",,a thing\n', encoding="utf-8"
    )
    vocabulary = Vocabulary.from_file(path)
    assert vocabulary.labels == ("truck", "x, y")
    assert vocabulary.prompts == ((("truck", "lorry", "van"),), (("x, y, a thing",),))
    vocabulary = Vocabulary.from_file(path, synonyms="max")
    assert vocabulary.prompts == ((("truck",), ("lorry",), ("van",)), (("x, y, a thing",),))


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("n.txt", None, "No such file"),
        ("n.txt", b"", "no names"),
        ("n.txt", b"\n \n", "no names"),
        ("n.txt", b"\xff\xfe\x00c", "UTF-8"),
        ("n.txt", b"cat\n" + b"x" * 2000, "name 2 has 2,000"),
        ("n.csv", b"cat,dog\n", "column `name`"),
        ("n.csv", b"", "column `name`"),
        ("n.csv", b"name\n", "no names"),
        ("n.csv", b'name\n"cat', "damaged near line"),
        ("n.csv", b"id,name\n1\n", "name 1 is empty"),
    ],
)
def test_files_without_names(tmp_path, name, content, reason):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=reason) as error:
        Vocabulary.from_file(path)
    assert str(path) in str(error.value)
