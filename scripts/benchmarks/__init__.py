"""The subjects that scripts/benchmark.py measures, one file each."""

import detclip2  # noqa: F401  (first, as it offers the stand-in for Detectron2)
