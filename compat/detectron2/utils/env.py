"""The environment of the process."""

import logging
import os
import random
import time

import numpy as np
import torch

__all__ = ["seed_all_rng"]


def seed_all_rng(seed=None):
    """Seed python, numpy and torch; with None, by a number that differs from run to run."""
    if seed is None:
        noise = int.from_bytes(os.urandom(2), "big")
        seed = (os.getpid() + time.time_ns() // 1000 + noise) % 2**32  # the range of numpy's seeds
        logging.getLogger(__name__).info(f"Using a generated random seed {seed}")
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.cuda.manual_seed_all(seed)
    os.environ["PYTHONHASHSEED"] = str(seed)
