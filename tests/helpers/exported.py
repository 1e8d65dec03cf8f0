"""Images for exported graphs, and a run of one."""

import numpy as np


def image_of(height, width):
    """(1, 3, H, W) float32 in 0..255: noise with large shapes in it."""
    rng = np.random.default_rng(height * width)
    coarse = rng.uniform(0, 200, (1, 3, 4, 4)).repeat(height // 4, 2).repeat(width // 4, 3)
    return np.rint(coarse + rng.uniform(0, 55, coarse.shape)).astype(np.float32)


def run_graph(session, image, vocabulary=None):
    """Outputs by name."""
    inputs = {"image": image} | ({} if vocabulary is None else {"vocabulary": vocabulary})
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))
