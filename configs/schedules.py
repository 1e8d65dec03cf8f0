"""Learning rate over iterations: that of DetCLIPv2 (Tab. 9), and that of GLIP."""

from detectron2.config import LazyCall as L

from detclip2.engine.solver import warmup_cosine, warmup_steps

cosine = L(warmup_cosine)(max_iter="${train.max_iter}", warmup_iterations=1000)
steps = L(warmup_steps)(
    max_iter="${train.max_iter}",
    warmup_iterations=2000,
    milestones=[0.67, 0.89],
    values=[1.0, 0.1, 0.01],
)
