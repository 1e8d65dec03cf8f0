"""GLIP at a tiny size: degenerate inputs, vocabularies as captions, and the cost of captions."""

import contextlib
import copy

import pytest
import torch
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Boxes, Instances

from detclip2.config import InferenceSettings
from detclip2.engine.micro_batch import GradientsInParts
from detclip2.inference.predictor import OpenVocabularyPredictor
from detclip2.inference.vocabulary import Vocabulary
from detclip2.modeling.meta_arch.glip import GLIP
from detclip2.modeling.protocol import OpenVocabularyModel
from detclip2.utils.errors import UserError
from tests.helpers.degenerate_inputs import DegenerateInputs
from tests.helpers.detclip_samples import NAMES, assert_same, detect, image, sample
from tests.helpers.tiny_glip import TOKENS, check_half_precision, tiny_glip, without_randomness

LOSSES = {"loss_align", "loss_box", "loss_centerness"}
OF_SUPERVISION = {"detection": LOSSES, "grounding": LOSSES}


@pytest.fixture(scope="module")
def models():
    return {fuse: tiny_glip(fuse) for fuse in (True, False)}


@pytest.fixture
def model(models):
    return copy.deepcopy(models[True])


@pytest.fixture
def detector(model):
    model.set_vocabulary(NAMES)
    return model.eval()


class TestDegenerateInputs(DegenerateInputs):
    losses = OF_SUPERVISION

    @pytest.fixture
    def model(self, model):
        return model

    @pytest.fixture
    def detector(self, detector):
        return detector


class Calls:
    """Counts the calls of a module."""

    def __init__(self, module):
        self.number = 0
        module.register_forward_hook(self.count)

    def count(self, *args):
        self.number += 1


def test_it_is_a_registered_model(model):
    assert META_ARCH_REGISTRY.get("GLIP") is GLIP
    assert isinstance(model, OpenVocabularyModel)
    assert model.reads_names


def test_the_image_is_computed_once_for_all_captions_and_the_text_once_for_all_images(detector):
    backbone, text, head = map(Calls, (detector.backbone, detector.text_tower.model, detector.head))
    detector.names_per_caption = 10
    detector.set_vocabulary([f"thing {i}" for i in range(40)])
    captions = len(detector.text_bank.state(detector.prepare_rows).captions)
    assert captions == 4
    for seed in (0, 1):
        detect(detector, [{"image": image(seed=seed)}])
    assert backbone.number == 2
    assert text.number == captions
    assert head.number == 2 * captions


def test_a_head_without_fusion_runs_once(models):
    model = copy.deepcopy(models[False]).eval()
    backbone, head = Calls(model.backbone), Calls(model.head)
    model.names_per_caption = 10
    model.set_vocabulary([f"thing {i}" for i in range(40)])
    [found] = detect(model, [{"image": image()}])
    assert (backbone.number, head.number) == (1, 1)
    assert len(set(found.pred_classes.tolist())) > 20


def test_several_captions_give_the_detections_of_each(detector):
    """Each name as in a model that is asked for the names of its caption alone."""
    names = [f"thing {i}" for i in range(20)]
    detector.names_per_caption = 8
    detector.postprocess.thresholds = type(detector.postprocess.thresholds)(0.0, 0.6, False, 10_000)
    detector.set_vocabulary(names)
    [found] = detect(detector, [{"image": image()}])
    total = 0
    for first in range(0, 20, 8):
        detector.set_vocabulary(names[first : first + 8])
        [part] = detect(detector, [{"image": image()}])
        own = found[(found.pred_classes >= first) & (found.pred_classes < first + 8)]
        own.pred_classes = own.pred_classes - first
        assert_same(own, part)
        total += len(part)
    assert total == len(found) > 20


def test_a_repeated_name_is_in_the_caption_once_and_found_for_each_label(detector):
    state = detector.prepare_vocabulary(["dog", "cat", "dog"])
    assert [caption.text for caption in state.captions] == ["dog. cat"]
    detector.set_vocabulary(["dog", "cat", "dog"])
    [found] = detect(detector, [{"image": image()}])
    first, third = (found[found.pred_classes == label] for label in (0, 2))
    torch.testing.assert_close(first.scores, third.scores)
    assert len(first) > 0


def test_a_name_without_tokens_is_never_found(detector):
    detector.postprocess.min_probability = 0.0
    detector.set_vocabulary(["", "cat"])
    [found] = detect(detector, [{"image": image()}])
    assert set(found.pred_classes.tolist()) == {1}
    assert found.scores.isfinite().all()


def test_a_vocabulary_is_read_by_its_names(detector):
    """Synonyms are names of their own, whose detections are their label's."""
    vocabulary = Vocabulary.from_names([["couch", "sofa"], "cat"]).encode_with(detector)
    assert not vocabulary.is_encoded
    state = detector.prepare_vocabulary(vocabulary)
    [caption] = state.captions
    assert caption.text == "couch. sofa. cat"
    assert caption.labels.tolist() == [0, 0, 1]
    assert detector.prepare_vocabulary(state) is state
    with pytest.raises(UserError, match="reads the names"):
        detector.prepare_vocabulary(torch.zeros(2, 16))
    with pytest.raises(UserError, match="no embeddings"):
        detector.encode_phrases(["cat"])
    with pytest.raises(UserError, match="call set_vocabulary"):
        detect(tiny_glip().eval(), [{"image": image()}])


def test_new_weights_discard_encoded_captions(detector):
    [before] = detect(detector, [{"image": image()}])
    detector.train().eval()
    with torch.no_grad():
        detector.text_tower.model.embeddings.word_embeddings.weight.normal_(
            generator=torch.Generator().manual_seed(1)
        )
    [after] = detect(detector, [{"image": image()}])
    assert before.scores[:5].tolist() != after.scores[:5].tolist()


def test_the_text_changes_the_boxes(detector):
    """Which is what fusion is for."""
    deltas = []
    for names in (["dog"], ["cat"]):
        [caption] = detector.prepare_vocabulary(names).captions
        images = detector.preprocess_image([{"image": image()}])
        deltas.append(detector.encode_images(images, caption.repeated(1)).deltas)
    assert (deltas[0] - deltas[1]).abs().max() > 1e-4


def with_caption(caption, spans, classes=(0, 1)):
    """A grounding sample."""
    result = sample(classes=classes, phrases=[caption[b:e] for [[b, e]] in spans])
    return {**result, "supervision": "grounding", "caption": caption, "phrase_spans": spans}


def test_the_caption_of_grounding_data_is_read_as_it_is(model):
    caption = "a dog left of two cats"
    text = model.encode_text([with_caption(caption, [[[0, 5]], [[14, 22]]])])
    tokens = model.text_tower.tokenizer(caption)
    assert text.mask.sum() == len(tokens["input_ids"])
    [offsets] = model.text_tower.tokenize([caption])["offset_mapping"].tolist()
    of_word = {caption[begin:end].strip(): i for i, (begin, end) in enumerate(offsets)}
    marked = text.tokens_of[0]
    assert marked[0, of_word["dog"]]
    assert not marked[0, of_word["left"]]
    assert not marked[:, of_word["of"]].any()


def test_boxes_of_names_that_do_not_fit_are_no_targets(model):
    """The positives that fit are taught; the others have neither box nor token losses."""
    model.shuffle = False
    long = " ".join(["dog"] * 2 * TOKENS)
    [one] = [sample(classes=(0, 1), phrases=["cat", long])]
    text = model.encode_text([one])
    assert text.tokens_of[0].any(dim=1).tolist() == [True, False]
    alone = copy.deepcopy(one)
    kept = Instances(one["instances"].image_size)
    kept.gt_boxes = Boxes(one["instances"].gt_boxes.tensor[:1])
    kept.gt_classes = one["instances"].gt_classes[:1]
    alone["instances"] = kept
    outputs = model.encode_images(model.preprocess_image([one]), text)
    both, first = (model.losses(outputs, text, [s]) for s in (one, alone))
    assert both == first


def test_names_are_shuffled_in_training_only(model):
    names = [f"thing {i}" for i in range(6)]
    samples = [sample(classes=(0,), boxes=[(10, 8, 50, 40)], phrases=names)] * 8
    torch.manual_seed(0)

    def orders():
        found = model.encode_text(samples).tokens_of
        return {tuple(own.float().argmax(dim=1).argsort().tolist()) for own in found}

    assert len(orders()) > 4
    model.eval()
    assert orders() == {tuple(range(6))}


def test_gradients_reach_every_parameter(model):
    losses = model([sample()])
    sum(losses.values()).backward()
    unused = {name for name, p in model.named_parameters() if p.grad is None}
    assert unused == set()


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_half_precision_gives_nearly_the_same_losses(model, precision):
    check_half_precision(model, precision)
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("supervision", ["detection", "grounding"])
def test_gradients_in_parts_equal_those_of_the_batch(model, supervision):
    """Captions of different lengths, and an image without boxes."""
    samples = [
        sample(supervision=supervision),
        sample(supervision=supervision, seed=1, phrases=["a long red fire engine", "cat", "tree"]),
        sample(supervision=supervision, seed=2, boxes=(), classes=()),
    ]
    model = without_randomness(model)
    losses = model(samples)
    sum(losses.values()).backward()
    whole = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad()
    parts = GradientsInParts(model, contextlib.nullcontext, lambda loss: loss)(samples, 2)
    for name, loss in losses.items():
        torch.testing.assert_close(parts[name], loss.detach(), atol=1e-5, rtol=1e-4)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, whole[name], atol=1e-4, rtol=1e-3, msg=name)


def test_the_predictor_returns_the_callers_labels(model):
    settings = InferenceSettings(min_size=64, max_size=96)
    predictor = OpenVocabularyPredictor.from_model(model, settings)
    predictor.set_vocabulary(["dog_(pet)", ["couch", "sofa"]])
    pixels = image().permute(1, 2, 0).numpy()
    found = predictor(pixels)
    assert set(found.labels) == {"dog_(pet)", "couch"}
    [alone] = predictor([pixels], vocabulary=["dog_(pet)"])
    assert set(alone.labels) == {"dog_(pet)"}


def test_an_evaluation_sets_a_vocabulary_of_names(detector):
    vocabulary = Vocabulary.from_names([["couch", "sofa"], "cat"])
    detector.set_vocabulary(vocabulary.encode_with(detector))
    [found] = detect(detector, [{"image": image()}])
    assert set(found.pred_classes.tolist()) == {0, 1}
