"""Learning rate over iterations (Tab. 9)."""

from detectron2.config import LazyCall as L

from detclip2.engine.solver import warmup_cosine

cosine = L(warmup_cosine)(max_iter="${train.max_iter}", warmup_iterations=1000)
