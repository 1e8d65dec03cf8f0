"""Questions and captions in GLIPv2: the causal text, losses, answers and captions."""

import math

import pytest
import torch
from torch.nn import functional as F

from detclip2.engine.micro_batch import GradientsInParts
from detclip2.modeling.heads.answer_head import AnswerHead
from detclip2.modeling.heads.caption_head import CaptionHead
from detclip2.modeling.losses.masked_language import NOT_MASKED
from detclip2.modeling.text.generation import write
from detclip2.modeling.text.token_batch import TokenBatch
from detclip2.utils.errors import UserError
from tests.helpers.tiny_glip import TEXT, TOKENS, tiny_glipv2, without_randomness

ANSWERS = ["yes", "no", "red"]
CAPTIONS = ["a red dog", "two cats on a bench by the sea", "dog"]


def parts():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return {
            "answer_head": AnswerHead(ANSWERS, TEXT),
            "caption_head": CaptionHead(beam_size=2, max_tokens=6),
        }


@pytest.fixture
def model():
    return without_randomness(tiny_glipv2(**parts()))


def image(seed, height=64, width=96):
    return torch.randint(
        0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


def sample(number, supervision, **texts):
    return {
        "image": image(number),
        "height": 64,
        "width": 96,
        "supervision": supervision,
        "phrases": [],
        "num_positives": 0,
        **texts,
    }


def questions():
    texts = ["is there a dog?", "which colour is the left one of both?", "is it red?"]
    answers = [{"yes": 1.0}, {"red": 0.9, "blue": 0.3}, {"no": 0.6}]
    pairs = zip(texts, answers, strict=True)
    return [sample(i, "vqa", question=q, answers=a) for i, (q, a) in enumerate(pairs)]


def captions():
    return [sample(i, "captioning", target_text=text) for i, text in enumerate(CAPTIONS)]


def fused(model, samples):
    text = model.encode_text(samples)
    return text, model.encode_images(model.preprocess_image(samples), text)


@torch.no_grad()
def test_a_word_of_a_caption_depends_on_those_before_it(model):
    before, outputs = fused(model, captions()[:1])
    longer = [sample(0, "captioning", target_text="a red dog sees a cat")]
    text, more = fused(model, longer)
    common = before.mask.sum() - 1  # without the end
    torch.testing.assert_close(more.tokens[:, :common], outputs.tokens[:, :common])
    torch.testing.assert_close(text.embeddings[:, :common], before.embeddings[:, :common])
    # A question is read both ways.
    for kind, key in (("vqa", "question"), ("captioning", "target_text")):
        short, long = (sample(0, kind, **{key: t}) for t in ("a red dog", "a red dog sees"))
        first = [fused(model, [one])[1].tokens[0, 1] for one in (short, long)]
        assert torch.allclose(*first, atol=1e-5) == (kind == "captioning")


@torch.no_grad()
def test_images_do_not_attend_to_captions(model):
    one, other = (
        fused(model, [sample(0, "captioning", target_text=text)])[1]
        for text in ("a red dog", "two cats on a bench")
    )
    assert torch.equal(one.regions, other.regions)
    asked, other = (
        fused(model, [sample(0, "vqa", question=text)])[1] for text in ("dog?", "two cats?")
    )
    assert not torch.allclose(asked.regions, other.regions)


@torch.no_grad()
def test_locations_computed_once_give_the_same_words(model):
    text, outputs = fused(model, captions())
    levels = model.pyramid(model.preprocess_image(captions()))
    read = model.head.read(model.head.locations(levels), text.embeddings, text.mask)
    torch.testing.assert_close(read[text.mask], outputs.tokens[text.mask])


@torch.no_grad()
def test_tokens_see_the_image(model):
    other = [{**one, "image": 255 - one["image"]} for one in captions()]
    words, changed = (fused(model, samples)[1].tokens for samples in (captions(), other))
    assert not torch.allclose(words, changed)


def test_the_loss_of_captions_token_by_token(model):
    samples = captions()
    losses = model(samples)
    assert losses.keys() == {"loss_caption"}
    text, outputs = fused(model, samples)
    total, number = 0.0, 0
    for b, caption in enumerate(CAPTIONS):
        ids = model.text_tower.tokenize([caption])["input_ids"][0]
        for place in range(len(ids) - 1):
            logits = model.word_logits(outputs.tokens[b, place])
            total -= logits.log_softmax(-1)[ids[place + 1]].item()
            number += 1
    assert losses["loss_caption"].item() == pytest.approx(total / number, rel=1e-4)
    assert number == text.mask.sum() - len(CAPTIONS)


def test_a_caption_over_the_limit_does_not_end_there(model):
    long = [sample(0, "captioning", target_text="dog " * 1000), captions()[0]]
    text = TokenBatch.from_samples(long, model.text_tower)
    assert text.mask.sum(dim=1).tolist() == [TOKENS, 5]
    assert (text.targets[0] != NOT_MASKED).sum() == TOKENS - 2
    assert (text.targets[1] != NOT_MASKED).sum() == 4
    loss = model(long)["loss_caption"]
    assert loss.isfinite()
    with_end = TokenBatch.from_samples(long[1:], model.text_tower).targets[0]
    assert with_end.tolist()[-2:] == [model.text_tower.tokenizer.eos_token_id, NOT_MASKED]


def test_the_loss_of_questions(model):
    samples = questions()
    losses = model(samples)
    assert losses.keys() == {"loss_answer"}
    logits = model.answer_head(fused(model, samples)[1].tokens)
    targets = torch.tensor([[1, 0, 0], [0, 0, 0.9], [0, 0.6, 0]])
    expected = F.binary_cross_entropy_with_logits(logits, targets, reduction="sum") / 3
    assert losses["loss_answer"].item() == pytest.approx(expected.item(), rel=1e-5)
    losses["loss_answer"].backward()
    for part in (model.backbone, model.text_tower, model.head.fusions, model.answer_head):
        assert any(p.grad is not None and p.grad.any() for p in part.parameters())


@pytest.mark.parametrize("make", [questions, captions])
def test_parts_of_a_batch_have_the_gradients_of_the_whole(model, make):
    samples = make()
    losses = model(samples)
    sum(losses.values()).backward()
    whole = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    in_parts = GradientsInParts(model, lambda: torch.autocast("cpu", enabled=False), lambda x: x)
    parts = in_parts(samples, 1)
    assert parts.keys() == losses.keys()
    for name, loss in losses.items():
        torch.testing.assert_close(parts[name], loss.detach())
    found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    for name, gradient in whole.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-3, msg=name)


@torch.no_grad()
def test_answers(model):
    samples = questions()
    samples[1]["image"] = image(1, 96, 64)  # another padded size
    model.eval()
    found = model(samples)
    for one, answers in zip(samples, found, strict=True):
        logits = model.answer_head(fused(model, [one])[1].tokens)
        probabilities = dict(zip(ANSWERS, logits.sigmoid()[0].tolist(), strict=True))
        best = sorted(probabilities, key=lambda answer: -probabilities[answer])
        assert answers["answers"] == best
        assert answers["probabilities"] == pytest.approx([probabilities[a] for a in best], abs=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("beam_size", [1, 3])
def test_captions_are_those_of_a_search_with_whole_forward_passes(model, beam_size):
    model.eval()
    tower = model.text_tower
    samples = captions()[:2]
    found = model.caption(samples, beam_size)
    start, end = tower.tokenizer.bos_token_id, tower.tokenizer.eos_token_id
    for one, written in zip(samples, found, strict=True):

        def next_token(texts, one=one):
            rows = []
            images = model.preprocess_image([one])
            for ids in texts:
                tokens = {"input_ids": ids[None], "attention_mask": torch.ones_like(ids)[None]}
                states = tower.encode(tokens, is_causal=True)
                mask = torch.ones(states.shape[:2], dtype=torch.bool)
                text = TokenBatch(states, mask, [], [], is_causal=True)
                rows.append(model.word_logits(model.encode_images(images, text).tokens[0, -1]))
            scores = torch.stack(rows).log_softmax(dim=1)
            scores[:, [t for t in tower.tokenizer.all_special_ids if t != end]] = -torch.inf
            return scores

        expected = write(next_token, start, end, 6, beam_size, length_penalty=1.0)
        assert written["caption"] == tower.tokenizer.decode(expected.tokens).strip()
        assert written["is_complete"] == expected.is_complete
        assert written["log_probability"] == pytest.approx(expected.log_probability, abs=1e-3)


def test_evaluation_writes_captions(model):
    model.eval()
    samples = [{k: v for k, v in one.items() if k != "target_text"} for one in captions()]
    found = model(samples)
    assert [one["caption"] for one in found] == [one["caption"] for one in model.caption(samples)]
    assert all(math.isfinite(one["log_probability"]) for one in found)


def test_a_batch_of_one(model):
    for make, name in ((questions, "loss_answer"), (captions, "loss_caption")):
        assert model(make()[2:])[name].isfinite()
    model.eval()
    assert len(model(questions()[:1])) == len(model(captions()[:1])) == 1


def test_parts_that_are_missing():
    plain = tiny_glipv2()
    for make, part in ((questions, "answer_head"), (captions, "caption_head")):
        with pytest.raises(UserError, match=f"the model has no {part}"):
            plain(make())
    with pytest.raises(UserError, match="the model has no answer_head"):
        plain.answer(questions())
    with pytest.raises(UserError, match="the model has no masked_language"):
        tiny_glipv2(masked_language=None, caption_head=CaptionHead())
    with pytest.raises(UserError, match="fuse is False"):
        tiny_glipv2(fuse=False, **parts())
    with pytest.raises(UserError, match="at least 1"):
        CaptionHead(beam_size=0)


def test_captions_are_written_with_tuned_prompts(model):
    """An offset of 0 changes nothing; another one changes the words."""
    before = model.caption([{"image": image(0)}])
    model.text_tower.add_prompt(["a red dog"])
    assert model.caption([{"image": image(0)}]) == before


def test_a_caption_ends_where_the_positions_of_the_text_model_end(model):
    model.caption_head.max_tokens = 10**6
    end = model.text_encoder.tokenize([""])["input_ids"][0, -1]
    words = model.word_logits

    def endless(states):
        return words(states).index_fill(1, end, -1e4)

    model.word_logits = endless
    [found] = model.caption([{"image": image(0, 32, 32)}], beam_size=1)
    assert not found["is_complete"]
