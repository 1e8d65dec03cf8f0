"""GLIPv2 learns what only the image tells: answers and captions of squares of three colours."""

import pytest
import torch

from detclip2.modeling.heads.answer_head import AnswerHead
from detclip2.modeling.heads.caption_head import CaptionHead
from tests.helpers.tiny_glip import TEXT, tiny_glipv2, without_randomness

pytestmark = pytest.mark.slow  # some tens of steps of training
COLORS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220)}


def squares(blind=False):
    """For each colour an image, with the same question and one caption."""
    samples = []
    for name, color in COLORS.items():
        image = torch.zeros(3, 64, 64, dtype=torch.uint8)
        if not blind:
            image[:, 8:56, 8:56] = torch.tensor(color, dtype=torch.uint8)[:, None, None]
        samples.append({"image": image, "phrases": [], "num_positives": 0, "color": name})
    return samples


def questions(blind=False):
    return [
        {
            **one,
            "supervision": "vqa",
            "question": "which colour is it?",
            "answers": {one["color"]: 1.0},
        }
        for one in squares(blind)
    ]


def captions():
    return [
        {**one, "supervision": "captioning", "target_text": f"a {one['color']} square"}
        for one in squares()
    ]


def trained(samples, steps=60, lr=5e-3):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        heads = {
            "answer_head": AnswerHead([*COLORS, "black"], TEXT),
            "caption_head": CaptionHead(beam_size=2, max_tokens=6),
        }
        model = without_randomness(tiny_glipv2(**heads))
        optimizer = torch.optim.Adam(model.parameters(), lr=lr)
        for _ in range(steps):
            optimizer.zero_grad()
            loss = sum(model(samples).values())
            loss.backward()
            optimizer.step()
    return model.eval(), loss.item()


def test_answers():
    model, loss = trained(questions())
    assert loss < 0.1
    found = model(questions())
    assert [one["answers"][0] for one in found] == list(COLORS)
    # The right answer is in the image: a black one has the same answer whatever it was.
    blind = model(questions(blind=True))
    assert len({one["answers"][0] for one in blind}) == 1


def test_a_model_without_images_cannot_know():
    """Three answers of a third each: the loss is three times the entropy of one third."""
    _, loss = trained(questions(blind=True))
    assert loss == pytest.approx(3 * 0.6365, abs=0.1)


def test_captions():
    model, loss = trained(captions(), steps=110, lr=1e-2)
    assert loss < 0.1
    for beam_size in (1, 3):
        written = model.caption(captions(), beam_size)
        assert [one["caption"] for one in written] == [one["target_text"] for one in captions()]
        assert all(one["is_complete"] for one in written)
