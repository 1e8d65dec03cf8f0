import functools

import pytest
import torch
import transformers
import yaml
from detectron2.config import LazyCall, LazyConfig, instantiate
from omegaconf import OmegaConf

from detclip2.cli import main as detclip2
from detclip2.commands.plan import (
    model_to_measure,
    optimizer_bytes,
    sent_bytes,
    supervision_of,
)
from detclip2.data.mappers import GroundingMapper
from detclip2.data.sample import check_sample
from detclip2.engine.step_cost import (
    kept_for_backward,
    source_shares,
    step_cost,
    synthetic_samples,
)
from detclip2.labelling.estimate import LabelCost
from detclip2.modeling.text.text_tower import load_text_model
from detclip2.utils.errors import UserError
from tests.helpers.tiny_training import PROJECT, tiny_config

PRETRAIN = PROJECT / "configs" / "pretrain_o365_goldg_cc15m_swin_t.py"


@pytest.fixture(autouse=True)
def folder_of_data(monkeypatch, tmp_path):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))


def run(*words):
    return detclip2(["plan", *map(str, words)])


def rows(printed):
    """First word of each line of the table -> the other words."""
    lines = [line.split() for line in printed.splitlines() if line.strip()]
    return {words[0]: words[1:] for words in lines}


# By hand: 12 x 660,000 / 128 = 61,875 and so on, rounded up.
T_ROWS = {
    "detection": ["128", "4", "61,875", "7,920,000", "12.0"],
    "flickr": ["128", "4", "13,969", "1,788,032", "12.0"],
    "mixed": ["128", "4", "58,219", "7,452,032", "12.0"],
    "pairs": ["6,144", "192", "25,391", "156,002,304", "12.0"],
}
L_ROWS = {
    "detection": ["256", "4", "30,938", "7,920,128", "12.0"],
    "flickr": ["256", "4", "6,985", "1,788,160", "12.0"],
    "mixed": ["256", "4", "29,110", "7,452,160", "12.0"],
    "pairs": ["6,144", "96", "25,391", "156,002,304", "12.0"],
}


@pytest.mark.parametrize(
    ("name", "gpus", "expected", "iterations"),
    [
        ("o365_swin_t", 32, T_ROWS, "61,875"),
        ("o365_goldg_swin_t", 32, T_ROWS, "134,063"),
        ("o365_goldg_cc15m_swin_t", 32, T_ROWS, "159,454"),
        ("o365_swin_l", 64, L_ROWS, "30,938"),
        ("o365_goldg_swin_l", 64, L_ROWS, "67,033"),
        ("o365_goldg_cc15m_swin_l", 64, L_ROWS, "92,424"),
    ],
)
def test_plans_of_the_papers_runs_need_no_data(capsys, name, gpus, expected, iterations):
    config = PROJECT / "configs" / f"pretrain_{name}.py"
    assert run("--config", config, "--gpus", gpus, "--no-measure") == 0
    table = rows(capsys.readouterr().out)
    sources = ["detection"] + ["flickr", "mixed"] * ("goldg" in name) + ["pairs"] * ("cc" in name)
    assert table.keys() & expected.keys() == set(sources)
    for source in sources:
        assert table[source][:5] == expected[source]
    assert table["iterations:"] == [iterations]


GIVEN = {"detection": (0.5, 60), "flickr": (0.5, 68), "mixed": (0.5, 68), "pairs": (2, 140)}


def given(number):
    """Options with the seconds and the loading rate of the first sources."""
    words = []
    for source, (seconds, loaded) in [*GIVEN.items()][:number]:
        words += ["--seconds", f"{source}={seconds}", "--loaded", f"{source}={loaded}"]
    return words


def test_hours_and_loaders_follow_from_given_times_and_rates(capsys):
    assert run("--config", PRETRAIN, "--gpus", 32, "--no-measure", *given(4)) == 0
    printed = capsys.readouterr().out
    table = rows(printed)
    assert table["pairs"] == [*T_ROWS["pairs"], "2.00", "-", "-", "1"]
    # By hand: 134,063 iterations of 0.5 s and 25,391 of 2 s.
    hours = (134_063 * 0.5 + 25_391 * 2) / 3600
    assert f"{hours:.1f} h on 32 GPUs with the given times, {32 * hours:,.0f} GPU h" in printed
    # 0.84 x 4 boxes and 0.16 x 192 pairs in a mean iteration of 0.74 s: 41 pairs a second.
    assert "loader processes: 4 a GPU, 128 in all" in printed


def test_ten_times_the_pairs_take_ten_times_their_iterations(capsys):
    words = ["--config", PRETRAIN, "--gpus", 32, "--no-measure", "--times", "pairs=10"]
    assert run(*words, *given(4)) == 0
    printed = capsys.readouterr().out
    table = rows(printed)
    assert table["pairs"][2:5] == ["253,910", "1,560,023,040", "12.0"]
    assert table["detection"][:5] == T_ROWS["detection"]
    assert table["iterations:"] == ["387,973"]
    hours = (134_063 * 0.5 + 253_910 * 2) / 3600
    assert f"{hours:.1f} h on 32 GPUs" in printed
    # 0.65 x 192 pairs in a mean iteration of 1.48 s: 85 a second, of 112 that a loader makes.
    assert table["pairs"][-1] == "1"


def test_without_the_time_of_every_source_there_are_no_totals(capsys):
    assert run("--config", PRETRAIN, "--gpus", 32, "--no-measure", *given(3)) == 0
    printed = capsys.readouterr().out
    assert rows(printed)["detection"][5:] == ["0.50", "-", "-", "-"]
    assert rows(printed)["pairs"][5:] == ["-", "-", "-", "-"]
    assert "GPU h" not in printed
    assert "loader processes" not in printed


@pytest.mark.parametrize("option", ["--seconds", "--loaded", "--times"])
def test_a_number_of_an_unknown_source_is_reported(capsys, option):
    assert run("--config", PRETRAIN, "--gpus", 32, "--no-measure", option, "pears=3") == 2
    assert f"{option} names 'pears'; the sources of the config are" in capsys.readouterr().err


# By hand: 30 x 660,000 / 64 = 309,375 and so on, rounded up.
GLIP_ROWS = {
    "detection": ["64", "2", "309,375", "19,800,000", "30.0"],
    "flickr": ["64", "2", "69,844", "4,470,016", "30.0"],
    "mixed": ["64", "2", "291,094", "18,630,016", "30.0"],
}


@pytest.mark.parametrize(
    ("name", "gpus", "expected", "iterations"),
    [
        ("pretrain_o365_glip_a", 32, {"detection": GLIP_ROWS["detection"]}, "309,375"),
        ("pretrain_o365_glip_b", 32, {"detection": GLIP_ROWS["detection"]}, "309,375"),
        ("pretrain_o365_goldg_glip_c", 32, GLIP_ROWS, "670,313"),
        ("pretrain_o365_goldg_cap4m_glip_t", 32, {"web": ["64", "2", "243,094"]}, "330,000"),
        ("coco_glip_t_finetune", 16, {"detection": ["32", "2", "88,716"]}, "88,716"),
    ],
)
def test_plans_of_glips_runs_need_no_data(capsys, name, gpus, expected, iterations):
    config = PROJECT.parent / "GLIPv2" / "configs" / f"{name}.py"
    assert run("--config", config, "--gpus", gpus, "--no-measure") == 0
    table = rows(capsys.readouterr().out)
    for source, cells in expected.items():
        assert table[source][: len(cells)] == cells
    assert table["iterations:"] == [iterations]


@pytest.mark.slow
def test_a_step_of_every_source_is_measured(tmp_path, capsys):
    cfg = tiny_config(tmp_path)
    cfg.train.source_ratios = {"detection": 1, "pairs": 3}
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    assert run("--config", tmp_path / "config.yaml", "--gpus", 2, "train.max_iter=8") == 0
    printed = capsys.readouterr().out
    table = rows(printed)
    assert table["detection"][:3] == ["4", "2", "2"]
    assert table["pairs"][:4] == ["4", "2", "6", "24"]
    for source in ("detection", "pairs"):
        for number in (-3, -5):  # sent, memory; then loaders
            assert float(table[source][number]) > 0
            assert table[source][number + 1] == "GB"
    assert "GPU h" in printed
    words = ["--config", tmp_path / "config.yaml", "--gpus", 2, "train.max_iter=8"]
    assert run(*words, "--seconds", "pairs=3") == 0
    given = rows(capsys.readouterr().out)["pairs"]
    assert given[-6] == "3.00"
    assert given[-5:] == table["pairs"][-5:]  # memory is counted all the same


def test_what_is_sent_is_known_of_detclipv2_alone():
    model = instantiate(tiny_config("").model)
    learning = sum(p.numel() for p in model.parameters() if p.requires_grad)
    # By hand, of 4 processes: gradients go round twice, less a quarter; the embeddings of
    # 2 x 7 phrases go to 3 others, and their gradients go round twice; so do 5 sums of 8 texts.
    boxes, captions = (sent_bytes(model, 4, 2, 7, kind) for kind in ("detection", "caption"))
    assert boxes == 1.5 * 4 * learning + 3 * 3 * 4 * 14 * model.embed_dim
    assert captions - boxes == 3 * 3 * 4 * 5 * 8
    assert sent_bytes(torch.nn.Linear(2, 2), 4, 2, 7, "detection") is None


def test_without_a_text_tower_random_weights_are_measured(capsys, monkeypatch):
    small = functools.partial(transformers.CLIPTextConfig, num_hidden_layers=1)
    monkeypatch.setattr(transformers, "CLIPTextConfig", small)
    cfg = tiny_config("")
    cfg.model.text_tower.model = LazyCall(load_text_model)(path="no/such-tower")
    with pytest.raises(UserError, match="no/such-tower"):
        instantiate(cfg.model)
    model = model_to_measure(cfg, "the config")
    said = capsys.readouterr().err
    assert "random text weights" in said
    assert "no/such-tower" in said
    assert model.text_tower.model.config.hidden_size == 512
    assert model.encode_phrases(["a cat", "a dog"]).shape == (2, 16)
    assert cfg.model.text_tower.model.path == "no/such-tower"


def test_optimizer_memory_equals_its_state_after_a_step():
    model = instantiate(tiny_config("").model)
    optimizer = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    kept = [s[key].nbytes for s in optimizer.state.values() for key in ("exp_avg", "exp_avg_sq")]
    assert optimizer_bytes(model, processes=1) == sum(kept)
    assert optimizer_bytes(model, processes=2) == sum(kept) / 2


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--gpus", 3], "3 GPUs cannot share a batch of 128"),
        (["--gpus", 0], "--gpus 0"),
        (["--gpus", 1, "train.source_ratios=null"], "train.source_ratios must be given"),
        (["--gpus", 1, "train.epoch=3"], "has no key 'epoch'"),
    ],
)
def test_a_mistake_is_reported(capsys, words, sentence):
    assert run("--config", PRETRAIN, *words) == 2
    assert sentence in capsys.readouterr().err


def test_a_config_without_training_data_is_reported(capsys):
    config = PROJECT / "configs" / "coco_swin_t_zero_shot.py"
    assert run("--config", config, "--gpus", 1) == 2
    assert "no dataloader.train" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("dataloader: 3", "no dataloader.train"),
        ("dataloader: {train: {a: {mapper: {}}}}", "train.a.total_batch_size is None"),
        ("dataloader: {train: {a: {mapper: {}, total_batch_size: two}}}", "is 'two'; expected"),
        ("images: 3", "images: expected keys"),
        ("images: {a: .nan}", "images.a is nan; expected an integer"),
        ("train: 3", "train: expected keys"),
        ("train: {max_iter: many}", "train.max_iter is 'many'; expected an integer"),
        ("train: {max_iter: 0}", "train.max_iter is 0; expected an integer above 0"),
        ("train: {ema: .nan}", "train.ema is nan; expected a finite number"),
        ("train: {amp: 3}", "train.amp: expected keys"),
        ("train: {amp: {precison: bfloat16}}", "train.amp has no key 'precison'; did you mean"),
        ("train: {checkpointer: {periods: 3}}", "train.checkpointer has no key 'periods'"),
        ("train: {reduce_lr_on_plateau: {patiense: 2}}", "did you mean 'patience'"),
        ("train: {log_period: 0}", "train.log_period is 0; expected an integer above 0"),
        ("train: {report_period: -1}", "train.report_period is -1; expected"),
        ("train: {clip_grad: -1.0}", "train.clip_grad is -1.0; expected 0 or more"),
        ("train: {micro_batch: {caption: 2.5}}", "train.micro_batch.caption is 2.5; expected a"),
        ("train: {micro_batch: {caption: -2}}", "train.micro_batch.caption is -2; expected a"),
        ("train: {micro_batch: {a: 2}}", "'a' is the name of a source; expected the supervision"),
        ("train: {zero: 1}", "train.zero is 1; expected true or false"),
        ("train: {source_ratios: 3}", "train.source_ratios: expected keys"),
        ("train: {source_ratios: {a: -1}}", "train.source_ratios.a is -1; expected a number"),
    ],
)
def test_values_of_another_kind_are_reported(tmp_path, capsys, change, sentence):
    content = yaml.safe_load("dataloader: {train: {a: {mapper: {}, total_batch_size: 2}}}")
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({**content, **yaml.safe_load(change)}))
    assert run("--config", path, "--gpus", 1, "--no-measure") == 2
    assert sentence in capsys.readouterr().err


class MyCaptionedDetectionMapper(GroundingMapper):
    """A mapper's supervision comes from its class, not from its name."""


@pytest.mark.parametrize(
    ("mapper", "supervision"),
    [
        (MyCaptionedDetectionMapper, "grounding"),
        ("detclip2.data.mappers.CaptionMapper", "caption"),
        ("detclip2.data.mappers.DetectionMapper", "detection"),
    ],
)
def test_the_supervision_is_the_mappers(mapper, supervision):
    node = OmegaConf.create({"mapper": {"_target_": mapper}}, flags={"allow_objects": True})
    assert supervision_of("boxes", node) == supervision


@pytest.mark.parametrize("mapper", ["builtins.dict", "detclip2.data.mappers.Mapper"])
def test_a_mapper_whose_supervision_cannot_be_measured_is_reported(mapper):
    node = OmegaConf.create({"mapper": {"_target_": mapper}})
    with pytest.raises(UserError, match=r"dataloader\.train\.boxes\.mapper: .* --no-measure"):
        supervision_of("boxes", node)


@pytest.mark.parametrize("kind", ["detection", "grounding", "caption"])
def test_synthetic_samples_are_in_the_sample_format(kind):
    for sample in synthetic_samples(2, (64, 96), 12, kind):
        check_sample(sample, 12)
        assert sample["image"].shape == (3, 64, 96)


def test_measuring_does_not_change_the_weights():
    torch.manual_seed(0)
    model = instantiate(tiny_config("").model).train()
    before = {name: p.clone() for name, p in model.named_parameters()}
    batches = []
    batch = synthetic_samples(2, (64, 64), 5, "detection")
    cost = step_cost(model, lambda: batches.append(1) or batch)
    assert cost.seconds > 0
    assert cost.memory > 2**20
    assert len(batches) == 4
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


class TwoLayers(torch.nn.Module):
    """A model whose kept tensors are known: (B, 4) inputs, (B, 8) between, (B, 3) at the end."""

    def __init__(self):
        super().__init__()
        self.first, self.last = torch.nn.Linear(4, 8), torch.nn.Linear(8, 3)

    def forward(self, batch):
        x = torch.stack([sample["x"] for sample in batch])
        return {"loss": self.last(self.first(x).relu()).exp().sum()}


@pytest.mark.parametrize("count", [1, 7])
def test_what_is_kept_for_the_backward_pass_is_counted(count):
    batch = [{"x": torch.ones(4)} for _ in range(count)]
    # The input, the result of relu (which the last layer reads too), and that of exp.
    assert kept_for_backward(TwoLayers(), batch) == 4 * count * (4 + 8 + 3)


@pytest.mark.parametrize(("kind", "least"), [("detection", 2), ("caption", 3.9)])
def test_what_is_kept_grows_with_the_samples_at_most(kind, least):
    """Memory scaled from a small batch is no less than that of a large one; boxes share phrases."""
    torch.manual_seed(0)
    model = instantiate(tiny_config("").model).train()
    small, large = (
        kept_for_backward(model, synthetic_samples(count, (64, 64), 6, kind)) for count in (2, 8)
    )
    assert least * small <= large <= 4 * small


def test_shares_come_from_the_config():
    cfg = tiny_config("")
    cfg.train.source_ratios = {"detection": 1, "pairs": 4}
    assert source_shares(cfg) == {"detection": 0.2, "pairs": 0.8}
    cfg.train.source_ratios = None
    with pytest.raises(UserError, match="source_ratios must be given"):
        source_shares(cfg)


def test_several_readers_share_the_reading():
    assert LabelCost(reading=0.4, detecting=0.1).images_per_second(2) == pytest.approx(5)
    assert LabelCost(reading=0.4, detecting=0.1).images_per_second(8) == pytest.approx(10)
