"""Word-region contrast against a loop over texts, words, images and regions."""

import itertools
import math

import pytest
import torch
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.structures import Boxes
from detectron2.utils.events import EventStorage

from detclip2.modeling.alignment import Alignment
from detclip2.modeling.heads.outputs import HeadOutputs
from detclip2.modeling.losses.word_region_contrast import WordRegionContrast
from detclip2.modeling.proposals import Proposals
from detclip2.modeling.text.text_batch import TextBatch
from detclip2.utils.errors import UserError
from tests.helpers.processes import run_processes

D, R = 5, 3
CAPTIONS = [
    ["a cat by the sea", "cat", "sea"],
    ["tree", "cat"],
    [],  # no usable phrase
    ["sea", "sea and a dog", "dog"],
    ["cat", "tree"],  # the same words as image 1
    ["dog"],  # an image without proposals
    ["dog", "a cat by the sea"],
]
NUM_PROPOSALS = [3, 2, 3, 1, 3, 0, 3]
SWITCHES = [
    {"matching": matching, "direction": direction, "negatives": negatives, "cosine": cosine}
    for matching, direction, negatives, cosine in itertools.product(
        ("one_to_one", "one_to_many", "largest_box", "whole_image"),
        ("text_to_image", "image_to_text", "both"),
        ("global", "local"),
        (False, True),
    )
]


def samples_of(captions):
    # One negative each, which the contrast must ignore.
    return [{"phrases": [*c, "nothing"], "num_positives": len(c)} for c in captions]


def proposals_of(regions, valid=None, areas=None):
    """All (B, R, D) regions, or the valid ones."""
    valid = torch.ones(regions.shape[:2], dtype=torch.bool) if valid is None else valid
    areas = valid.float() if areas is None else areas
    anchor = torch.arange(regions.shape[1]).expand(regions.shape[:2])
    return Proposals(regions, anchor, valid, areas)


def text_of(samples, embeddings=None, dtype=torch.float32, generator=None):
    """Phrases with random embeddings, or given ones."""
    generator = generator or torch.Generator().manual_seed(3)

    def encode(phrases):
        if embeddings is not None:
            return embeddings
        return torch.randn(len(phrases), D, generator=generator, dtype=dtype)

    return TextBatch.from_samples(samples, encode)


class Step:
    """The parameters, and the inputs of the whole batch, equal in every process."""

    def __init__(self):
        generator = torch.Generator().manual_seed(11)

        def normal(*shape):
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        self.letters = normal(128, D).requires_grad_()  # the text tower
        self.head = normal(D, D).requires_grad_()
        self.align = Alignment(initial_scale=1.7).double()
        self.features = normal(len(CAPTIONS), R, D)
        self.areas = normal(len(CAPTIONS), R).abs()
        self.valid = torch.arange(R) < torch.tensor(NUM_PROPOSALS)[:, None]

    def encode(self, phrase):
        return self.letters[[ord(c) for c in phrase]].mean(dim=0)

    def run(self, rank, shares, **switches):
        """This process's loss and gradients."""
        mine = slice(sum(shares[:rank]), sum(shares[: rank + 1]))
        text = TextBatch.from_samples(
            samples_of(CAPTIONS[mine]),
            lambda phrases: torch.stack([self.encode(phrase) for phrase in phrases]),
        )
        contrast = WordRegionContrast(**switches, max_elements=40)
        proposals = proposals_of(
            self.features[mine] @ self.head, self.valid[mine], self.areas[mine]
        )
        loss = contrast.contrast(proposals, text, self.align)
        return self.with_grads(loss)

    def with_grads(self, loss):
        parameters = (self.letters, self.head, self.align.log_scale)
        grads = torch.autograd.grad(loss, parameters, allow_unused=True)
        return [loss.detach(), *(torch.zeros(()) if g is None else g for g in grads)]


def reference(step, shares, matching, direction, negatives, cosine, tau=0.5, smoothing=0.1):
    """Eq. 2 to 5, one text, word, image and region at a time."""
    scale = 1 if cosine else step.align.log_scale.exp()

    def similarity(word, i, k):
        word, region = step.encode(word), step.features[i, k] @ step.head
        unit = region / region.norm() if cosine else region
        return scale * (word / word.norm() * unit).sum()

    def regions_of(i):
        return range(NUM_PROPOSALS[i])

    def soft_best(values):
        values = torch.stack(values)
        if matching == "one_to_one":
            return values.max()
        return ((values / 0.1).softmax(dim=0) * values).sum()

    def score(i, text, way):
        words = CAPTIONS[text]
        if matching == "largest_box":
            largest = max(regions_of(i), key=lambda k: step.areas[i, k].item())
            return similarity(words[0], i, largest)
        if matching == "whole_image":
            of_caption = [similarity(words[0], i, k) for k in regions_of(i)]
            return sum(of_caption) / len(of_caption)
        if way == "text_to_image":
            best = [soft_best([similarity(w, i, k) for k in regions_of(i)]) for w in words]
        else:
            best = [soft_best([similarity(w, i, k) for w in words]) for k in regions_of(i)]
        return sum(best) / len(best)

    groups = [range(len(CAPTIONS))]
    if negatives == "local":
        groups = [range(sum(shares[:r]), sum(shares[: r + 1])) for r in range(len(shares))]
    losses = []
    for group in groups:
        images = [i for i in group if NUM_PROPOSALS[i]]
        texts = [i for i in images if CAPTIONS[i]]
        for own in texts:
            both = []
            if direction != "image_to_text":
                others = [i for i in images if set(CAPTIONS[i]) != set(CAPTIONS[own])]
                both.append([score(i, own, "text_to_image") for i in [own, *others]])
            if direction != "text_to_image":
                others = [i for i in texts if set(CAPTIONS[i]) != set(CAPTIONS[own])]
                both.append([score(own, i, "image_to_text") for i in [own, *others]])
            for logits in both:
                log_softmax = (torch.stack(logits) / tau).log_softmax(dim=0)
                loss = -(1 - smoothing) * log_softmax[0] - smoothing * log_softmax.mean()
                losses.append(loss / len(both))
    num_texts = sum(bool(c) and n > 0 for c, n in zip(CAPTIONS, NUM_PROPOSALS, strict=True))
    return step.with_grads(sum(losses) / num_texts)


def all_switches(rank, world_size, shares):
    step = Step()
    return [step.run(rank, shares, **switches) for switches in SWITCHES]


# In the second, one process has an image without words; in the third, one has no usable pair.
@pytest.mark.parametrize("shares", [[7], [4, 3], [2, 3, 2], [5, 1, 1]])
@pytest.mark.processes
def test_equals_a_slow_loop_in_value_and_gradient(shares):
    results = run_processes(all_switches, len(shares), shares)
    step = Step()
    for n, switches in enumerate(SWITCHES):
        expected = reference(step, shares, **switches)
        for i, name in enumerate(("loss", "letters", "head", "scale")):
            mean = torch.stack([result[n][i] for result in results]).mean(dim=0)
            torch.testing.assert_close(mean, expected[i], msg=lambda m: f"{name} {switches}\n{m}")  # noqa: B023
        assert expected[2].abs().max() > 1e-3


def run_contrast(captions, num_regions=R, valid=None, dtype=torch.float32, **switches):
    generator = torch.Generator().manual_seed(5)
    samples = [{"phrases": caption, "num_positives": len(caption)} for caption in captions]
    regions = torch.randn(len(captions), num_regions, D, generator=generator, dtype=dtype)
    text = text_of(samples, dtype=dtype, generator=generator).detach()
    regions.requires_grad_()
    proposals = proposals_of(regions, valid, torch.rand(regions.shape[:2]))
    loss = WordRegionContrast(**switches).contrast(proposals, text, Alignment().to(dtype))
    loss.backward()
    for x in (regions, text.embeddings):
        assert x.grad.isfinite().all()
    return loss.detach(), regions.grad, text.embeddings.grad


WAYS = [
    {},
    {"direction": "both", "matching": "one_to_many"},
    {"matching": "largest_box"},
    {"matching": "whole_image"},
]


@pytest.mark.parametrize("switches", WAYS)
@pytest.mark.parametrize(
    ("captions", "num_valid"),
    [([[], []], 3), ([["a"], ["b"]], 0), ([["a"], []], 3), ([["a"]], 3), ([["a"], ["a"]], 3)],
    ids=["no words", "no regions", "one text", "one image", "same words"],
)
def test_zero_with_a_gradient_without_negatives(captions, num_valid, switches):
    valid = torch.zeros(len(captions), R, dtype=torch.bool)
    valid[:, :num_valid] = True
    if captions == [["a"], []]:
        valid[1] = False  # an image without text would otherwise be a negative
    loss, *grads = run_contrast(captions, valid=valid, **switches)
    assert loss.abs() < 1e-6
    for grad in grads:
        assert grad.abs().max() < 1e-6 if grad.numel() else True


@pytest.mark.parametrize("switches", WAYS)
def test_a_caption_with_a_thousand_phrases(switches):
    loss, regions, _ = run_contrast([[f"word {i}" for i in range(1000)], ["cat"]], **switches)
    assert loss > 0
    assert regions.abs().max() > 0


def test_label_smoothing_and_temperature_by_hand():
    # Two images with one region each: both texts have s = 1 with their own and 0 with the other.
    samples = [{"phrases": [phrase], "num_positives": 1} for phrase in ("a", "b")]
    contrast = WordRegionContrast(temperature=0.25, label_smoothing=0.2)
    proposals = proposals_of(torch.eye(2)[:, None])
    loss = contrast.contrast(proposals, text_of(samples, torch.eye(2)), Alignment())
    expected = math.log(math.exp(4) + 1) - 0.8 * 4 - 0.2 * (4 + 0) / 2
    torch.testing.assert_close(loss, torch.tensor(expected))


def test_half_precision_is_close():
    whole = run_contrast(CAPTIONS)
    with torch.autocast("cpu", torch.bfloat16):
        half = run_contrast(CAPTIONS)
    for x, y in zip(half, whole, strict=True):
        assert x.dtype == torch.float32
        torch.testing.assert_close(x, y, rtol=0.05, atol=0.01)


class LargestTensor(torch.utils._python_dispatch.TorchDispatchMode):
    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for x in result if isinstance(result, tuple) else (result,):
            if isinstance(x, torch.Tensor):
                self.elements = max(self.elements, x.untyped_storage().nbytes() // x.itemsize)
        return result


@pytest.mark.parametrize("switches", WAYS)
def test_similarities_are_never_all_in_memory(switches):
    captions = [[f"word {b % 20}", f"word {b}"] for b in range(40)]
    with LargestTensor() as largest:
        run_contrast(captions, num_regions=50, max_elements=8000, **switches)
    # 40 words x 40 images x 50 regions = 80,000; the regions themselves are 40 x 50 x 5.
    assert largest.elements <= 40 * 50 * 5


def outputs_of(regions, boxes, centerness=None, **more):
    """Outputs of a head whose anchors are (K, 4) boxes and whose deltas are zero."""
    k = len(boxes)
    centerness = torch.zeros(regions.shape[:2]) if centerness is None else centerness
    return HeadOutputs(
        regions,
        torch.zeros(len(regions), k, 4),
        centerness,
        anchors=[Boxes(boxes)],
        image_sizes=[(1000, 1000)] * len(regions),
        box2box_transform=Box2BoxTransform(weights=(1.0, 1.0, 1.0, 1.0)),
        **more,
    )


def two_images(k=6, **more):
    generator = torch.Generator().manual_seed(2)
    left = torch.arange(k, dtype=torch.float32) * 10
    boxes = torch.stack([left, left, left + 8, left + 8], dim=1)  # no boxes overlap
    regions = torch.randn(2, k, D, generator=generator).requires_grad_()
    return outputs_of(regions, boxes, torch.randn(2, k, generator=generator), **more)


def test_forward_chooses_proposals_and_weights_the_loss():
    outputs, align = two_images(), Alignment()
    text = text_of(samples_of([["cat"], ["dog", "sea"]]))
    contrast = WordRegionContrast(num_proposals=2, weight=0.3, pre_nms=4)
    with EventStorage() as storage:
        losses = contrast(outputs, text, align)
        accuracy = storage.latest()["contrast/text_to_image_accuracy"][0]
    assert list(losses) == ["loss_contrast"]
    assert accuracy in (0, 0.5, 1)
    best = align(outputs.regions, text.embeddings).amax(dim=2).topk(2, dim=1).indices
    regions = torch.stack([r[i] for r, i in zip(outputs.regions, best, strict=True)])
    expected = contrast.contrast(proposals_of(regions), text, align)
    torch.testing.assert_close(losses["loss_contrast"], 0.3 * expected)
    losses["loss_contrast"].backward()
    chosen = torch.zeros(2, 6, dtype=torch.bool).scatter_(1, best, True)
    assert not outputs.regions.grad[~chosen].any()
    assert outputs.regions.grad[chosen].any()


def test_proposals_have_the_areas_of_their_boxes():
    outputs = two_images()
    regions, anchor, valid, areas = WordRegionContrast(num_proposals=8).regions(
        outputs, text_of(samples_of([["cat"], ["dog"]])), Alignment()
    )
    assert valid.tolist() == [[True] * 6 + [False] * 2] * 2
    for b in range(2):
        assert sorted(anchor[b, :6].tolist()) == list(range(6))
        assert torch.equal(regions[b, :6], outputs.regions[b, anchor[b, :6]])
        torch.testing.assert_close(areas[b, :6], torch.full((6,), 64.0))


@pytest.mark.parametrize("kind", ["class", "iou"])
def test_objectness_chooses_proposals_independently_of_phrases(kind):
    objectness = torch.randn(2, 6, generator=torch.Generator().manual_seed(4))
    outputs = two_images(objectness=objectness)
    text = text_of(samples_of([["cat"], ["dog", "sea"]]))
    contrast = WordRegionContrast(num_proposals=2, proposal_score=kind)
    index, valid = contrast.propose(outputs, text, Alignment())
    assert index.tolist() == objectness.topk(2, dim=1).indices.tolist()
    assert valid.all()
    by_words, _ = WordRegionContrast(num_proposals=2).propose(outputs, text, Alignment())
    assert index.tolist() != by_words.tolist()


@pytest.mark.parametrize("cosine", [False, True])
def test_a_phrase_chooses_its_best_proposal(cosine):
    generator = torch.Generator().manual_seed(5)
    num_images, num_anchors = 3, 40
    corners = 50 * torch.rand(num_anchors, 2, generator=generator)
    regions = torch.randn(num_images, num_anchors, D, generator=generator)
    outputs = outputs_of(regions, torch.cat([corners, corners + 20], dim=-1))
    outputs.image_sizes[2] = (0, 0)  # no box has area: no proposal
    text = text_of(samples_of([["dog", "cat"], ["sea"], ["dog"]]), generator=generator)
    align = Alignment(initial_scale=3.0)
    contrast = WordRegionContrast(num_proposals=R, nms_threshold=0.3, cosine=cosine)
    chosen, has_proposals = contrast.chosen_regions(outputs, text, align)
    assert has_proposals.tolist() == [True, True, False]
    index, valid = contrast.propose(outputs, text, align)
    for b, m in itertools.product((0, 1), range(len(text.phrases))):
        best, score = None, -math.inf
        for k in index[b][valid[b]].tolist():
            phrase = text.embeddings[m]
            product = (regions[b, k] @ phrase).item()
            if cosine:
                product /= (regions[b, k].norm() * phrase.norm()).item()
            if product > score:
                best, score = k, product
        assert chosen[m, b] == best


def test_forward_with_fewer_regions_than_proposals_and_no_phrase():
    outputs = two_images()
    text = text_of([{"phrases": [], "num_positives": 0}] * 2)
    contrast = WordRegionContrast()
    losses = contrast(outputs, text, Alignment())
    assert losses["loss_contrast"] == 0
    losses["loss_contrast"].backward()
    assert outputs.regions.grad.eq(0).all()
    _, valid = contrast.propose(outputs, text, Alignment())
    assert valid.sum(dim=1).tolist() == [6, 6]


@pytest.mark.parametrize("name", ["proposal_score", "matching", "direction", "negatives"])
def test_an_unknown_option_is_named_with_the_valid_ones(name):
    with pytest.raises(UserError, match=rf"contrast\.{name} is 'best'; expected one of '"):
        WordRegionContrast(**{name: "best"})
