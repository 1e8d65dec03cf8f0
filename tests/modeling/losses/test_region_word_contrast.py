"""L_inter against a loop over regions and tokens, in several processes."""

import itertools
import math

import pytest
import torch

from detclip2.modeling.losses.region_word_contrast import BoxedRegions, RegionWordContrast
from detclip2.modeling.text.token_batch import TokenBatch
from tests.helpers.detclip_samples import sample
from tests.helpers.processes import run_processes
from tests.helpers.tiny_glip import TEXT, WIDTH, tiny_glipv2, without_randomness

C, W, R, T = 5, 6, 3, 8
# For each image: whether its caption is a list of names; phrase -> its tokens; tokens of the
# caption; for each region the phrases that name it.
IMAGES = [
    (True, {"dog": [1, 2], "cat": [4], "sea": [6]}, 8, [["dog"], ["cat"], ["dog", "cat"]]),
    (True, {"cat": [1, 2], "dog": [4]}, 6, [["cat"]]),
    (True, {"tree": [1], "dog": [3, 4]}, 6, []),  # no region; its "dog" is of another image's
    (False, {"dog": [2], "cat": [5]}, 7, [["dog"], ["cat"]]),  # a sentence
    (True, {"bird": [1]}, 3, [["bird"], ["bird"]]),  # a name of no other image
    (True, {"dog": [1], "the sea": [3, 4, 5]}, 7, [["dog"], ["the sea"], ["dog"]]),
]
SWITCHES = [
    {"propagate": propagate, "fused_text": fused, "max_elements": elements}
    for propagate, fused, elements in itertools.product((True, False), (True, False), (7, 10**6))
]


class Step:
    """The parameters, and the inputs of the whole batch, equal in every process."""

    def __init__(self, images=IMAGES):
        generator = torch.Generator().manual_seed(11)

        def normal(*shape):
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        self.images = images
        self.head = normal(C, C).requires_grad_()
        self.tower = normal(W, W).requires_grad_()
        self.fusion = normal(W, W).requires_grad_()
        self.features = normal(len(images), R, C)
        self.states = normal(len(images), T, W)
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.contrast = RegionWordContrast(C, W, width=4, temperature=0.5).double()

    def tokens_of(self, b):
        """(M, T) bool."""
        rows = torch.zeros(len(self.images[b][1]), T, dtype=torch.bool)
        for row, tokens in zip(rows, self.images[b][1].values(), strict=True):
            row[tokens] = True
        return rows

    def inputs(self, own):
        """Regions and captions of some images."""
        images = self.images[own]
        valid = torch.zeros(len(images), R, dtype=torch.bool)
        tokens_of = torch.zeros(len(images), R, T, dtype=torch.bool)
        for b, (_, phrases, _, regions) in enumerate(images):
            for k, named in enumerate(regions):
                valid[b, k] = True
                tokens_of[b, k, [t for name in named for t in phrases[name]]] = True
        states = self.states[own] @ self.tower
        fused = states @ self.fusion if self.contrast.fused_text else states.new_zeros(1, 0)
        text = TokenBatch(
            embeddings=states,
            mask=torch.arange(T) < torch.tensor([n for _, _, n, _ in images])[:, None],
            tokens_of=[self.tokens_of(b) for b in range(len(self.images))[own]],
            not_exhaustive=[],
            names=[list(phrases) if is_list else [] for is_list, phrases, *_ in images],
        )
        anchor = torch.zeros(valid.shape, dtype=torch.int64)
        regions = self.features[own] @ self.head
        return BoxedRegions(regions, anchor, valid, tokens_of, fused), text

    def with_grads(self, loss):
        loss_parameters = list(self.contrast.parameters())
        parameters = (self.head, self.tower, self.fusion, *loss_parameters)
        grads = torch.autograd.grad(loss, parameters, allow_unused=True)
        return [loss.detach(), *(torch.zeros(()) if g is None else g for g in grads)]

    def run(self, rank, shares, **switches):
        """This process's loss and gradients."""
        for name, value in switches.items():
            setattr(self.contrast, name, value)
        own = slice(sum(shares[:rank]), sum(shares[: rank + 1]))
        return self.with_grads(self.contrast.contrast(*self.inputs(own)))


def reference(step, propagate, fused_text):
    """One region and one token at a time."""
    contrast = step.contrast
    regions = [(b, k) for b, image in enumerate(step.images) for k in range(len(image[3]))]
    tokens = [(b, t) for b, image in enumerate(step.images) for t in range(image[2])]

    def similarity(region, token):
        x = contrast.image(step.features[region] @ step.head)
        state = step.states[token] @ step.tower
        y = contrast.text(state @ step.fusion if fused_text else state)
        return (x / x.norm() * y / y.norm()).sum() / contrast.log_temperature.exp()

    def is_target(region, token):
        is_list, phrases, _, names = step.images[region[0]]
        other_is_list, other_phrases, *_ = step.images[token[0]]
        named = names[region[1]]
        if region[0] == token[0]:
            return any(token[1] in phrases[name] for name in named)
        if not (propagate and is_list and other_is_list):
            return False
        return any(token[1] in other_phrases.get(name, []) for name in named)

    s = torch.stack([torch.stack([similarity(r, t) for t in tokens]) for r in regions])
    targets = torch.tensor([[is_target(r, t) for t in tokens] for r in regions])
    total = 0
    for logits, right in [*zip(s, targets, strict=True), *zip(s.T, targets.T, strict=True)]:
        if right.any():
            total = total - logits.log_softmax(dim=0)[right].mean()
    return step.with_grads(total / 2 / len(regions))


def all_switches(rank, world_size, shares):
    step = Step()
    return [step.run(rank, shares, **switches) for switches in SWITCHES]


# In the third, one process has an image without regions.
@pytest.mark.parametrize("shares", [[6], [4, 2], [2, 1, 3]])
@pytest.mark.processes
def test_equals_a_slow_loop_in_value_and_gradient(shares):
    results = run_processes(all_switches, len(shares), shares)
    losses = set()
    for n, switches in enumerate(SWITCHES):
        step = Step()
        expected = reference(step, switches["propagate"], switches["fused_text"])
        losses.add(round(expected[0].item(), 6))
        for i, value in enumerate(expected):
            mean = torch.stack([result[n][i] for result in results]).mean(dim=0)
            torch.testing.assert_close(mean, value, msg=lambda m: f"{i} {switches}\n{m}")  # noqa: B023
        assert all(value.abs().max() > 1e-3 for i, value in enumerate(expected) if i != 3)
    assert len(losses) == 4  # each switch but the chunks matters


@pytest.mark.parametrize(
    "images",
    [[(True, {"dog": [1]}, 3, [])], [(True, {}, 2, []), (False, {}, 2, [])]],
    ids=["no region", "no phrase"],
)
def test_without_regions_the_loss_is_zero(images):
    step = Step(images)
    loss, *gradients = step.run(0, [len(images)])
    assert loss == 0
    assert not any(gradient.any() for gradient in gradients)


def test_one_image_by_hand():
    """One region, one token of its own, and two others: the softmax over these three."""
    step = Step([(True, {"dog": [1]}, 3, [["dog"]])])
    step.contrast.log_temperature.data.fill_(math.log(0.25))
    regions, text = step.inputs(slice(0, 1))
    with torch.no_grad():
        step.contrast.image.weight.copy_(torch.eye(4, C))
        step.contrast.text.weight.copy_(torch.eye(4, W))
        step.contrast.image.bias.zero_()
        step.contrast.text.bias.zero_()
    regions.regions.data[0, 0] = torch.eye(C)[0]
    text.embeddings.data[0, :3] = torch.eye(W)[[1, 0, 2]]
    loss = step.contrast.contrast(regions, text)
    # From the token to the region there is one candidate, so no loss.
    assert loss.item() == pytest.approx((math.log(math.exp(4) + 2) - 4) / 2)


class LargestTensor(torch.utils._python_dispatch.TorchDispatchMode):
    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for x in result if isinstance(result, tuple) else (result,):
            if isinstance(x, torch.Tensor):
                self.elements = max(self.elements, x.untyped_storage().nbytes() // x.itemsize)
        return result


def test_similarities_are_never_all_in_memory():
    names = [f"dog {i % 5}" for i in range(60)]
    many = [(True, {name: [1, 2]}, T, [[name]] * R) for name in names]
    step = Step(many)
    with LargestTensor() as largest:
        step.run(0, [60], max_elements=4000)
    assert largest.elements <= 5000  # 180 regions x 480 tokens = 86,400


def chosen_regions(num_regions, seed=0, boxes=((10, 8, 50, 40), (40, 20, 90, 60))):
    """Of an image with two boxes: its regions and its positive anchors."""
    model = without_randomness(tiny_glipv2())
    model.region_word_contrast.num_regions = num_regions
    one = [sample(boxes=boxes, classes=range(len(boxes)), phrases=["dog", "cat"])]
    text = model.encode_text(one)
    outputs = model.encode_images(model.preprocess_image(one), text)
    torch.manual_seed(seed)
    regions = model.contrast_regions(outputs, text, one)
    return regions, model.box_losses.assign(outputs, text, one), outputs, text


def test_the_regions_are_the_positive_anchors_of_all_boxes():
    """Also of the first box."""
    regions, targets, outputs, text = chosen_regions(num_regions=40)
    [valid], [anchor], [tokens_of] = regions.valid, regions.anchor, regions.tokens_of
    assert 4 < valid.sum() == len(targets.anchor) < 40
    assert anchor[valid].tolist() == targets.anchor.tolist()
    assert not anchor[~valid].any()
    of_boxes = {tuple(box) for box in targets.boxes.tolist()}
    assert len(of_boxes) == 2
    for row, box in zip(tokens_of[valid], targets.boxes.tolist(), strict=True):
        phrase = 0 if box[0] == 10 else 1
        assert torch.equal(row, text.tokens_of[0][phrase])
    levels = torch.cat([level[0].flatten(1).T for level in outputs.pyramid])
    torch.testing.assert_close(regions.regions[0, valid], levels[anchor[valid]])
    assert regions.regions.shape == (1, 40, WIDTH)
    assert text.embeddings.shape[2] == TEXT


def test_of_too_many_regions_some_are_chosen_at_random():
    everything = set(chosen_regions(40)[1].anchor.tolist())
    found = [chosen_regions(3, seed)[0] for seed in range(4)]
    chosen = [tuple(regions.anchor[0].tolist()) for regions in found]
    assert len(set(chosen)) > 1
    for regions, anchors in zip(found, chosen, strict=True):
        assert regions.valid.all()
        assert len(set(anchors)) == 3
        assert set(anchors) <= everything
        assert regions.tokens_of.any(dim=2).all()


def test_names_are_compared_by_their_text_in_captions():
    """Case and brackets of data sets do not matter."""
    tower = tiny_glipv2().text_tower
    texts = [{"phrases": ["Bow_(weapon)", "red  Apple"], "num_positives": 2}]
    assert TokenBatch.from_samples(texts, tower).names == [["bow", "red apple"]]
    words = {**texts[0], "caption": "a bow", "phrase_spans": [[[2, 5]], []]}
    assert TokenBatch.from_samples([words], tower).names == [[]]
