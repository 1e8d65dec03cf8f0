"""The pages that a new user begins with run as printed, on small data of the layout they show."""

import glob
import json
import os
import re
import subprocess
import tarfile
from pathlib import Path

import pytest
from detectron2.config import LazyConfig, instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from detclip2 import get_config
from detclip2.config import apply_overrides, build_model
from detclip2.utils.model_folder import SHIPPED, save_weights
from tests.helpers import toy_datasets as toy
from tests.helpers.own_data import own_content, write_own_data
from tests.helpers.pages import blocks, commands, run, write_files
from tests.helpers.tiny_training import tiny_config

QUICK = {"finetune": ["--iterations", 1, "--batch-size", 1, "--size", 64, "--num-workers", 0]}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The reader's folder, with boxes and images."""
    monkeypatch.chdir(tmp_path)
    for name, count in (("train", 3), ("val", 2)):
        path = write_own_data(tmp_path / "images", own_content(count), f"{name}.json")
        path.rename(tmp_path / f"{name}.json")
    return tmp_path


@pytest.fixture(autouse=True)
def _catalogs():
    """The data sets that commands register are forgotten."""
    known = {*DatasetCatalog.list()}
    yield
    for name in {*DatasetCatalog.list()} - known:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture
def tiny_shipped(monkeypatch, tmp_path_factory):
    """The models that ship are tiny, untrained ones."""
    made = tmp_path_factory.mktemp("shipped")
    cfg = tiny_config(made)
    LazyConfig.save(cfg, str(made / "config.yaml"))
    save_weights(instantiate(cfg.model), made)
    for name in SHIPPED:
        monkeypatch.setitem(SHIPPED, name, made)


def expanded(words):
    """The words with file names for patterns, as a shell has them."""
    return [name for word in words for name in sorted(glob.glob(word)) or [word]]


def shell(words):
    subprocess.run(" ".join(words), shell=True, check=True)


@pytest.mark.usefixtures("tiny_shipped")
def test_fine_tuning(folder, monkeypatch):
    for name in ("cars", "people", "val_cars", "val_people", "bccd/images"):
        write_own_data(folder / name, own_content(2), "a.json").rename(folder / f"{name}.json")
    for split in ("train", "val", "test"):
        (folder / "bccd" / f"{split}.json").write_text(json.dumps(own_content(2)))
    Image.new("RGB", (64, 64)).save("photo.jpg")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(folder))
    done = []
    for words in commands("docs/finetune.md"):
        if words[0] == "python":  # the worked example has numbers of real data: test_finetune_page
            continue
        if words[1] == "finetune" and {"parts/part1.json", "--mix-share"} & {*words}:
            continue  # of real data, too
        more = QUICK.get(words[1], ["--no-measure"] if words[1] == "plan" else [])
        run(words, *more)
        done.append(words[1])
    assert done.count("finetune") >= 3
    assert {"predict", "evaluate", "plan"} <= {*done}
    assert (folder / "output" / "own" / "model.safetensors").is_file()
    assert list((folder / "found").iterdir())


@pytest.mark.usefixtures("tiny_shipped")
def test_evaluation(folder, monkeypatch, capsys):
    data = folder / "datasets"
    toy.write_coco(data)
    toy.write_flickr30k_entities(data)
    aquarium = folder / "odinw" / "Aquarium" / "Aquarium Combined.v2-raw-1024.coco"
    classes = ["fish", "jellyfish", "penguin", "puffin", "shark", "starfish", "stingray"]
    content = own_content(2)
    content["categories"] = [{"id": i, "name": n} for i, n in enumerate(classes, 1)]
    for split in ("valid", "test"):
        file = "annotations_without_background.json"
        write_own_data(aquarium / split, content, file)
    (folder / "train").mkdir()
    (folder / "train.json").rename(folder / "train" / "annotations_without_background.json")
    (folder / "output").mkdir()
    run(["detclip2", "finetune", "--train", "val.json", "--val", "val.json", "--images", "images",
         "--output", "output/own"], *QUICK["finetune"])  # fmt: skip
    swin = [*toy.TINY, "model.text_tower.model.path=weights/clip"]
    toy.write_weights(folder / "weights")
    environment = {"PWD": str(folder)}
    found = commands("docs/evaluation.md", environment)
    monkeypatch.setenv("DETECTRON2_DATASETS", environment["DETECTRON2_DATASETS"])
    cfg = get_config("lvis_swin_t_zero_shot")
    apply_overrides(cfg, swin)
    save_weights(build_model(cfg), folder)
    seen = set()
    for words in found:
        name = words[words.index("--config") + 1] if "--config" in words else ""
        if "PascalVOC" in words:
            words.remove("PascalVOC")  # is not on this disk
        run(words, *(swin if name else []))
        seen |= {words[1], name}
    assert {"evaluate", "odinw", "few-shot"} <= seen
    assert {"lvis_swin_t_zero_shot", "coco_swin_t_zero_shot", "flickr30k_swin_t"} <= seen
    results = json.loads((folder / "results" / "flickr30k" / "evaluation.json").read_text())
    assert results["protocols"]
    assert "Fixed" in capsys.readouterr().out


@pytest.mark.usefixtures("emoji_font")
def test_pre_training(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "datasets"
    toy.write_coco(data)
    toy.write_objects365(data)
    toy.write_goldg(data)
    toy.write_weights(data / "weights")
    for shard in ("cc3m/00000", "cc12m/00000", "cc12m/00001"):
        toy.write_shard(data / f"{shard}.tar")
    small = [
        *("pretraining.cc3m=cc3m/00000.tar", "pretraining.cc12m='cc12m/{00000..00001}.tar'"),
        *("images.detection=4", "images.flickr=3", "images.mixed=3", "images.pairs=24"),
    ]
    sources = ("detection", "flickr", "mixed", "pairs")
    smaller = [f"dataloader.train.{name}.total_batch_size=2" for name in sources]
    smaller += [f"dataloader.train.{name}.num_workers=0" for name in sources]
    smaller += ["dataloader.test.num_workers=0", "train.amp.enabled=False", *toy.TINY]
    more = {
        "concepts": [],
        "check-data": ["--samples", 4, *small],
        "show-data": small,
        "plan": ["--no-measure"],
        "train": [*small, *smaller],
    }
    environment = {"PWD": str(data)}
    done = []
    for words in commands("docs/pretraining.md", environment):
        if words[0] == "cd":
            monkeypatch.chdir(words[1])
            monkeypatch.setenv("DETECTRON2_DATASETS", environment["DETECTRON2_DATASETS"])
            continue
        if words[0] != "detclip2":
            shell(words)
            continue
        if words[1] == "concepts" and not os.path.isfile("/usr/share/wordnet/data.noun"):
            words.remove("--wordnet")
        if "--min-count" in words:
            words[words.index("--min-count") + 1] = "2"
        if "--num-gpus" in words:
            words[words.index("--num-gpus") + 1] = "1"
        run(expanded(words), *more.get(words[1], []))
        done.append(words[1])
    assert done == ["phrases", "concepts", "check-data", "show-data", "plan", "train", "evaluate"]
    out = capsys.readouterr().out
    assert "the data can be used" in out
    assert re.search(r"pairs +24 +24 ", out)  # of three shards
    concepts = [json.loads(line) for line in Path("concepts.jsonl").read_text().splitlines()]
    assert {"red square", "blue square"} <= {one["name"] for one in concepts}
    files = {title for title, _ in blocks("docs/pretraining.md", "sh")}
    assert files == {"", "download", "cluster", "pretrain.sbatch"}


def test_own_pairs(folder, monkeypatch):
    monkeypatch.syspath_prepend(folder)
    write_files("docs/pairs.md", folder, "python", "json")
    exec(compile(Path("make_shards.py").read_text(), "make_shards.py", "exec"), {})
    with tarfile.open(folder / "pairs" / "00000.tar") as shard:
        assert len(shard.getnames()) == 4
    small = [
        *(f"dataloader.train.{s}.total_batch_size=2" for s in ("boxes", "captions", "shards")),
        *(f"dataloader.train.{s}.num_workers=0" for s in ("boxes", "captions", "shards")),
        *("train.max_iter=4", "train.eval_period=4", "lr_multiplier.warmup_iterations=1"),
    ]
    more = {
        "phrases": ["--workers", 1],
        "check-data": ["dataloader.train.boxes.num_workers=0"],
        "train": small,
    }
    done = []
    for words in commands("docs/pairs.md"):
        run(words, *more.get(words[1], []))
        done.append(words[1])
    assert done == ["phrases", "check-data", "show-data", "train", "train", "predict"]
    assert (folder / "output" / "pairs" / "model.safetensors").is_file()
    assert list((folder / "found").iterdir())
