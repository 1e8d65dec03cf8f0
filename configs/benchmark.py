"""What the sizes of the benchmark share (docs/benchmark.md): sources, test sets, how runs begin."""

from detectron2.config import LazyCall as L

from detclip2.engine.budget import SharedStartCosine
from detclip2.evaluation.open_vocabulary import open_vocabulary_evaluator

from .data.emoji import concepts, dataloader, grounding, inference, pairs, world
from .models.detclipv2 import nano as model
from .optim import AdamW as optimizer
from .train import train

benchmark = dict(
    # Iterations of boxes alone, with which all rows begin: rows that learn the same in it share it.
    shared=800,
    # A world may begin small: pairs of how many categories it has, and up to which iteration. The
    # first is that of the shared start; after the last, the world is whole.
    growth=[],
    # Iterations of each source in all; those of boxes include the shared ones. Multiples of 100,
    # so that the shares of the sources are kept exactly.
    iterations=dict(detection=2000, grounding=2000, pairs=2000),
    # Test set -> what of `dataloader.test.dataset` differs. The first is evaluated in training.
    tests=dict(seen=dict(contents=None), unseen=dict(contents=["unseen"])),
    # The same, for the rows that ask for them (`Row.more_tests`).
    more_tests=dict(),
)

dataloader.train.update(grounding=grounding, pairs=pairs)
# Names that never have a box are negatives where they are not, in every row: see emoji_nano_pairs.
dataloader.train.detection.mapper.negatives = concepts
dataloader.evaluator = L(open_vocabulary_evaluator)(
    dataset_name="${..test.dataset.name}",
    output_dir="${train.output_dir}/inference",
)
# Average precision wants every detection (1,000 for the Fixed one), people those that are sure.
model.postprocess.update(score_threshold=0.001, max_detections=1000)
inference.score_threshold = 0.3

lr_multiplier = L(SharedStartCosine)(
    max_iter="${train.max_iter}", warmup_iterations=200, shared="${benchmark.shared}"
)
train.update(device="cpu", checkpointer=dict(period=500, max_to_keep=1))
