"""Configs that are data: what they may build, and what they may not."""

import argparse
import re
from pathlib import Path

import pytest
import yaml
from detectron2.config import LazyConfig
from detectron2.utils.registry import _convert_target_to_string, locate
from omegaconf import DictConfig, ListConfig, OmegaConf

from detclip2 import data_config
from detclip2.allowed_targets import _TARGETS, ALLOWED_TARGETS
from detclip2.cli import main as detclip2
from detclip2.config import fill_environment, load_config
from detclip2.engine import train_loop
from detclip2.inference.predictor import OpenVocabularyPredictor
from detclip2.utils.errors import UserError
from detclip2.utils.model_folder import SHIPPED, WEIGHTS_NAME

ROOT = Path(__file__).parents[1]
EMOJI_NANO = SHIPPED["emoji_nano"]
CONFIGS = sorted([*ROOT.glob("configs/**/*.py"), *ROOT.glob("projects/*/configs/*.py")])


def load(tmp_path, text, **kwargs):
    path = tmp_path / "config.yaml"
    path.write_text(text, "utf-8")
    return load_config(path, **kwargs)[0]


def targets(node):
    """Every target of a LazyConfig, by name; references are not followed."""
    if isinstance(node, DictConfig | ListConfig):
        node = OmegaConf.to_container(node, resolve=False)
    if isinstance(node, dict):
        if target := node.get("_target_"):
            yield target if isinstance(target, str) else _convert_target_to_string(target)
        node = list(node.values())
    if isinstance(node, list):
        for value in node:
            yield from targets(value)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_all_that_the_configs_of_the_project_build_is_allowed(path):
    assert set(targets(LazyConfig.load(str(path)))) <= ALLOWED_TARGETS


def test_each_allowed_name_is_the_object_of_its_module_or_nothing():
    """A name below a package is the same object, so comparing names as text is enough."""
    for module, names in _TARGETS.items():
        for name in names:
            target = locate(f"{module}.{name}")
            assert callable(target), name
            parts = module.split(".")
            for end in range(1, len(parts)):
                short = ".".join([*parts[:end], name])
                assert short in ALLOWED_TARGETS
                try:
                    found = locate(short)
                except ImportError:
                    continue
                assert found == target, short


RUNS = "{_target_: subprocess.check_output, args: [touch, %s]}"


@pytest.mark.parametrize(
    "text",
    [
        f"model: {RUNS}",
        f"model: {{_target_: detclip2.modeling.DetCLIPv2, head: {{x: [1, [{RUNS}]]}}}}",
        f"a: {RUNS}\nmodel: ${{a}}",
        "a: subprocess.check_output\nmodel: {_target_: '${a}', args: [touch, %s]}",
        "a: os\nmodel: {_target_: '${a}.system', command: 'touch %s'}",
        f"model: {{_target_: {RUNS}}}",
        f"model: {{_target_: [{RUNS}]}}",
        f"model: &a {RUNS}\nother: {{<<: *a}}",
        f"other: &a {RUNS}\nmodel: {{<<: *a}}",
        "model: {_target_: detclip2.modeling.backbone.sys.modules, x: %s}",
        "model: {_target_: detclip2.utils.repository.os.system, command: 'touch %s'}",
        "model: {_target_: detclip2.config.load_config, source: %s, trust_config: true}",
        "model: {_target_: detclip2.get_config, name: %s}",
        "model: {_target_: detectron2.config.LazyConfig.load, filename: %s}",
        "model: {_target_: builtins.eval, source: '%s'}",
        "model: {_target_: detclip2.modeling.DetCLIPv2 , _partial_: true, x: %s}",
        "model: {_target_: detclip2.modeling.DetCLIPv2, _args_: [%s]}",
        "model: {_call_: os.system, x: %s}",
        "model: {_target_: null, x: %s}",
        "model: {_target_: 7, x: %s}",
        "model: {_target_: '', x: %s}",
        "model: {_target_: '???', x: %s}",
        "model: {a: '${oc.create:\"{_target_: os.system, command: touch %s}\"}'}",
        "model: {a: '${oc.env:HOME}', b: %s}",
        "model: {a: 'x${oc.env:HOME,nothing}', b: %s}",
        "model: {a: '${oc.decode:${b}}', b: %s}",
        "model: {a: '${b}${c}', b: $, c: '{oc.env:HOME}', d: %s}",
        "model: {a: '${${b}:HOME}', b: oc.env, c: %s}",
        "model: {'${oc.env:HOME}': %s}",
        "train: {compile: {options: {cpp.cxx: [touch %s]}}}",
        "a: {options: {cpp.cxx: [touch %s]}}\ntrain: {compile: '${a}'}",
        "a: {compile: {options: {cpp.cxx: [touch %s]}}}\ntrain: ${a}",
        "train: {wandb: {project: %s, settings: {base_url: 'http://127.0.0.1:9'}}}",
        "model: !!python/object/apply:os.system ['touch %s']",
        "model: {a: !!python/name:os.system , b: %s}",
        "model: {a: !!python/tuple [1, 2], b: %s}",
        "model: {a: !mine [1, 2], b: %s}",
    ],
)
def test_data_runs_no_code(tmp_path, text):
    ran = tmp_path / "ran"
    with pytest.raises(UserError, match=re.escape(str(tmp_path / "config.yaml"))) as error:
        load(tmp_path, text % ran)
    assert not ran.exists()
    assert len(str(error.value)) < 500


def test_the_message_says_where_and_how_to_allow_it(tmp_path):
    text = "a: {b: [1, {_target_: detclip2.modeling.DetCLIPv3}]}"
    with pytest.raises(UserError) as error:
        load(tmp_path, text)
    message = str(error.value)
    assert "a.b[1]._target_ is 'detclip2.modeling.DetCLIPv3'" in message
    assert "did you mean detclip2.modeling.DetCLIPv2?" in message
    assert "--trust-config (in Python: trust_config=True)" in message


def test_nothing_is_imported_for_a_name_that_is_not_allowed(tmp_path, monkeypatch):
    (tmp_path / "harmful_module.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="harmful_module"):
        load(tmp_path, "model: {_target_: harmful_module.Model}")


def test_a_trusted_config_builds_anything(tmp_path, monkeypatch):
    monkeypatch.setenv("DETCLIP2_OF_THE_TEST", "read")
    text = "a: {_target_: builtins.dict, x: !!python/tuple [1]}\nb: ${oc.env:DETCLIP2_OF_THE_TEST}"
    cfg = load(tmp_path, text, trust_config=True)
    assert cfg.a._target_ == "builtins.dict"
    assert cfg.b == "read"


def test_plain_values_and_references_are_read(tmp_path):
    text = """
    base: &base {lr: 1.0e-3, betas: [0.9, 0.999], day: 2026-01-02, none: null}
    other: {<<: *base, lr: 2}
    train: {output_dir: ./output, name: "$5 {x}"}
    folder: ${train.output_dir}/inference
    list: [{a: "${...base.betas[1]}", b: "${.a}"}]
    """
    cfg = load(tmp_path, text)
    assert cfg.other.lr == 2
    assert list(cfg.other.betas) == [0.9, 0.999]
    assert cfg.folder == "./output/inference"
    assert cfg.list[0].b == 0.999
    assert cfg.train.name == "$5 {x}"


def test_a_model_folder_runs_no_code(tmp_path):
    ran = tmp_path / "ran"
    text = (EMOJI_NANO / "config.yaml").read_text("utf-8")
    harmful = f"world: {{_target_: subprocess.check_output, args: [touch, {ran}]}}"
    path = tmp_path / "config.yaml"
    path.write_text(re.sub(r"^world: .*$", harmful, text, flags=re.MULTILINE), "utf-8")
    with pytest.raises(UserError, match=r"world\._target_ is 'subprocess\.check_output'"):
        OpenVocabularyPredictor(path, EMOJI_NANO / WEIGHTS_NAME, device="cpu")
    assert not ran.exists()


@pytest.mark.parametrize("name", ["/models/clip", "../clip", "a/../../clip", "resource://../x"])
def test_a_model_folder_names_no_file_outside(tmp_path, name):
    text = (EMOJI_NANO / "config.yaml").read_text("utf-8")
    path = tmp_path / "config.yaml"
    path.write_text(text.replace("resource://text_tower_nano", name), "utf-8")
    with pytest.raises(UserError, match=r"model\.text_tower\.model\.path is .* outside"):
        OpenVocabularyPredictor(path, EMOJI_NANO / WEIGHTS_NAME, device="cpu")


def bomb(levels, width=9):
    lines = [f"a0: &a0 [{', '.join('x' * width)}]"]
    lines += [
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * width)}]" for i in range(1, levels)
    ]  # 9 ** levels values
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (bomb(12), "more than 100,000 entries"),
        ("a: &a [*a]", "nested more than 64 levels"),
        ("a: &a {b: *a}", "nested more than 64 levels"),
        ("a: {b: '${c}'}\nc: {d: '${a}'}", "nested more than 64 levels"),
        ("a: " + "[" * 100_000, "nested more than 64 levels"),
        ("a: " + "{a: " * 100_000, "nested more than 64 levels"),
        ("- " * 100_000, "nested more than 64 levels"),
        ("a: " + "1" * 10_000, "cannot be loaded"),
        ("a: 2026-99-99", "cannot be loaded"),
        ("#" * (data_config.MAX_BYTES + 1), "more than 4,194,304 bytes"),
        ("[1, 2]", "holds no keys"),
        ("", "holds no keys"),
        ("a: [1", "line 1: this config cannot be loaded"),
        ("? [1, 2]\n: 3", "cannot be loaded"),
        ("a: \x00", "cannot be loaded"),
    ],
    ids=lambda value: value[:20],
)
def test_bombs_and_damage_end_in_a_sentence(tmp_path, text, sentence):
    with pytest.raises(UserError, match=sentence):
        load(tmp_path, text)


@pytest.mark.parametrize("trust_config", [False, True])
def test_paths_relative_to_the_folder_become_absolute(tmp_path, monkeypatch, trust_config):
    """Of the node model, whatever folder the user is in; links stay, as in the hub's cache."""
    text = "model: {path: 'folder://bert', same: '${.path}', parts: [{a: 'folder://x/y'}, 3]}\n"
    text += "note: 'folder://bert'\n"
    (tmp_path / "blob").write_text(text)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.yaml").symlink_to(tmp_path / "blob")
    monkeypatch.chdir(tmp_path)
    cfg, _ = load_config("model/config.yaml", trust_config)
    assert cfg.model.path == cfg.model.same == str(folder / "bert")
    assert cfg.model.parts[0].a == str(folder / "x" / "y")
    assert cfg.note == "folder://bert"
    for path in ("folder:///etc", "folder://../x"):
        (tmp_path / "blob").write_text(f"model: {{path: '{path}'}}\n")
        with pytest.raises(UserError, match="leads out of the config's folder"):
            load_config("model/config.yaml", trust_config)


def test_references_that_multiply_end_in_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(data_config, "MAX_ENTRIES", 2000)
    levels = {f"a{i}": [f"${{a{i - 1}}}"] * 9 for i in range(1, 12)}
    with pytest.raises(UserError, match="more than 2,000 entries"):
        load(tmp_path, yaml.safe_dump({"a0": ["x"] * 9, **levels}))


def test_commands_refuse_a_model_folder_unless_it_is_trusted(tmp_path, capsys):
    text = (EMOJI_NANO / "config.yaml").read_text("utf-8")
    text = re.sub(r"^world: {", "world: {_target_: builtins.dict, ", text, flags=re.MULTILINE)
    (tmp_path / "config.yaml").write_text(text, "utf-8")
    (tmp_path / WEIGHTS_NAME).symlink_to(EMOJI_NANO / WEIGHTS_NAME)
    output = tmp_path / "names.safetensors"
    (tmp_path / "names.txt").write_text("cat")
    command = [
        "vocabulary",
        str(tmp_path / "names.txt"),
        "--output",
        str(output),
        "--model",
        str(tmp_path),
    ]
    assert detclip2([*command, "--device", "cpu"]) == 2
    assert "--trust-config" in capsys.readouterr().err
    assert not output.exists()
    assert detclip2([*command, "--device", "cpu", "--trust-config"]) == 0
    assert output.exists()


def test_a_training_refuses_a_config_unless_it_is_trusted(tmp_path):
    text = (EMOJI_NANO / "config.yaml").read_text("utf-8") + "\nmine: {_target_: builtins.dict}\n"
    path = tmp_path / "config.yaml"
    path.write_text(text, "utf-8")
    args = argparse.Namespace(config_file=str(path), opts=[])
    with pytest.raises(UserError, match=r"mine\._target_ is 'builtins\.dict'"):
        train_loop.load(args)
    args.trust_config = True
    assert train_loop.load(args).mine._target_ == "builtins.dict"


def test_the_config_of_a_run_has_the_values_of_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("DETCLIP2_OF_THE_TEST", "/data of mine")
    cfg = OmegaConf.create(
        {
            "coco": {"folder": "${oc.env:DETCLIP2_OF_THE_TEST}/coco", "same": "${..seed}"},
            "names": ["${oc.env:DETCLIP2_NOT_SET}", "${oc.env:DETCLIP2_NOT_SET,other}", 3],
            "seed": 1,
        }
    )
    fill_environment(cfg)
    assert OmegaConf.to_container(cfg, resolve=False) == {
        "coco": {"folder": "/data of mine/coco", "same": "${..seed}"},
        "names": ["${oc.env:DETCLIP2_NOT_SET}", "other", 3],
        "seed": 1,
    }
    del cfg.names[0]
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    assert load_config(tmp_path / "config.yaml")[0].coco.folder == "/data of mine/coco"
