import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from detectron2.config import LazyConfig, instantiate
from detectron2.engine import default_argument_parser
from PIL import Image
from safetensors.torch import load_file

from detclip2.cli import main as detclip2
from detclip2.config import build
from detclip2.engine.train_loop import load
from detclip2.utils.model_folder import save_weights
from tests.helpers.tiny_training import PROJECT, TRAIN_NET, tiny_config


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
    """A tiny training as a .yaml, without the folder to write to."""
    path = str(tmp_path_factory.mktemp("config") / "tiny.yaml")
    LazyConfig.save(tiny_config("", iterations=4), path)
    return path


def arguments(*words):
    return default_argument_parser().parse_args([str(word) for word in words])


def metrics(folder):
    """Iteration -> its logged losses; the evaluation has a separate line."""
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    return {line["iteration"]: line for line in lines if "total_loss" in line}


@pytest.mark.slow
def test_trains_evaluates_and_leaves_a_model_that_predicts(
    train_net, config_file, tmp_path, capsys
):
    output = tmp_path / "output"
    overrides = [f"train.output_dir={output}", "train.seed=3"]
    results = train_net.main(arguments("--config-file", config_file, *overrides))
    printed = capsys.readouterr().out
    assert "AP,AP50,AP75,APs,APm,APl,APr,APc,APf" in printed
    assert "source detection: " in printed  # the report of skipped records
    assert sorted(metrics(output)) == [0, 1, 2, 3]
    names = {path.name for path in output.iterdir()}
    assert names >= {"config.yaml", "model.safetensors", "last_checkpoint", "model_final.pth"}
    assert LazyConfig.load(str(output / "config.yaml")).train.seed == 3

    # --eval-only with the written weights gives the same results.
    for weights in ("model.safetensors", "model_final.pth"):
        again = train_net.main(
            arguments(
                *("--config-file", config_file, "--eval-only", *overrides),
                f"train.init_checkpoint={output / weights}",
            )
        )
        np.testing.assert_equal(again, results)
    assert "AP,AP50,AP75,APs,APm,APl,APr,APc,APf" in capsys.readouterr().out

    image_file = next((output / "data").rglob("*.jpg"))
    found = tmp_path / "found"
    command = ["predict", image_file, "--names", "red apple", "--model", output, "--output", found]
    assert detclip2([str(word) for word in command]) == 0
    assert list(found.iterdir())


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["train.max_iter=5", "--resume"], "--resume: options come before the first KEY=VALUE"),
        (["train.max_itr=5"], "train has no key 'max_itr'; did you mean 'max_iter'"),
        (["trian.max_iter=5"], "has no key 'trian'; did you mean 'train'?"),
        (["model.head.num_conv=1"], "model.head has no key 'num_conv'; did you mean 'num_convs'?"),
        (["dataloader.train.pairs.batch=1"], "dataloader.train.pairs has no key 'batch'"),
        (["dataloader.train.pears.total_batch_size=1"], "has no key 'pears'; did you mean 'pairs'"),
        (["optimizer.learning_rate=1"], "optimizer has no key 'learning_rate'"),
        (["train.max_iter"], "'train.max_iter' cannot be applied"),
        (["~train.max_iter"], "'~train.max_iter' cannot be applied"),
        (["train.max_iter.more=1"], "'train.max_iter.more=1' cannot be applied"),
        (["train.max_iter=many"], "train.max_iter is 'many'; expected an integer"),
        (["train.source_ratios={pears: 1}"], "names ['detection', 'pairs', 'pears'], but"),
        (["train.source_ratios={detection: 1, pairs: -1}"], "must be positive numbers"),
        (["train.seed=-1"], "seed"),
        (["dataloader.train.pairs.total_batch_size=0"], "total_batch_size is 0"),
        (["world.size=${nothing}"], "nothing"),
        (["train.init_checkpoint=/no/such.pth"], "/no/such.pth: there is no such checkpoint"),
        (["--eval-only"], "train.init_checkpoint=FILE"),
        (["--eval-only", "train.init_checkpoint=/no/such.pth"], "/no/such.pth"),
        (["model.head=null"], "model cannot be read"),
        (["model._target_=no.such.model"], "no.such.model"),
    ],
)
def test_a_mistake_is_reported_in_one_sentence(
    train_net, config_file, tmp_path, capsys, overrides, sentence
):
    flags = [word for word in overrides if word.startswith("--")]
    changes = [f"train.output_dir={tmp_path / 'output'}", *overrides[len(flags) :]]
    command = ["--config-file", config_file, *flags, *changes]
    assert_ends_in_a_sentence(train_net, command, sentence, capsys)


def assert_ends_in_a_sentence(train_net, command, sentence, capsys):
    with pytest.raises(SystemExit) as ended:
        train_net.run(arguments(*command))
    assert ended.value.code == 2
    captured = capsys.readouterr()
    (line,) = [line for line in captured.err.splitlines() if line.startswith("train_net: ")]
    assert sentence in line
    assert "Traceback" not in captured.out + captured.err


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("missing.py", None, "missing.py: this config does not exist"),
        ("config.txt", "", "config.txt: a config is a .py or .yaml file"),
        ("wrong.py", "model = ", "wrong.py: this config cannot be loaded: SyntaxError"),
        ("wrong.py", "import no_such_module", "wrong.py: this config cannot be loaded"),
        ("empty.yaml", "{}", "key 'model' is missing"),
        ("train.yaml", "train: {max_itr: 4}", "train has no key 'max_itr'"),
        ("", None, "no config is given"),
    ],
)
def test_a_wrong_config_is_reported(train_net, tmp_path, capsys, name, content, sentence):
    if content is not None:
        (tmp_path / name).write_text(content)
    path = tmp_path / name if name else ""
    assert_ends_in_a_sentence(train_net, ["--config-file", path], sentence, capsys)


def test_weights_of_another_model_are_refused(train_net, config_file, tmp_path, capsys):
    save_weights(instantiate(tiny_config("").model), tmp_path)
    command = [
        *("--config-file", config_file, f"train.output_dir={tmp_path / 'output'}"),
        *("model.head.embed_dim=32", f"train.init_checkpoint={tmp_path / 'model.safetensors'}"),
    ]
    assert_ends_in_a_sentence(train_net, command, "fit the model", capsys)
    assert_ends_in_a_sentence(train_net, ["--eval-only", *command], "fit the model", capsys)


def test_data_without_a_usable_sample_ends_in_a_sentence(train_net, config_file, tmp_path, capsys):
    """In the middle of training, by a worker process."""
    command = [
        *("--config-file", config_file, f"train.output_dir={tmp_path / 'output'}"),
        "dataloader.train.pairs.records._target_=tests.helpers.tiny_training.CaptionsAlone",
        "dataloader.train.pairs.num_workers=1",
        "train.source_ratios={detection: 0, pairs: 1}",
    ]
    assert_ends_in_a_sentence(train_net, command, "100 records in a row gave no sample", capsys)


@pytest.mark.slow
def test_a_full_disk_ends_in_a_sentence_and_leaves_the_last_checkpoint(
    train_net, config_file, tmp_path, capsys, monkeypatch
):
    output = tmp_path / "output"
    keys = [f"train.output_dir={output}", "train.max_iter=2"]
    train_net.main(arguments("--config-file", config_file, *keys))
    final = (output / "model_final.pth").read_bytes()
    opened = Path.open

    def open_full(self, *args, **kwargs):
        is_checkpoint = self.name.startswith(".model_0")
        return opened(Path("/dev/full") if is_checkpoint else self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", open_full)
    sentence = "model_0000002.pth could not be written: No space left on device"
    command = ["--config-file", config_file, "--resume", f"train.output_dir={output}"]
    assert_ends_in_a_sentence(train_net, command, sentence, capsys)
    assert (output / "last_checkpoint").read_text() == "model_final.pth"
    assert (output / "model_final.pth").read_bytes() == final


@pytest.mark.slow
def test_a_fast_dev_run_does_every_kind_of_step(train_net, config_file, tmp_path, capsys):
    output = tmp_path / "output"
    keys = ["train.fast_dev_run=True", "train.ema=0.9", "train.micro_batch={caption: 3}"]
    train_net.main(arguments("--config-file", config_file, f"train.output_dir={output}", *keys))
    assert [path.name for path in output.iterdir()] == ["fast_dev_run"]
    names = {path.name for path in (output / "fast_dev_run").iterdir()}
    assert names >= {
        *("config.yaml", "log.txt", "metrics.json", "curves.png", "model.safetensors"),
        *("model_0000001.pth", "model_0000003.pth", "model_final.pth", "last_checkpoint"),
    }
    assert any(name.startswith("events.out.tfevents") for name in names)
    lines = metrics(output / "fast_dev_run")
    assert sorted(lines) == [0, 1, 2, 3]
    printed = capsys.readouterr().out
    for words in ("images/s: ", "detection ", "pairs ", "waiting for data: ", "memory: ", "eta: "):
        assert words in printed


def run_script(*words):
    return subprocess.run(
        [sys.executable, str(TRAIN_NET), *map(str, words)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


@pytest.mark.processes
@pytest.mark.slow
def test_two_processes_train_as_one(train_net, config_file, tmp_path):
    """Half of each batch each, on the CPU (gloo); captions give the box branch no gradient."""
    # By default, a process proposes regions by the phrases of its own batch.
    changes = ["model.contrast.proposal_score=text_sample"]
    command = ["--config-file", config_file]
    train_net.main(arguments(*command, *changes, f"train.output_dir={tmp_path / 'one'}"))
    command += ["--num-gpus", 2, "--dist-url", "auto"]
    # Spawned processes spawn their data workers too, with pickled arguments.
    changes += [f"dataloader.train.{source}.num_workers=1" for source in ("detection", "pairs")]
    script = run_script(*command, *changes, f"train.output_dir={tmp_path / 'two'}")
    assert script.returncode == 0, script.stderr
    one, two = metrics(tmp_path / "one"), metrics(tmp_path / "two")
    assert one.keys() == two.keys() == {0, 1, 2, 3}
    for iteration, line in one.items():
        losses = {key: value for key, value in line.items() if "loss" in key}
        assert losses
        for key, value in losses.items():
            assert two[iteration][key] == pytest.approx(value, rel=2e-3), (iteration, key)
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("one", "two")]
    start = start_of(config_file)
    moved = sum((weights[0][n] - start[n]).abs().sum() for n in start)
    apart = sum((weights[0][n] - weights[1][n]).abs().sum() for n in start)
    assert moved > 0
    assert apart < 0.05 * moved


def start_of(config_file):
    """The initial weights of the script, by its seed."""
    from detectron2.utils.env import seed_all_rng

    cfg = LazyConfig.load(config_file)
    seed_all_rng(cfg.train.seed)
    return instantiate(cfg.model).state_dict()


@pytest.mark.processes
def test_a_mistake_ends_the_script_with_code_2(config_file):
    script = run_script("--config-file", config_file, "train.max_itr=5")
    assert script.returncode == 2
    assert script.stderr.count("train_net: ") == 1
    assert "Traceback" not in script.stderr


@pytest.mark.parametrize("script", ["train_net", "demo"])
@pytest.mark.processes
def test_a_missing_detectron2_is_reported_in_one_sentence(script):
    code = (
        "import runpy, sys\n"
        "sys.modules['detectron2'] = None  # as for a module that cannot be imported\n"
        f"runpy.run_path({str(PROJECT / script) + '.py'!r}, run_name='__main__')\n"
    )
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(PROJECT), *sys.path])},
    )
    assert ended.returncode == 2
    assert ended.stdout == ""
    [line] = ended.stderr.splitlines()
    assert line.startswith(f"{script}: Detectron2 is not installed")


@pytest.fixture
def coco_folder(tmp_path):
    """Two grey images with a box each, in the layout that Detectron2 expects of COCO."""
    folder = tmp_path / "datasets" / "coco"
    (folder / "annotations").mkdir(parents=True)
    for split in ("train2017", "val2017"):
        (folder / split).mkdir()
        images = [{"id": i, "file_name": f"{i}.png", "height": 48, "width": 64} for i in (3, 5)]
        boxes = [
            {"id": i, "image_id": i, "category_id": 18, "bbox": [8, 8, 20, 30], "area": 600}
            for i in (3, 5)
        ]
        content = {
            "images": images,
            "annotations": [{**box, "iscrowd": 0} for box in boxes],
            "categories": [{"id": 18, "name": "dog"}, {"id": 62, "name": "potted_plant"}],
        }
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
        for image in images:
            Image.new("RGB", (64, 48), "grey").save(folder / split / image["file_name"])
    return folder


def test_a_config_of_coco_finds_its_data_by_the_environment(
    train_net, coco_folder, tmp_path, capsys, monkeypatch
):
    command = [
        *("--config-file", PROJECT / "configs" / "coco_open_nano.py"),
        "coco.folder=${oc.env:DETECTRON2_DATASETS}/coco",
        f"train.output_dir={tmp_path / 'output'}",
    ]
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    assert_ends_in_a_sentence(
        train_net, command, "environment variable DETECTRON2_DATASETS is not set", capsys
    )
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "elsewhere"))
    assert_ends_in_a_sentence(train_net, command, "instances_train2017.json", capsys)

    monkeypatch.setenv("DETECTRON2_DATASETS", str(coco_folder.parent))
    cfg = load(arguments(*command))
    for _ in range(2):  # a config can be built twice
        loader = build(cfg, "dataloader.train")
    loader.sources["detection"].num_workers = 0
    samples = loader.next_batch()
    assert len(samples) == 4
    for sample in samples:
        assert sample["phrases"] == ["dog", "potted plant"]
        assert sample["num_positives"] == 1
        assert sample["image"].shape[1] in (224, 256, 288)
        assert len(sample["instances"]) == 1
    assert [record["image_id"] for record in build(cfg, "dataloader.test.dataset")] == [3, 5]


@pytest.mark.slow
def test_training_on_real_images(train_net, test_data, tmp_path, capsys):
    """Slow: 50 iterations on COCO's images, COCOEvaluator, and `detclip2 predict`."""
    output = tmp_path / "output"
    results = train_net.main(
        arguments(
            *("--config-file", PROJECT / "configs" / "coco_open_nano.py"),
            f"train.output_dir={output}",
            f"coco.folder={test_data / 'coco_open'}",
            "dataloader.train.detection.num_workers=0",
            "dataloader.train.detection.mapper.augmentations.0.short_edge_length=[128]",
            "inference.min_size=128",
            "train.log_period=1",
        )
    )
    assert results["bbox"].keys() >= {"AP", "AP50", "AP75", "APs", "APm", "APl"}
    losses = [line["total_loss"] for _, line in sorted(metrics(output).items())]
    assert len(losses) == 50
    assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[:10])
    assert "skipped 0" in capsys.readouterr().out

    images = sorted((test_data / "coco_open" / "val2017").iterdir())[:3]
    found = tmp_path / "found"
    command = ["predict", *images, "--names", "person, traffic light", "--model", output]
    assert detclip2([*map(str, command), "--output", str(found), "--score-threshold", "0"]) == 0
    assert len(list(found.iterdir())) == 3
