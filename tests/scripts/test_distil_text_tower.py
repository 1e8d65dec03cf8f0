"""Distillation with a small random BERT as the teacher."""

import json
from collections import Counter

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch.nn import functional as F

from detclip2.modeling.text.text_tower import TextTower, load_text_model, load_tokenizer
from scripts import compare_text_towers as compare
from scripts import distil_text_tower as script

WORDS = ["dog", "cat", "red", "apple", "car", "truck", "a", "d", "c", *(f"##{c}" for c in "spogle")]
TEXTS = ["dog", "red dog", "cat", "a red apple", "car", "red car", "truck", "a truck", "cats"]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    vocabulary = {piece: i for i, piece in enumerate([*script.SPECIAL, *WORDS])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ids = [(piece, vocabulary[piece]) for piece in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, ids)
    tokenizer.add_special_tokens(list(script.SPECIAL))
    tokenizer.enable_padding(length=40)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=48,
        initializer_range=0.2,
    )
    transformers.BertModel(config).eval().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def distilled(teacher, tmp_path_factory):
    folder = tmp_path_factory.mktemp("student")
    lines = folder / "lines.txt"
    lines.write_text("\n".join(TEXTS) + "\n")
    arguments = ["--teacher", teacher, "--output", folder, "--lines", lines]
    arguments += ["--pieces", 17, "--width", 32, "--layers", 1, "--epochs", 150, "--lr", 5e-3]
    assert script.main([str(a) for a in arguments]) == 0
    return folder


def test_the_student_is_a_tower_in_the_axes_of_the_teacher(teacher, distilled):
    tower = TextTower(
        load_text_model(str(distilled)), load_tokenizer(str(distilled)), None, 24, "mean"
    ).eval()
    ours = F.normalize(tower.encode_phrases(TEXTS), dim=1)
    vectors = script.teacher_vectors(
        load_text_model(str(teacher)).eval(), load_tokenizer(str(teacher)), TEXTS
    )
    axes = script.principal_axes(vectors, 32)
    target = F.normalize(vectors @ axes, dim=1)
    assert (ours * target).sum(1).mean() > 0.8
    torch.testing.assert_close(ours @ ours.T, vectors @ vectors.T, atol=0.25, rtol=0)


def test_weights_are_stored_in_half_precision_and_used_in_full(distilled):
    from safetensors.torch import load_file

    assert {t.dtype for t in load_file(distilled / "model.safetensors").values()} == {torch.float16}
    model = load_text_model(str(distilled))
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_teacher_vectors_are_those_of_single_texts(teacher):
    model, tokenizer = load_text_model(str(teacher)).eval(), load_tokenizer(str(teacher))
    together = script.teacher_vectors(model, tokenizer, TEXTS)
    for text, vector in zip(TEXTS, together, strict=True):
        tokens = tokenizer(text, padding=False, return_tensors="pt")
        with torch.no_grad():
            states = model(input_ids=tokens["input_ids"]).last_hidden_state[0]
        torch.testing.assert_close(F.normalize(states.mean(0), dim=0), vector, atol=0.02, rtol=0)


def test_the_trimmed_tokenizer_still_writes_every_word(teacher, distilled):
    whole, trimmed = load_tokenizer(str(teacher)), load_tokenizer(str(distilled))
    assert len(trimmed) == 17
    assert whole.tokenize("a red apple") == ["a", "red", "apple"]
    assert trimmed.tokenize("a red apple") == ["a", "red", "a", "##p", "##p", "##l", "##e"]
    ids = trimmed("dog", padding=False)["input_ids"]
    assert trimmed.convert_ids_to_tokens(ids) == ["[CLS]", *trimmed.tokenize("dog"), "[SEP]"]
    content = json.loads((teacher / "tokenizer.json").read_text())
    few = script.trim_tokenizer(content, Counter(dog=5, red=9), 11)["model"]["vocab"]
    assert list(few.values()) == list(range(11))
    assert set(few) == {*script.SPECIAL, "a", "d", "c", "##s", "##p", "##o"}


def test_axes_keep_most_of_the_squared_length():
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(50, 6, generator=generator) * torch.tensor([1, 9, 1, 5, 1, 1.0]) + 3
    axes = script.principal_axes(vectors, 2)
    torch.testing.assert_close(axes.T @ axes, torch.eye(2), atol=1e-5, rtol=0)
    expected = torch.linalg.svdvals(vectors)[:2].square().sum()
    torch.testing.assert_close((vectors @ axes).square().sum(), expected)


def test_a_missing_teacher_is_one_sentence(tmp_path, capsys):
    arguments = ["--teacher", str(tmp_path), "--output", str(tmp_path / "out")]
    assert script.main(arguments) == 2
    assert "needs config.json" in capsys.readouterr().err


def test_ranking_agreement_against_spearmans_formula():
    generator = torch.Generator().manual_seed(0)
    first = F.normalize(torch.randn(20, 4, generator=generator), dim=1)
    second = F.normalize(first + 0.3 * torch.randn(20, 4, generator=generator), dim=1)
    correlation, overlap = compare.ranking_agreement(first, second, torch.tensor([3, 7]))
    expected, shared = [], []
    for row in (3, 7):
        others = [i for i in range(20) if i != row]
        a, b = ((v[others] @ v[row]).numpy() for v in (first, second))
        best = [set(np_best[:10]) for np_best in ((-a).argsort(), (-b).argsort())]
        differences = a.argsort().argsort() - b.argsort().argsort()
        expected.append(1 - 6 * (differences**2).sum() / (19 * (19**2 - 1)))
        shared.append(len(best[0] & best[1]) / 10)
    # The text itself, last in both rankings, raises the correlation of 20 ranks a little.
    assert correlation == pytest.approx(sum(expected) / 2, abs=0.05)
    assert overlap == pytest.approx(sum(shared) / 2)
    assert compare.ranking_agreement(first, first, torch.tensor([0])) == pytest.approx((1, 1))


def test_comparison_of_a_tower_with_its_teacher(teacher, distilled, tmp_path, capsys):
    names = tmp_path / "names.txt"
    names.write_text("\n".join([*TEXTS, "cat car", "dog car", "red red"]) + "\n")
    synonyms = tmp_path / "categories.json"
    categories = [{"name": "car", "synonyms": ["red car"]}, {"name": "dog", "synonyms": []}]
    synonyms.write_text(json.dumps({"categories": categories}))
    arguments = ["--teacher", teacher, "--student", distilled, "--synonyms", synonyms]
    assert compare.main([*map(str, arguments), "--names", str(names), "--sample", "5"]) == 0
    printed = capsys.readouterr().out
    assert "synonyms: 1\n" in printed
    assert "names: 12\n" in printed
