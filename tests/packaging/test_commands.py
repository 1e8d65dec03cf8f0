"""Commands of a user of the wheel, without the repository, each in a new process."""

import json

from PIL import Image

from tests.helpers.own_data import own_content, write_own_data
from tests.helpers.pages import write_files


def succeeds(installed, folder, *command):
    done = installed.run(folder, *command)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_users_configs_build_on_the_configs_of_the_wheel(installed, tmp_path):
    (tmp_path / "mine.py").write_text("""
from detclip2 import get_config

dataloader, world = get_config("data/emoji.py", ("dataloader", "world"))
model = get_config("models/detclipv2").nano
world.size = 96
""")
    printed = installed.script(
        tmp_path,
        """
import detclip2
from detclip2 import UserError, get_config
from detclip2.config import load_config
from detclip2.utils.repository import PACKAGE, fragments, runnable_configs

configs = fragments() | runnable_configs()
assert all(PACKAGE in path.parents for path in configs.values()), configs
for name in configs:
    assert get_config(name), name
first, second = (get_config("models/detclipv2.py") for _ in range(2))
first.swin_t.head.embed_dim = 1
assert second.swin_t.head.embed_dim == first.swin_l.head.embed_dim == 256
mine, _ = load_config("mine.py")
assert mine.dataloader.test.dataset.size == 96
for call, words in ((lambda: get_config("models/detclip.py"), "did you mean 'models/detclipv2'"),
                    (lambda: get_config("optim.py", "SGD"), "has no key 'SGD'")):
    try:
        call()
    except UserError as error:
        assert words in str(error), error
    else:
        raise AssertionError(words)
print(len(configs), detclip2.__file__)
""",
    )
    number, file = printed.split()
    assert int(number) > 20
    assert file == str(installed.site_packages / "detclip2" / "__init__.py")


def test_predict(installed, tmp_path):
    Image.new("RGB", (64, 48), "white").save(tmp_path / "a.png")
    succeeds(installed, tmp_path, "detclip2", "predict", "a.png", "--names", "sheep, horse",
             "--output", "found")  # fmt: skip
    assert (tmp_path / "found" / "a.detections.png").is_file()


def test_train_a_config_by_its_name_on_two_processes(installed, tmp_path):
    """New processes unpickle functions of Detectron2, here of the stand-in."""
    changes = [
        "train.output_dir=run",
        "train.max_iter=2",
        "world.categories=20",
        "world.size=64",
        "dataloader.train.detection.total_batch_size=4",
        "dataloader.train.detection.num_workers=0",
        "dataloader.test.dataset.count=2",
    ]
    options = ["--config", "emoji_nano_detection", "--num-gpus", "2", "--dist-url", "auto"]
    printed = succeeds(installed, tmp_path, "detclip2", "train", *options, *changes)
    assert "AP,AP50,AP75,APs,APm,APl,APr,APc,APf" in printed
    assert (tmp_path / "run" / "model.safetensors").is_file()


def test_an_unknown_config_is_reported_with_the_nearest(installed, tmp_path):
    done = installed.run(tmp_path, "detclip2", "train", "--config", "emoji_nano_detectoin")
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert "did you mean 'emoji_nano_detection'" in line


def test_finetune(installed, tmp_path):
    file = write_own_data(tmp_path / "own", own_content(2))
    succeeds(installed, tmp_path, "detclip2", "finetune", "--train", file, "--val", file,
             "--images", "own", "--output", "run", "--iterations", 1, "--batch-size", 1,
             "--size", 64, "--num-workers", 0, "--device", "cpu")  # fmt: skip
    results = json.loads((tmp_path / "run" / "finetune.json").read_text())
    assert {"before", "after"} <= set(results)


def test_the_pages_of_a_new_user(installed, tmp_path, monkeypatch):
    """What the pages do that tests/docs runs from a clone, from the wheel."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    for name in ("train", "val"):
        file = write_own_data(tmp_path / "images", own_content(3), f"{name}.json")
        file.rename(tmp_path / f"{name}.json")
    write_files("docs/pairs.md", tmp_path, "python", "json")
    succeeds(installed, tmp_path, "python", "make_shards.py")
    printed = succeeds(installed, tmp_path, "detclip2", "check-data", "--config", "own_config.py")
    assert "the data can be used" in printed
    succeeds(installed, tmp_path, "detclip2", "few-shot", "train.json", "--output", "few_shot")
    succeeds(installed, tmp_path, "detclip2", "concepts", "--categories", "own=train.json",
             "--output", "concepts.jsonl")  # fmt: skip
    printed = succeeds(installed, tmp_path, "detclip2", "plan", "--no-measure", "--gpus", "32",
                       "--config", "pretrain_o365_goldg_cc15m_swin_t")  # fmt: skip
    assert "iterations: 159,454" in printed
    succeeds(installed, tmp_path, "detclip2", "evaluate", "--val", "val.json", "--images", "images",
             "--output", "results", "--size", "64")  # fmt: skip
    write_files("docs/detectron2.md", tmp_path, "python", "yaml")
    nano = (tmp_path / "nano.yaml").read_text()
    (tmp_path / "nano.yaml").write_text(nano.replace("MAX_ITER: 200", "MAX_ITER: 1"))
    succeeds(installed, tmp_path, "python", "train_yacs.py")
    assert (tmp_path / "output" / "yacs" / "model_final.pth").is_file()


def test_detectron2s_predictor_needs_add_detclip_config_alone(installed, tmp_path):
    """The report of the environment names the Detectron2 in use."""
    printed = installed.script(
        tmp_path,
        """
from detclip2.modeling.yacs import add_detclip_config
from detectron2.config import get_cfg
from detectron2.engine import DefaultPredictor
import numpy as np

cfg = get_cfg()
add_detclip_config(cfg)
cfg.MODEL.DEVICE = "cpu"
node = cfg.MODEL.DETCLIP
node.TIMM_NAME, node.TIMM_ARGS = "resnet10t", [["channels", [8, 8, 16, 16]], ["stem_width", 8]]
node.TEXT_TOWER, node.TEXT_WEIGHTS, node.POOLING = "resource://text_tower_nano", "fresh", "mean"
node.NORM_OUTPUTS, node.DROP_PATH_RATE, node.VOCABULARY = False, 0.0, ["cat", "dog"]
cfg.INPUT.MIN_SIZE_TEST = 64
found = DefaultPredictor(cfg)(np.zeros((48, 64, 3), np.uint8))["instances"]
assert found.image_size == (48, 64)

from detclip2.utils.environment import findings
(row,) = [row for row in findings() if row.what == "detectron2"]
print(row.found)
""",
    )
    place = installed.site_packages / "detclip2" / "compat" / "detectron2"
    assert printed.strip() == f"0.6+subset (stand-in, {place})"
