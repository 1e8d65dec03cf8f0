"""Trains a row of the evidence and measures it; what it finds is a json in the results folder."""

import argparse
import hashlib
import json
import logging
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.config import LazyCall, LazyConfig
from detectron2.engine import default_argument_parser
from detectron2.utils import comm
from evidence_record import Cost, curves_of, facts, images_seen, write_json
from evidence_rows import ROWS, Row
from omegaconf import DictConfig, open_dict
from pseudo_label import build_pairs, label_pairs

from detclip2.config import apply_overrides, build_model, load_config
from detclip2.data.datasets.pseudo_labels import PseudoLabelled, write_odvg
from detclip2.data.emojiscenes.sets import base_names
from detclip2.data.mappers import GroundingMapper
from detclip2.engine.budget import FIRST, schedule_of_budget
from detclip2.engine.launch import run_processes
from detclip2.engine.train_loop import evaluate, set_up, train
from detclip2.utils.errors import UserError
from detclip2.utils.model_folder import CONFIG_NAME, WEIGHTS_NAME
from detclip2.utils.weights import load_weights

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "projects" / "DetCLIPv2" / "configs" / "benchmark"
RESULTS = ROOT / "docs" / "evidence" / "results"
LAST, START, FOUND = "model_final.pth", "shared_start", "found.json"
PSEUDO_SCORE = 0.3  # of boxes that are taken for true


@dataclass(frozen=True)
class Place:
    """Where runs of one size are, and what holds for all of them."""

    size: str
    output: Path
    """Runs, each in a folder of its own."""
    results: Path
    artwork: Path | None = None
    """A folder of icon sets, each a shifted test set; as node_modules/@iconify-json."""
    settings: tuple[str, ...] = ()
    """Overrides of every row's config; they come before the row's own."""
    processes: int = 1
    """That train together, each on a part of every batch."""

    def run_folder(self, name: str, seed: int) -> Path:
        """Of a run."""
        return self.output / self.size / f"{name}-seed{seed}"

    def result_file(self, name: str, seed: int) -> Path:
        """What a run has found."""
        return self.results / self.size / f"{name}-seed{seed}.json"


def run_row(place: Place, name: str, seed: int) -> Path:
    """Train and measure what of a row is not done yet; returns the json.

    Raises:
        UserError: of the config or the data; or there is no such row.
        SystemExit: a signal asked to stop; the same call goes on from the last checkpoint.
    """
    if name not in ROWS:
        raise UserError(f"there is no row {name!r}; there are {', '.join(ROWS)}")
    row, file = ROWS[name], place.result_file(name, seed)
    folder = place.run_folder(name, seed)
    record = json.loads(file.read_text("utf-8")) if file.is_file() else {"results": {}}
    cfg = config_of(place, row, seed, folder)
    tests = test_sets(place, cfg, row)
    if not tests.keys() - record["results"].keys():
        return file
    if not (folder / WEIGHTS_NAME).is_file():
        train_row(place, row, seed, cfg)
        record = {"results": {next(iter(tests)): json.loads((folder / FOUND).read_text("utf-8"))}}
    if "commit" not in record:  # they are of the training, and not of tests that come later
        command = f"run {name} --size {place.size}"
        record |= facts(cfg, name, seed, command, place.settings, row.overrides)
        record |= {
            "label": row.label,
            "images": images_seen(folder / LAST),
            "iterations": int(cfg.train.max_iter),
            "cost": Cost.of(folder),
            "shared_start": Cost.of(Path((folder / START).read_text("utf-8"))),
            "curves": curves_of(folder / "metrics.json"),
        }
        write_json(file, record)
    model: Any = None
    for test, changes in tests.items():
        if test not in record["results"]:
            model = model or build_model(cfg).to(cfg.train.device)
            load_weights(model, folder / WEIGHTS_NAME)
            record["results"][test] = measured(cfg, model.eval(), test, changes, folder)
            write_json(file, record)
    return file


def train_row(place: Place, row: Row, seed: int, cfg: DictConfig) -> None:
    """Train a row from its shared start, after its teacher if that is not there."""
    folder = Path(cfg.train.output_dir)
    if row.teacher:
        teacher = place.run_folder(row.teacher, seed)
        if not (teacher / WEIGHTS_NAME).is_file():
            of_teacher = ROWS[row.teacher]
            train_row(place, of_teacher, seed, config_of(place, of_teacher, seed, teacher))
    before = shared_start(place, cfg)
    with Cost(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / START).write_text(str(before), encoding="utf-8")
        for part in smaller_worlds(cfg):
            before = go_on(part, before, place.processes)
        if row.teacher:
            make_labels(place, row, seed, cfg, folder)
        go_on(cfg, before, place.processes)
    for older in folder.glob("model_0*.pth"):  # no one goes on from these any more
        older.unlink()


def config_of(place: Place, row: Row, seed: int, folder: Path) -> DictConfig:
    """The config of a row, with its own sources and their budget."""
    cfg, name = load_config(CONFIGS / f"{place.size}.py")
    apply_overrides(cfg, [*place.settings, *row.overrides], name)
    cfg.train.update(
        output_dir=str(folder),
        seed=seed,
        **schedule_of_budget(budget_of(row, cfg.benchmark), cfg.benchmark.shared),
    )
    sources = cfg.dataloader.train
    for source in set(cfg.benchmark.iterations) - set(cfg.train.source_ratios):
        del sources[source]
    # Rows share their test sets, which are rendered once.
    cfg.dataloader.test.dataset.folder = str(place.output / place.size / "data")
    if row.teacher:
        labels = folder / "pseudo_labels.jsonl"
        with open_dict(cfg):
            pairs = sources.pairs
            cfg.pairs_to_label = pairs.copy()
            pairs.records = LazyCall(PseudoLabelled)(records=pairs.records, jsonl_file=str(labels))
            pairs.mapper = LazyCall(GroundingMapper)(
                augmentations=[],
                max_phrases=100,
                negatives=LazyCall(base_names)(world="${world.categories}"),
            )
    return cfg


def budget_of(row: Row, benchmark: Mapping[str, Any]) -> dict[str, int]:
    """Source -> iterations of a row."""
    whole, shared = benchmark["iterations"], benchmark["shared"]
    if row.equal_steps:
        return {FIRST: sum(whole.values())}
    after = {source: whole[source] - shared * (source == FIRST) for source in row.sources}
    iterations = {s: round(number * row.factors.get(s, 1)) for s, number in after.items()}
    iterations[FIRST] += shared
    return iterations


def test_sets(place: Place, cfg: DictConfig, row: Row) -> dict[str, dict[str, Any]]:
    """Test set -> what of the data set differs: those of the config, and one an art style."""
    tests = {str(name): dict(changes) for name, changes in cfg.benchmark.tests.items()}
    more = cfg.benchmark.more_tests
    tests |= {name: dict(more[name]) for name in row.more_tests if name in more}
    if place.artwork is not None:
        sets = sorted(path.parent for path in place.artwork.glob("*/icons.json"))
        if not sets:
            raise UserError(f"{place.artwork}: has no icon set of Iconify (FOLDER/icons.json)")
        tests |= {folder.name: {"contents": None, "artwork": str(folder)} for folder in sets}
    return tests


def go_on(cfg: DictConfig, before: Path, processes: int) -> Path:
    """Train by a config to its end from where another run has ended; returns the folder."""
    folder = Path(cfg.train.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "last_checkpoint").is_file():
        # What --resume takes: a whole path, before which the checkpointer puts no folder.
        (folder / "last_checkpoint").write_text(str((before / LAST).resolve()), encoding="utf-8")
    if not (folder / WEIGHTS_NAME).is_file():
        train_here(cfg, processes)
    return folder


def train_here(cfg: DictConfig, processes: int = 1) -> None:
    """Train by a config, going on with what is there; what it finds is in its folder.

    Raises:
        UserError: of the config or the data.
        SystemExit: a signal asked to stop, or one of several processes has told a UserError.
    """
    folder = Path(cfg.train.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    with open_dict(cfg):
        saved = cfg.copy()
        saved.pop("pairs_to_label", None)
    LazyConfig.save(saved, str(folder / CONFIG_NAME))
    close_logs()
    arguments = ["--config-file", str(folder / CONFIG_NAME), "--num-gpus", str(processes)]
    run_processes(train_process, default_argument_parser().parse_args(arguments))


def train_process(arguments: argparse.Namespace) -> None:
    """One process of a training; the first of them keeps what the last evaluation has found."""
    try:
        cfg = set_up(arguments)
        results = train(cfg, build_model(cfg).to(cfg.train.device), resume=True)
    except UserError as error:
        if comm.get_world_size() == 1:
            raise
        sys.exit(f"evidence: {error}")  # an exception would reach the waiting one as a traceback
    if comm.is_main_process():
        write_json(Path(cfg.train.output_dir) / FOUND, results)


def close_logs() -> None:
    """Else what is logged from now on would go to the files of the runs before it, too."""
    for name in ("detectron2", "fvcore", "detclip2"):
        logger = logging.getLogger(name)
        for handler in list(logger.handlers):
            logger.removeHandler(handler)
            handler.close()


def smaller_worlds(cfg: DictConfig) -> Iterator[DictConfig]:
    """What a row does between the shared start and the whole world: the same in smaller ones."""
    for categories, until in cfg.benchmark.growth:
        if until > cfg.benchmark.shared:
            part = cfg.copy()
            part.world.categories = categories
            part.train.update(max_iter=until, output_dir=f"{cfg.train.output_dir}/{categories}")
            part.lr_multiplier.shared = until
            hardly_evaluate(part)
            yield part


def hardly_evaluate(cfg: DictConfig) -> None:
    """Evaluate once, on little: nobody reads it, and a training ends with an evaluation."""
    cfg.train.eval_period = 0
    cfg.dataloader.test.dataset.count = min(100, cfg.dataloader.test.dataset.count)


def shared_start(place: Place, cfg: DictConfig) -> Path:
    """The folder of the run that `cfg` begins with, trained unless it is there.

    Its name has a fingerprint of all that it depends on, so rows that differ in nothing which acts
    before their sources begin have the same one.
    """
    start = cfg.copy()
    for source in list(start.dataloader.train):
        if source in start.benchmark.iterations and source != FIRST:
            del start.dataloader.train[source]
    if start.benchmark.growth:
        start.world.categories, until = start.benchmark.growth[0]
        if until != start.benchmark.shared:
            raise UserError(
                f"benchmark.growth: the first world ends after {until} iterations; expected "
                f"{start.benchmark.shared}, as the shared start (benchmark.shared) that is in it"
            )
    start.lr_multiplier.shared = "${benchmark.shared}"
    start.train.update(max_iter=start.benchmark.shared, source_ratios=None, source_starts=None)
    hardly_evaluate(start)
    with open_dict(start):
        start.pop("pairs_to_label", None)
    print_of = start.copy()
    print_of.train.output_dir = ""
    print_of.model.contrast = None  # it has no weights, and acts on pairs alone
    print_of.world.pairs_size = 0
    print_of.dataloader.test = print_of.dataloader.evaluator = None
    print_of.benchmark = {"shared": start.benchmark.shared, "iterations": None, "tests": None}
    with tempfile.TemporaryDirectory() as scratch:  # rows may run at the same time
        text = Path(scratch) / CONFIG_NAME
        LazyConfig.save(print_of, str(text))
        mark = hashlib.sha256(text.read_bytes()).hexdigest()[:10]
    folder = place.output / place.size / f"start-{mark}-seed{start.train.seed}"
    start.train.output_dir = str(folder)
    if not (folder / LAST).is_file():
        with Cost(folder):
            train_here(start, place.processes)
    return folder


def make_labels(place: Place, row: Row, seed: int, cfg: DictConfig, folder: Path) -> None:
    """Let the teacher label as many pairs as the row sees, unless it has done so."""
    file = folder / "pseudo_labels.jsonl"
    if file.is_file():
        return
    teacher = place.run_folder(row.teacher, seed)
    teacher_cfg, _ = load_config(teacher / CONFIG_NAME)
    model: Any = build_model(teacher_cfg).to(cfg.train.device).eval()
    load_weights(model, teacher / WEIGHTS_NAME)
    # Interpolations in the node are of the whole config.
    pairs = build_pairs(cfg.pairs_to_label)
    count = min(
        len(pairs.records),  # type: ignore[arg-type]
        cfg.train.source_ratios.pairs * pairs.total_batch_size,
    )
    boxes = write_odvg(label_pairs(model, pairs, count, PSEUDO_SCORE), file)
    print(f"{file}: {boxes} boxes on {count} pairs", file=sys.stderr)


def measured(
    cfg: DictConfig, model: Any, test: str, changes: Mapping[str, Any], folder: Path
) -> dict[str, Any]:
    """What a model does on a test set."""
    cfg = cfg.copy()
    cfg.dataloader.test.dataset.update(name=f"emoji_{test}", **changes)
    cfg.dataloader.evaluator.output_dir = str(folder / "inference" / test)
    return evaluate(cfg, model)


def run_rows(place: Place, names: Sequence[str], seeds: Sequence[int]) -> None:
    """All rows for all seeds, those of one seed together; says which file each has written."""
    for seed in seeds:
        for name in names:
            print(run_row(place, name, seed), file=sys.stderr)
