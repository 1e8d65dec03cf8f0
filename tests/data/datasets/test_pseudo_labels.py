"""Pseudo-labels of image-text pairs: their file, their records, the tool."""

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from detclip2.data.datasets.grounding import OdvgCaptions, OdvgFile
from detclip2.data.datasets.pseudo_labels import PseudoLabelled, odvg_line, write_odvg
from detclip2.data.emojiscenes import EmojiPairs
from detclip2.data.hybrid_loader import Source
from detclip2.data.mappers import CaptionMapper, GroundingMapper
from detclip2.data.text.caption_phrases import CaptionPhrases
from detclip2.utils.errors import UserError
from scripts import pseudo_label
from tests.helpers.tiny_glip import tiny_glip, tiny_glipv2

COUNT = 5


@pytest.fixture
def pairs():
    return EmojiPairs(20, count=8, size=64)


class Detector:
    """Finds the first phrase of every image at (1, 2, 31, 42), with scores 0.9 and 0.2."""

    reads_names = False

    def encode_phrases(self, phrases):
        return torch.stack([torch.tensor([float(len(p)), 1.0]) for p in phrases])

    def __call__(self, samples):
        found = []
        for sample in samples:
            expected = self.encode_phrases(sample["phrases"])
            torch.testing.assert_close(sample["vocabulary"], expected)
            instances = Instances((64, 64))
            instances.pred_boxes = Boxes(torch.tensor([[1.0, 2, 31, 42], [0, 0, 9, 9]]))
            instances.scores = torch.tensor([0.9, 0.2])
            instances.pred_classes = torch.tensor([0, 0])
            found.append({"instances": instances})
        return found


def test_pseudo_labels_are_read_and_trained_on(pairs, tmp_path):
    mapper = CaptionMapper(include_caption=False)
    lines = pseudo_label.label_pairs(Detector(), Source(pairs, mapper, 4), COUNT, 0.3)
    path = tmp_path / "labels.jsonl"
    labelled = sum(bool(pairs[i]["phrases"]) for i in range(COUNT))
    assert write_odvg(lines, path) == labelled
    for i, record in enumerate(PseudoLabelled(pairs, str(path))):
        assert record["caption"] == pairs[i]["caption"]
        np.testing.assert_array_equal(record["image"], pairs[i]["image"])
        if not pairs[i]["phrases"]:
            continue
        sample = GroundingMapper()(record, np.random.default_rng(0))
        assert sample["phrases"] == pairs[i]["phrases"][:1]
        assert sample["instances"].gt_boxes.tensor.tolist() == [[1, 2, 31, 42]]
    assert len(PseudoLabelled(pairs, str(path))[1:3]) == 2
    assert OdvgFile(str(path), "")[0]["annotations"][0]["bbox"] == [1, 2, 31, 42]


@pytest.mark.parametrize("make", [tiny_glip, tiny_glipv2])
def test_glip_labels_the_phrases_of_a_whole_caption(pairs, make):
    """As its predictor does on the caption; a phrase that is not in the caption has no box."""
    model = make().eval()
    record = {**pairs[0], "caption": "A red dog by the dog", "phrases": ["cow", "dog", "red dog"]}
    others = [{**record, "caption": text} for text in ("nothing of this", "dog " + "? " * 300)]
    mapper = CaptionMapper(include_caption=False, keep=["phrase_spans"])
    records = [record, *others]
    lines = pseudo_label.label_pairs(model, Source(records, mapper, 1), len(records), 0.0)
    labelled, *empty = [line["grounding"]["regions"] for line in lines]
    assert empty == [[], []]
    spans = (((6, 9), (17, 20)), ((2, 9),))
    caption = CaptionPhrases(record["caption"], ("dog", "red dog"), spans)
    image = torch.from_numpy(record["image"].transpose(2, 0, 1).copy())
    [output] = model([{"image": image, "height": 64, "width": 64, "vocabulary": caption}])
    expected = output["instances"]
    assert [caption[i] for i in expected.pred_classes] == [one["phrase"] for one in labelled]
    assert len(labelled) > 10
    boxes = torch.tensor([one["bbox"] for one in labelled])
    torch.testing.assert_close(boxes, expected.pred_boxes.tensor.detach(), atol=0.06, rtol=0)


def test_glipv2_trains_on_the_boxes_that_it_gives(pairs, tmp_path):
    """The third kind of data of its paper: captions, each between captions of other images."""
    model, path = tiny_glipv2(), str(tmp_path / "labels.jsonl")
    source = Source(pairs, CaptionMapper(include_caption=False, keep=["phrase_spans"]), 4)
    lines = pseudo_label.label_pairs(model.eval(), source, COUNT, 0.0)
    assert write_odvg(lines, Path(path)) > 0
    mapper = GroundingMapper(max_phrases=100, other_captions=OdvgCaptions(path))
    records = [record for record in PseudoLabelled(pairs, path) if record["annotations"]]
    samples = [mapper(record, np.random.default_rng(1)) for record in records]
    assert any(sample["other_captions"] for sample in samples)
    losses = model.train()(samples)
    assert losses.keys() >= {"loss_align", "loss_box", "loss_inter", "loss_mlm"}
    assert all(loss.isfinite() and loss > 0 for loss in losses.values())


def test_labels_of_another_source_are_refused(pairs, tmp_path):
    path = tmp_path / "labels.jsonl"
    line = odvg_line("emoji-pairs-0-7", (64, 64), "a dog", [("dog", [1.0, 2.0, 3.0, 4.0])])
    write_odvg(iter([line]), path)
    with pytest.raises(UserError, match="another source"):
        PseudoLabelled(pairs, str(path))[0]
    write_odvg(iter([line] * 9), path)
    with pytest.raises(UserError, match="9 records, but there are 8"):
        PseudoLabelled(pairs, str(path))


def test_the_tool_reports_mistakes(tmp_path, capsys):
    config = tmp_path / "config.py"
    config.write_text("dataloader = dict(train=dict())\n")
    command = ["--pairs", f"{config}/pairs", "--count", "1", "--output", str(tmp_path / "x")]
    assert pseudo_label.main([*command, "--model", str(tmp_path)]) == 2
    assert "config.yaml" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
