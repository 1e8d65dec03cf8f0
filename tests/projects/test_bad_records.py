"""A run on broken data continues, and reports skipped records."""

import json
import math
import re

import pytest
from detectron2.config import LazyCall, LazyConfig
from detectron2.engine import default_argument_parser

from detclip2.commands.model_arguments import add_trust_argument
from detclip2.data.hybrid_loader import Source
from detclip2.data.mappers import GroundingMapper
from tests.helpers import bad_records
from tests.helpers.tiny_training import tiny_config

KINDS = {
    "detection": {
        "box-invalid",
        "category-unknown",
        "category-unnamed",
        "image-mismatched",
        "image-unreadable",
    },
    "grounding": {"box-invalid", "caption-without-phrase"},
    "pairs": {
        "caption-empty",
        "caption-encoding",
        "caption-without-phrase",
        "image-unreadable",
        "record-malformed",
    },
}


@pytest.mark.slow
def test_counts_by_kind_are_reported_during_the_run_and_at_its_end(train_net, tmp_path):
    cfg = tiny_config(tmp_path / "output", iterations=9)
    sources = cfg.dataloader.train
    sources.grounding = LazyCall(Source)(
        records=LazyCall(bad_records.BadGrounding)(),
        mapper=LazyCall(GroundingMapper)(negatives=["cat"]),
        total_batch_size=4,
        num_workers=0,
    )
    sources.detection.records = LazyCall(bad_records.BadBoxes)()
    sources.detection.mapper.names = bad_records.NAMES
    sources.pairs.records = LazyCall(bad_records.BadPairs)()
    sources.pairs.mapper.augmentations = []
    sources.pairs.num_workers = 1  # counts come from worker processes too
    cfg.train.update(source_ratios=dict.fromkeys(KINDS, 1), report_period=3)
    LazyConfig.save(cfg, str(tmp_path / "bad.yaml"))
    parser = default_argument_parser()
    add_trust_argument(parser)
    words = ["--config-file", str(tmp_path / "bad.yaml"), "--trust-config"]
    train_net.main(parser.parse_args(words))

    metrics = (tmp_path / "output" / "metrics.json").read_text().splitlines()
    losses = [line["total_loss"] for line in map(json.loads, metrics) if "total_loss" in line]
    assert len(losses) == 9
    assert all(map(math.isfinite, losses))

    log = (tmp_path / "output" / "log.txt").read_text()
    for source, kinds in KINDS.items():
        reports = re.findall(rf"source {source}: \w+: skipped (\d+)(?: \((.*)\))?", log)
        assert len(reports) == 3 + 1, "every third iteration, and at the end"
        totals = [int(total) for total, _ in reports]
        assert totals == sorted(totals)
        counts = dict(count.rsplit(" ", 1) for count in reports[-1][1].split(", "))
        assert counts.keys() == kinds
        assert sum(map(int, counts.values())) == totals[-1]
    # The first of each kind are logged with fault and file.
    assert "skipped (image-unreadable): /no/such/picture.jpg" in log
