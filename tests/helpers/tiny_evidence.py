"""Settings of the benchmark for a tiny world and model: rows take seconds."""

from projects.EmojiScenes.evidence.runner import Experiment

TINY = (
    "world.categories=30", "world.size=64", "world.pairs_size=64",
    "benchmark.shared=3", "benchmark.iterations.detection=4",
    "benchmark.iterations.grounding=1", "benchmark.iterations.pairs=5",
    "lr_multiplier.warmup_iterations=2", "dataloader.test.dataset.count=4",
    *(f"dataloader.train.{source}.{key}" for source in ("detection", "grounding", "pairs")
      for key in ("total_batch_size=4", "num_workers=0")),
    "model.backbone.channels=16", "model.head.embed_dim=16", "model.head.num_convs=1",
    "model.head.num_groups=4", "train.log_period=1",
)  # fmt: skip


def experiment_in(folder, **settings):
    return Experiment("quick", folder / "out", folder / "results", **settings)
