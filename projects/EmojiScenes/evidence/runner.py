"""Trains and measures the rows of the benchmark; each result is a json in the results folder."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.config import LazyCall
from omegaconf import DictConfig, open_dict

from detclip2.config import apply_overrides, build_model, load_config
from detclip2.data.datasets.pseudo_labels import PseudoLabelled, write_odvg
from detclip2.data.emojiscenes.sets import base_names
from detclip2.data.mappers import GroundingMapper
from detclip2.engine.train_loop import evaluate
from detclip2.utils.errors import UserError
from detclip2.utils.model_folder import CONFIG_NAME, WEIGHTS_NAME
from detclip2.utils.weights import load_weights
from scripts.pseudo_label import build_pairs, label_pairs

from . import PROJECT
from .budget import FIRST, schedule_of_budget
from .evaluator import benchmark_evaluator
from .record import Cost, curves_of, forget, images_seen, provenance, say_there, write_json
from .rows import ROWS, Row
from .stages import LAST_CHECKPOINT, resume_from, shared_start, smaller_worlds

CONFIGS = PROJECT / "configs"
START = "shared_start"
PSEUDO_SCORE = 0.3  # least score of a box that becomes a pseudo-label


@dataclass(frozen=True)
class Experiment:
    """One size of the benchmark: its folders, and the settings of all its rows."""

    size: str
    output: Path
    """Runs, each in a folder of its own."""
    results: Path
    artwork: Path | None = None
    """A folder of icon sets, each a test set in another style; as node_modules/@iconify-json."""
    settings: tuple[str, ...] = ()
    """Overrides of every row's config; they come before the row's own."""
    processes: int = 1
    """That train together, each on a part of every batch."""
    force: bool = False
    """Whether rows that are there are run again from the start."""

    def run_folder(self, name: str, seed: int) -> Path:
        """The folder of a run."""
        return self.output / self.size / f"{name}-seed{seed}"

    def result_file(self, name: str, seed: int) -> Path:
        """The json of a run."""
        return self.results / self.size / f"{name}-seed{seed}.json"


def run_rows(experiment: Experiment, names: Sequence[str], seeds: Sequence[int]) -> None:
    """Run all rows for all seeds, seed by seed, and print the file that each has written."""
    for seed in seeds:
        for name in names:
            print(run_row(experiment, name, seed), file=sys.stderr)


def run_row(experiment: Experiment, name: str, seed: int) -> Path:
    """Train and measure the unfinished parts of a row; returns the json.

    Raises:
        UserError: of the config or the data; or there is no such row.
        SystemExit: a signal asked to stop; the same call resumes from the last checkpoint.
    """
    if name not in ROWS:
        raise UserError(f"there is no row {name!r}; there are {', '.join(ROWS)}")
    row, file = ROWS[name], experiment.result_file(name, seed)
    folder = experiment.run_folder(name, seed)
    cfg = config_of(experiment, row, seed, folder)
    tests = test_sets(experiment, cfg, row)
    if experiment.force:
        forget(file, folder)
    record = json.loads(file.read_text("utf-8")) if file.is_file() else {"results": {}}
    if not tests.keys() - record["results"].keys():
        say_there()
        return file
    if not (folder / WEIGHTS_NAME).is_file():
        train_row(experiment, row, seed, cfg)
        record = {"results": {}}
    if "commit" not in record:  # of the training, not of later tests
        command = f"run {name} --size {experiment.size}"
        record |= provenance(cfg, name, seed, command, experiment.settings, row.overrides)
        record |= {
            "label": row.label,
            "images": images_seen(folder / LAST_CHECKPOINT),
            "iterations": int(cfg.train.max_iter),
            "cost": Cost.of(folder),
            "shared_start": Cost.of(Path((folder / START).read_text("utf-8"))),
            "curves": curves_of(folder / "metrics.json"),
        }
    model: Any = build_model(cfg).to(cfg.train.device)
    load_weights(model, folder / WEIGHTS_NAME)
    for test, changes in tests.items():
        if test not in record["results"]:
            record["results"][test] = measure(cfg, model.eval(), test, changes, folder)
            write_json(file, record)
    return file


def train_row(experiment: Experiment, row: Row, seed: int, cfg: DictConfig) -> None:
    """Train a row from its shared start, after its teacher if that is missing."""
    folder = Path(cfg.train.output_dir)
    if row.teacher:
        teacher = experiment.run_folder(row.teacher, seed)
        if not (teacher / WEIGHTS_NAME).is_file():
            of_teacher = ROWS[row.teacher]
            train_row(
                experiment, of_teacher, seed, config_of(experiment, of_teacher, seed, teacher)
            )
    processes = experiment.processes
    before = shared_start(cfg, experiment.output / experiment.size, processes)
    with Cost(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / START).write_text(str(before), encoding="utf-8")
        for part in smaller_worlds(cfg):
            before = resume_from(before, part, processes)
        if row.teacher:
            label_with_teacher(experiment.run_folder(row.teacher, seed), cfg)
        resume_from(before, cfg, processes)
    for older in folder.glob("model_0*.pth"):  # no run resumes from these any more
        older.unlink()


def config_of(experiment: Experiment, row: Row, seed: int, folder: Path) -> DictConfig:
    """The config of a row, with its own sources and their budget."""
    cfg, name = load_config(CONFIGS / f"{experiment.size}.py")
    apply_overrides(cfg, [*experiment.settings, *row.overrides], name)
    cfg.train.update(
        output_dir=str(folder),
        seed=seed,
        **schedule_of_budget(budget_of(row, cfg.benchmark), cfg.benchmark.shared),
    )
    sources = cfg.dataloader.train
    for source in set(cfg.benchmark.iterations) - set(cfg.train.source_ratios):
        del sources[source]
    # Rows share their test sets, which are rendered once.
    cfg.dataloader.test.dataset.folder = str(experiment.output / experiment.size / "data")
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


def test_sets(experiment: Experiment, cfg: DictConfig, row: Row) -> dict[str, dict[str, Any]]:
    """Test set -> what differs in its data set: those of the config, and one an art style."""
    tests = {str(name): dict(changes) for name, changes in cfg.benchmark.tests.items()}
    more = cfg.benchmark.more_tests
    tests |= {name: dict(more[name]) for name in row.more_tests if name in more}
    if experiment.artwork is not None:
        sets = sorted(path.parent for path in experiment.artwork.glob("*/icons.json"))
        if not sets:
            raise UserError(f"{experiment.artwork}: has no icon set of Iconify (FOLDER/icons.json)")
        tests |= {folder.name: {"contents": None, "artwork": str(folder)} for folder in sets}
    return tests


def label_with_teacher(teacher: Path, cfg: DictConfig) -> None:
    """Let the teacher label as many image-text pairs as the row sees, unless it has done so.

    Args:
        teacher: the folder of its run.
        cfg: of the row, whose records read the labels.
    """
    file = Path(cfg.dataloader.train.pairs.records.jsonl_file)
    if file.is_file():
        return
    teacher_cfg, _ = load_config(teacher / CONFIG_NAME, trust_config=True)
    model: Any = build_model(teacher_cfg).to(cfg.train.device).eval()
    load_weights(model, teacher / WEIGHTS_NAME)
    # Interpolations in the node are of the whole config.
    pairs = build_pairs(cfg.pairs_to_label)
    count = min(
        len(pairs.records),  # type: ignore[arg-type]
        cfg.train.source_ratios.pairs * pairs.total_batch_size,
    )
    boxes = write_odvg(label_pairs(model, pairs, count, PSEUDO_SCORE), file)
    print(f"{file}: {boxes} boxes on {count} image-text pairs", file=sys.stderr)


def measure(
    cfg: DictConfig, model: Any, test: str, changes: Mapping[str, Any], folder: Path
) -> dict[str, Any]:
    """All metrics of a model on a test set; files of its detections go into the run's folder."""
    cfg = cfg.copy()
    cfg.dataloader.test.dataset.update(name=f"emoji_{test}", **changes)
    cfg.dataloader.evaluator = LazyCall(benchmark_evaluator)(
        dataset_name="${..test.dataset.name}", output_dir=str(folder / "inference" / test)
    )
    return evaluate(cfg, model)
