"""GLIPv2 at a tiny size: its losses, degenerate inputs, and words that it fills in."""

import contextlib
import copy

import pytest
import torch
from detectron2.config import LazyCall
from detectron2.modeling import META_ARCH_REGISTRY

from detclip2.config import check_keys
from detclip2.engine.micro_batch import GradientsInParts
from detclip2.modeling.losses.masked_language import NOT_MASKED
from detclip2.modeling.meta_arch.glipv2 import GLIPv2
from detclip2.modeling.protocol import OpenVocabularyModel
from detclip2.modeling.text.token_batch import TokenBatch
from detclip2.utils.errors import UserError
from tests.helpers.degenerate_inputs import DegenerateInputs
from tests.helpers.detclip_samples import NAMES, image, sample
from tests.helpers.tiny_glip import check_half_precision, tiny_glip, tiny_glipv2, without_randomness

OF_GLIP = {"loss_align", "loss_box", "loss_centerness"}
LOSSES = OF_GLIP | {"loss_inter", "loss_mlm"}
OF_SUPERVISION = {"detection": LOSSES, "grounding": LOSSES}
CAPTION = "a dog left of two cats"


@pytest.fixture(scope="module")
def one_model():
    return tiny_glipv2()


@pytest.fixture
def model(one_model):
    return copy.deepcopy(one_model)


class TestDegenerateInputs(DegenerateInputs):
    losses = OF_SUPERVISION

    @pytest.fixture
    def model(self, model):
        return model

    @pytest.fixture
    def detector(self, model):
        model.set_vocabulary(NAMES)
        return model.eval()


def with_caption(**more):
    """A grounding sample."""
    return {
        **sample(phrases=["a dog", "two cats"], supervision="grounding"),
        "caption": CAPTION,
        "phrase_spans": [[[0, 5]], [[14, 22]]],
        **more,
    }


def test_it_is_a_registered_model(model):
    assert META_ARCH_REGISTRY.get("GLIPv2") is GLIPv2
    assert isinstance(model, OpenVocabularyModel)


def test_an_unknown_key_of_its_config_is_named():
    """Also one that it would pass on to GLIP."""
    check_keys(LazyCall(GLIPv2)(shuffle=True, masked_language=None), "model", "a config")
    for key, near in {"maskd_language": "masked_language", "shufle": "shuffle"}.items():
        with pytest.raises(UserError, match=f"no key '{key}'; did you mean '{near}'"):
            check_keys(LazyCall(GLIPv2)(**{key: None}), "model", "a config")


def test_without_its_parts_it_is_glip():
    glip = without_randomness(tiny_glip())
    same = tiny_glip(meta_arch=GLIPv2)
    assert glip.state_dict().keys() == same.state_dict().keys()
    losses, expected = without_randomness(same)([sample()]), glip([sample()])
    assert losses == expected


def test_each_loss_is_a_switch_with_its_weight(model):
    samples = [sample(), sample(seed=1)]
    parts = {"loss_inter": "region_word_contrast", "loss_mlm": "masked_language"}
    model = without_randomness(model)
    expected = model(samples)
    assert expected.keys() == LOSSES
    assert all(loss > 0 for loss in expected.values())
    for part in parts.values():
        getattr(model, part).weight = 0.25
    for name, loss in model(samples).items():
        torch.testing.assert_close(loss, expected[name] * (0.25 if name in parts else 1))
    for name, part in parts.items():
        less = copy.deepcopy(model)
        setattr(less, part, None)
        assert less(samples).keys() == LOSSES - {name}


def test_the_other_losses_read_the_masked_caption(model):
    model = without_randomness(model)
    plain = copy.deepcopy(model)
    plain.masked_language = None
    losses, of_plain = model([with_caption()]), plain([with_caption()])
    for name in OF_GLIP | {"loss_inter"}:
        assert losses[name] != of_plain[name]


def test_words_are_masked_in_training_on_boxes_alone(model):
    def number(samples):
        targets = model.encode_text(samples).targets
        return None if targets is None else (targets != NOT_MASKED).sum().item()

    torch.manual_seed(0)
    assert number([with_caption()] * 20) > 5
    other = {key: value for key, value in sample().items() if key != "instances"}
    assert number([{**other, "supervision": "vqa", "question": "why?"}]) is None
    model.eval()
    assert number([with_caption()]) is None


def test_gradients_reach_every_parameter(model):
    """Of a batch in which a token is masked."""
    losses = without_randomness(model)([with_caption()])
    sum(losses.values()).backward()
    assert {name for name, p in model.named_parameters() if p.grad is None} == set()
    for part in (model.region_word_contrast, model.masked_language):
        assert all(p.grad.any() for p in part.parameters())


def test_a_caption_beyond_the_limit_of_tokens(model):
    """Its first phrase is learned, the other one has no token."""
    caption = "a dog " + "and so on " * 300 + "two cats"
    spans = [[[0, 5]], [[len(caption) - 8, len(caption)]]]
    losses = without_randomness(model)([with_caption(caption=caption, phrase_spans=spans)])
    assert losses.keys() == LOSSES
    assert all(loss.isfinite() and loss > 0 for loss in losses.values())


@pytest.mark.parametrize("fuse", [True, False])
def test_the_image_helps_to_predict_words_where_it_is_fused(fuse):
    model = without_randomness(tiny_glipv2(fuse))
    model.region_word_contrast = None
    losses = [model([with_caption(image=image(seed=seed))])["loss_mlm"].item() for seed in range(2)]
    assert (losses[0] != losses[1]) == fuse


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_half_precision_gives_nearly_the_same_losses(model, precision):
    check_half_precision(model, precision)


def test_gradients_in_parts_reach_fused_tokens_too():
    """Where L_inter reads tokens after fusion; others: tests/engine/test_micro_batch.py."""
    samples = [sample(), sample(seed=1, phrases=["a long red fire engine", "cat", "tree"])]
    model = without_randomness(tiny_glipv2(fused_text=True))
    losses = model(samples)
    sum(losses.values()).backward()
    whole = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad()
    parts = GradientsInParts(model, contextlib.nullcontext, lambda loss: loss)(samples, 1)
    for name, loss in losses.items():
        torch.testing.assert_close(parts[name], loss.detach(), atol=1e-5, rtol=1e-4)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, whole[name], atol=1e-4, rtol=1e-3, msg=name)


def test_fused_tokens_need_a_head_that_fuses():
    model = tiny_glipv2(fuse=False, fused_text=True)
    with pytest.raises(UserError, match="fused_text is true, but the head does not fuse"):
        model([sample()])


class TestFillingIn:
    @pytest.fixture
    def model(self, model):
        return model.eval()

    def asked(self, *spans, caption=CAPTION, size=(64, 96), seed=0):
        return {"image": image(*size, seed=seed), "caption": caption, "masked_spans": list(spans)}

    def test_words_are_those_of_the_best_tokens(self, model):
        """Computed step by step, for the words "dog" and "cats"."""
        [output] = model([self.asked((2, 5), (18, 22))])
        tower = model.text_tower
        tokens = tower.tokenize([CAPTION])
        ids, places = tokens["input_ids"].clone(), []
        for word in (" dog", " cats"):
            own = tower.tokenizer(word.strip(), add_special_tokens=False)["input_ids"]
            first = next(i for i in range(ids.shape[1]) if ids[0, i : i + len(own)].tolist() == own)
            places.append(list(range(first, first + len(own))))
        for place in places:
            ids[0, place] = tower.mask_token
        states = tower.encode({**tokens, "input_ids": ids})
        text = TokenBatch(states, tokens["attention_mask"].bool(), [], [])
        outputs = model.encode_images(model.preprocess_image([self.asked()]), text)
        logits = model.masked_language.logits(outputs.tokens, tower.word_embeddings)
        best = logits.argmax(dim=-1)[0]
        expected = [tower.tokenizer.decode(best[place]).strip() for place in places]
        assert output["words"] == expected

    def test_a_word_does_not_see_itself(self, model):
        a, b = model([self.asked((2, 5)), self.asked((2, 5), caption="a cow left of two cats")])
        assert a == b

    def test_the_image_is_seen_by_one_of_two(self, model):
        """And the blank one is the same for each image of a size."""
        for parameter in model.head.fusions.parameters():
            parameter.data.mul_(3)
        outputs = model([self.asked((2, 5), (14, 22), seed=seed) for seed in range(8)])
        seen = {tuple(output["words"]) for output in outputs}
        guessed = {tuple(output["words_without_image"]) for output in outputs}
        assert len(seen) > 1
        assert len(guessed) == 1

    def test_batched_equals_one_by_one(self, model):
        samples = [
            self.asked((2, 5)),
            self.asked((0, 1), (7, 11), size=(33, 70)),
            self.asked(caption="cats"),
            self.asked((0, 4), caption="cats and a much longer caption", size=(1, 1)),
        ]
        together = model(samples)
        assert [len(output["words"]) for output in together] == [1, 2, 0, 1]
        assert together == [model([one])[0] for one in samples]

    def test_a_word_beyond_the_limit_is_empty(self, model):
        caption = "dog " * 300
        [output] = model([self.asked((1196, 1199), caption=caption)])
        assert output["words"] == [""]

    def test_a_model_without_this_part_refuses(self):
        with pytest.raises(UserError, match="no masked_language"):
            tiny_glipv2(masked_language=None).eval()([self.asked((2, 5))])
