import json

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from PIL import Image

from detclip2.cli import main
from detclip2.commands.show_data import draw_page

CONFIG = """
from detectron2.config import LazyCall as L
from detectron2.data import transforms as T

from detclip2.data.hybrid_loader import HybridLoader, Source
from detclip2.data.mappers import CaptionMapper, DetectionMapper, GroundingMapper
from detclip2.data.datasets.grounding import OdvgFile
from detclip2.data.datasets.captions import CaptionJsonl

folder = {folder!r}
augmentations = [L(T.RandomFlip)(prob=1.0)]
dataloader = dict(
    train=L(HybridLoader)(
        seed=0,
        boxes=L(Source)(
            records=L(OdvgFile)(jsonl_file=folder + "/boxes.jsonl", image_root=folder),
            mapper=L(DetectionMapper)(names=["dog", "cat"], augmentations=augmentations),
            total_batch_size=1,
        ),
        grounded=L(Source)(
            records=L(OdvgFile)(jsonl_file=folder + "/grounded.jsonl", image_root=folder),
            mapper=L(GroundingMapper)(negatives=["sea"]),
            total_batch_size=1,
        ),
        pairs=L(Source)(
            records=L(CaptionJsonl)(jsonl_file=folder + "/pairs.jsonl", image_root=folder),
            mapper=L(CaptionMapper)(),
            total_batch_size=1,
        ),
        nothing=L(Source)(
            records=L(CaptionJsonl)(jsonl_file=folder + "/pairs.jsonl", image_root="/nowhere"),
            mapper=L(CaptionMapper)(),
            total_batch_size=1,
        ),
    ),
)
"""


@pytest.fixture
def config(tmp_path):
    Image.fromarray(np.full((30, 40, 3), 90, np.uint8)).save(tmp_path / "a.png")
    size = {"filename": "a.png", "height": 30, "width": 40}
    box = [4, 5, 20, 25]
    lines = {
        "boxes": [{**size, "detection": {"instances": [{"bbox": box, "label": 1}]}}, "oops"],
        "grounded": [
            {**size, "grounding": {"caption": "x", "regions": [{"bbox": box, "phrase": "a dog"}]}}
        ],
        "pairs": [{"image": "a.png", "caption": "a red dog"}] * 3,
    }
    for name, values in lines.items():
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, values)))
    path = tmp_path / "config.py"
    path.write_text(CONFIG.format(folder=str(tmp_path)))
    return path


def run(config, *arguments):
    return main(["show-data", "--config", str(config), *map(str, arguments)])


@pytest.mark.parametrize(
    ("source", "kind", "number"),
    [("boxes", "detection", 1), ("grounded", "grounding", 1), ("pairs", "caption", 2)],
)
def test_each_supervision(config, tmp_path, capsys, source, kind, number):
    output = tmp_path / "images"
    assert run(config, "--source", source, "--count", 2, "--output", output) == 0
    pages = sorted(output.iterdir())
    assert [page.name for page in pages] == [f"{kind}-{i:04d}.png" for i in range(number)]
    assert Image.open(pages[0]).width == 640
    text = capsys.readouterr().out
    assert "a.png" in text
    skipped = "skipped 1 (record-malformed 1)" if source == "boxes" else "skipped 0"
    assert skipped in text


def test_mistakes_are_sentences(config, tmp_path, capsys):
    output = tmp_path / "images"
    for arguments, message in [
        (["--output", output], "['boxes', 'grounded', 'nothing', 'pairs']"),
        (["--output", output, "--source", "video"], "not 'video'"),
        (["--output", output, "--source", "pairs", "--count", 0], "--count"),
        (["--output", config, "--source", "pairs"], "cannot be written"),
        (["--output", output, "--source", "nothing"], "image-unreadable 3"),
    ]:
        assert run(config, *arguments) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "overrides", "message"),
    [
        ("none.py", None, [], "none.py: this config does not exist"),
        ("wrong.py", "dataloader = ", [], "wrong.py: this config cannot be loaded: SyntaxError"),
        ("config.txt", "", [], "config.txt: a config is a .py or .yaml file"),
        ("empty.yaml", "{}", [], "has [] in dataloader.train"),
        ("other.yaml", "dataloader: {train: 3}", [], "has [] in dataloader.train"),
        ("", None, ["world.sise=3"], "has no key 'world'"),
        ("", None, ["dataloader.train.pears.total_batch_size=3"], "did you mean 'pairs'"),
        ("", None, ["dataloader.train.pairs.total_batch"], "cannot be applied"),
        ("", None, ["dataloader.train.pairs.batch=3"], "dataloader.train.pairs has no key 'batch'"),
        ("", None, ["dataloader.train.pairs.mapper.max_phrases=0"], "max_phrases is 0"),
        ("", None, ["dataloader.train.pairs.mapper.max_phrases=few"], "cannot be built"),
        ("", None, ["dataloader.train.pairs.records.jsonl_file=/no/such"], "/no/such"),
    ],
)
def test_a_config_that_cannot_be_used_is_reported(
    config, tmp_path, capsys, name, content, overrides, message
):
    path = tmp_path / name if name else config
    if content is not None:
        path.write_text(content)
    output = tmp_path / "images"
    assert run(path, "--output", output, "--source", "pairs", *overrides) == 2
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err
    assert not output.exists()


def test_a_fragment_of_a_config_can_be_shown(tmp_path, request):
    """Keys that it refers to, such as train.seed, are in the config that includes it."""
    emoji = request.config.rootpath / "configs" / "data" / "emoji.py"
    output = tmp_path / "images"
    small = ["world.categories=30", "world.size=64"]
    assert run(emoji, "--source", "detection", "--count", 1, "--output", output, *small) == 0
    assert len(list(output.iterdir())) == 1


def test_boxes_are_drawn_where_they_are():
    instances = Instances((320, 320))
    instances.gt_boxes = Boxes(torch.tensor([[50.0, 100.0, 150.0, 300.0]]))
    instances.gt_classes = torch.tensor([0])
    sample = {
        "image": torch.full((3, 320, 320), 128, dtype=torch.uint8),
        "height": 320,
        "width": 320,
        "image_id": 1,
        "file_name": "",
        "supervision": "detection",
        "phrases": ["\U0001f34e \u30ea\u30f3\u30b4", *(f"thing {i}" for i in range(149))],
        "num_positives": 1,
        "own_phrases_only": True,
        "not_exhaustive": torch.tensor([0]),
        "instances": instances,
    }
    page = draw_page(sample)
    assert page.dtype == np.uint8
    assert page.shape[1] == 640
    drawing, panel = page[:640], page[640:]
    changed = np.argwhere((drawing != 128).any(axis=2))
    assert np.abs(changed.max(axis=0)[0] - 600) <= 3  # the lower edge; the label is above
    for row, column in [(400, 100), (400, 300), (600, 200)]:
        patch = drawing[row - 3 : row + 4, column - 3 : column + 4]
        assert (patch != 128).any()
    assert (drawing[300:580, 120:280] == 128).all()
    assert (panel == 255).all(axis=2).mean() > 0.5
    assert (panel < 100).any()


def test_questions_and_answers_are_written_below():
    sample = {
        "image": torch.zeros(3, 30, 40, dtype=torch.uint8),
        "height": 30,
        "width": 40,
        "file_name": "a.png",
        "image_id": 1,
        "supervision": "vqa",
        "phrases": [],
        "num_positives": 0,
        "own_phrases_only": False,
        "not_exhaustive": torch.zeros(0, dtype=torch.int64),
    }
    plain = draw_page(sample)
    asked = draw_page({**sample, "question": "is it red?", "answers": {"yes": 1.0, "no": 0.3}})
    assert asked.shape[0] > plain.shape[0]
    assert asked.shape[1] == plain.shape[1]
