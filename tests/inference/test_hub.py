"""Models of the hub, from a cache on the disk: no test reaches the network."""

import json
import shutil
from dataclasses import replace

import huggingface_hub
import numpy as np
import pytest
import yaml
from detectron2.config import LazyConfig
from huggingface_hub import ModelCard, constants
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RevisionNotFoundError
from safetensors.torch import load_file, save_file

from detclip2 import OpenVocabularyPredictor
from detclip2.commands.model_arguments import model_argument
from detclip2.inference.calibration import GRID, Calibration
from detclip2.inference.publish import copy_for_others
from detclip2.inference.vocabulary import Vocabulary
from detclip2.utils.errors import UserError
from detclip2.utils.hub import from_address, model_folder
from tests.helpers.color_model import identical
from tests.helpers.hub_cache import FakeHub, add_snapshot

NAMES = ["red apple", "пёс"]
IMAGE = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache; the network cannot be reached."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "cache"


@pytest.fixture
def hub(cache, monkeypatch):
    fake = FakeHub(cache)
    monkeypatch.setattr(huggingface_hub, "HfApi", fake)
    return fake


def detections(predictor):
    predictor.set_vocabulary(NAMES)
    return predictor(IMAGE)


def test_a_repository_in_the_cache_is_used_without_the_network(cache, nano_folder, monkeypatch):
    add_snapshot(cache, "owner/name", nano_folder)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", lambda *_, **__: pytest.fail("asked"))
    found = OpenVocabularyPredictor.from_pretrained("owner/name", device="cpu")
    expected = OpenVocabularyPredictor.from_pretrained(nano_folder, device="cpu")
    assert identical(detections(found), detections(expected))
    assert found.folder == from_address("hub://owner/name")


def test_a_revision_is_pinned(cache, nano_folder, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(nano_folder, other)
    weights = load_file(other / "model.safetensors")
    weights["align.bias"] += 3
    save_file(weights, other / "model.safetensors")
    (other / "README.md").write_text("another")
    main = add_snapshot(cache, "owner/name", nano_folder)
    pinned = add_snapshot(cache, "owner/name", other, branch="v1")
    for revision, commit in [(None, main), ("main", main), ("v1", pinned), (pinned, pinned)]:
        assert model_folder("owner/name", revision).name == commit
    assert from_address(f"hub://owner/name@{pinned}").name == pinned
    by_pin = OpenVocabularyPredictor.from_pretrained("owner/name", pinned, device="cpu")
    assert by_pin.model.align.bias == weights["align.bias"]


def test_what_is_not_in_the_cache_is_fetched_without_code(nano_folder, monkeypatch):
    calls = []

    def snapshot_download(repository, **options):
        calls.append(options)
        if options["local_files_only"]:
            raise LocalEntryNotFoundError("not here")
        return str(nano_folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert model_folder("owner/name", "v2") == nano_folder
    assert [call["local_files_only"] for call in calls] == [True, False]
    assert {call["revision"] for call in calls} == {"v2"}
    kinds = {pattern.rpartition(".")[2] for pattern in calls[1]["allow_patterns"]}
    assert kinds == {"yaml", "json", "safetensors", "txt", "md", "gz"}  # no py, bin, pth, pt, pkl


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (RevisionNotFoundError, "has no such revision"),
        (GatedRepoError, "accept their terms"),
        (OSError, "hub cannot be reached (no route)"),
    ],
)
def test_what_the_hub_refuses_is_one_sentence(monkeypatch, error, sentence):
    def snapshot_download(*_, local_files_only, **__):
        if local_files_only:
            raise LocalEntryNotFoundError("not here")
        raise error("no route") if error is OSError else error.__new__(error)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(UserError, match="hub://owner/name@v1: ") as raised:
        model_folder("owner/name", "v1")
    assert sentence in str(raised.value)
    assert "\n" not in str(raised.value)


def test_nothing_in_the_cache_and_no_network(cache):
    with pytest.raises(UserError, match=r"hub://owner/none: it is not in the cache, and the hub"):
        OpenVocabularyPredictor.from_pretrained("owner/none")


@pytest.mark.parametrize(
    "address", ["hub://", "hub://name", "hub://a/b/c", "hub://../x", "hub://a/"]
)
def test_addresses_that_are_none(address):
    with pytest.raises(UserError, match="expected hub://OWNER/NAME or"):
        from_address(address)
    assert model_argument(address) == address  # not a path


def test_folders_and_names_stay_what_they_are(nano_folder, tmp_path, monkeypatch):
    assert model_folder("emoji_nano") == "emoji_nano"
    assert model_folder(nano_folder) == nano_folder
    (tmp_path / "runs" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert model_folder("runs/model") == "runs/model"
    with pytest.raises(UserError, match="revision='v1' is of a repository"):
        model_folder("emoji_nano", "v1")
    with pytest.raises(UserError, match="no such model folder; did you mean 'emoji_nano'"):
        OpenVocabularyPredictor.from_pretrained("emoji_nana")


def test_what_is_pushed_comes_back(hub, nano_folder, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(nano_folder, folder)
    cfg = LazyConfig.load(str(folder / "config.yaml"))
    cfg.train = {"output_dir": str(tmp_path / "secret")}
    LazyConfig.save(cfg, str(folder / "config.yaml"))
    (folder / "metrics.json").write_text("{}")
    predictor = OpenVocabularyPredictor(folder, device="cpu")
    expected = detections(predictor)
    encoded = predictor.encode(NAMES)
    maps = (GRID**2)[None].astype(np.float32)
    calibrated = replace(encoded, calibration=Calibration(maps, (0, 0)), thresholds=(0.0, 0.1))
    predictor.set_vocabulary(calibrated)
    commit = predictor.push_to_hub("owner/mine", licence="apache-2.0", private=True)
    assert hub.repositories == {"owner/mine": True}
    assert hub.uploads == [
        ["README.md", "config.json", "config.yaml", "model.safetensors", "vocabulary.safetensors"]
    ]
    again = OpenVocabularyPredictor.from_pretrained("owner/mine", commit, device="cpu")
    assert identical(detections(again), expected)
    assert "secret" not in (again.folder / "config.yaml").read_text()
    vocabulary = Vocabulary.load(again.folder / "vocabulary.safetensors")
    assert vocabulary.thresholds == (0.0, 0.1)
    assert vocabulary.calibration is not None
    card = ModelCard.load(again.folder / "README.md")
    assert card.data.license == "apache-2.0"
    assert card.data.pipeline_tag == "zero-shot-object-detection"
    assert 'from_pretrained("owner/mine")' in card.text


def test_a_card_keeps_its_text_and_what_its_head_says(nano_folder, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(nano_folder, folder)
    head = "---\nlicense: mit\ntags: [fish]\n---\n"
    (folder / "README.md").write_text(f"{head}# Fish\n\nFinds fish.\n")
    (tmp_path / "out").mkdir()
    copy_for_others(folder, tmp_path / "out", "owner/fish")
    written = (tmp_path / "out" / "README.md").read_text()
    head = yaml.safe_load(written.split("---")[1])
    assert head["license"] == "mit"
    assert head["tags"] == ["detclip2", "fish", "open-vocabulary-detection"]
    assert head["library_name"] == "detclip2"
    assert written.endswith("# Fish\n\nFinds fish.\n")
    (folder / "README.md").write_text("---\n[\n---\n# Fish\n")
    with pytest.raises(UserError, match=r"README.md: the head of this card cannot be read"):
        copy_for_others(folder, tmp_path / "out", "owner/fish")


@pytest.mark.parametrize("name", ["emoji_nano", "photo_nano"])
def test_the_models_that_ship_can_be_copied(name, tmp_path):
    copy_for_others(name, tmp_path, f"owner/{name}", licence="apache-2.0")
    assert json.loads((tmp_path / "config.json").read_text()) == {"model_type": "detclip2"}
    assert "dataloader" not in (tmp_path / "config.yaml").read_text()
    assert (tmp_path / "examples.safetensors").is_file() == (name == "emoji_nano")
    card = ModelCard.load(tmp_path / "README.md")
    assert card.text.lstrip().startswith(f"# {name}")


def test_a_model_that_others_would_have_to_trust_is_not_pushed(hub, nano_folder, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(nano_folder, folder)
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(f"{text}\nmore: {{_target_: subprocess.check_output}}\n")
    predictor = OpenVocabularyPredictor(folder, device="cpu", trust_config=True)
    with pytest.raises(UserError, match=r"subprocess.check_output.*cannot build"):
        predictor.push_to_hub("owner/mine")
    assert not hub.uploads


def test_a_predictor_without_a_folder_and_a_hub_that_refuses(hub, colors, nano_folder, monkeypatch):
    with pytest.raises(UserError, match="not made from a model folder"):
        colors.push_to_hub("owner/mine")
    predictor = OpenVocabularyPredictor(nano_folder, device="cpu")
    monkeypatch.setattr(hub, "create_repo", lambda *_, **__: None)
    with pytest.raises(UserError, match=r"owner/mine: the hub does not take the model \(401"):
        predictor.push_to_hub("owner/mine")
