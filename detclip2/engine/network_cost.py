"""What one process sends over the network in a training step of DetCLIPv2.

Processes exchange the gradients of the parameters, the embeddings of phrases, and five sums of the
softmax for each text of the contrast. Regions stay where they are: 100 proposals an image would be
about 14 times as many numbers as its 7 phrases.
"""

from dataclasses import dataclass

FLOAT = 4  # bytes
SUMS = 5
"""Numbers that `split_cross_entropy` exchanges a text."""


@dataclass(frozen=True)
class StepTraffic:
    """Bytes that one process sends in a step, by collectives in a ring.

    Not counted: strings of phrases, counts, and what the network's protocols add.
    """

    gradients: float
    """Of the parameters, averaged by DistributedDataParallel."""
    phrases: float
    """Embeddings of phrases, and their gradients on the way back."""
    scores: float = 0.0
    """Sums of the softmax over the images of the global batch, and their gradients."""

    @property
    def total(self) -> float:
        """All of them."""
        return self.gradients + self.phrases + self.scores


def step_traffic(
    parameters: int, processes: int, phrases: int, width: int, texts: int = 0
) -> StepTraffic:
    """What one process sends in a step in float32.

    Args:
        parameters: numbers that learn.
        processes: that share the batch.
        phrases: distinct phrases of the samples of one process.
        width: D, of embeddings.
        texts: captions of the samples of one process; 0 for data with boxes.
    """
    of_phrases = FLOAT * width * phrases
    of_sums = FLOAT * SUMS * texts * processes  # each process has a part of every text's softmax
    return StepTraffic(
        gradients=sent_to_reduce(FLOAT * parameters, processes),
        phrases=_there_and_back(of_phrases, processes),
        scores=_there_and_back(of_sums, processes),
    )


def sent_to_gather(size: float, processes: int) -> float:
    """Bytes that a process sends until all have the ``size`` bytes of each, in a ring."""
    return (processes - 1) * size


def sent_to_reduce(size: float, processes: int) -> float:
    """Bytes that a process sends until all have the sum of the ``size`` bytes of each, in a ring.

    A part of the sum goes round once while it is added up, and once more to all.
    """
    return 2 * (processes - 1) / processes * size


def _there_and_back(size: float, processes: int) -> float:
    """`all_gather_with_grad`: joined, and the gradients of what was joined added up."""
    return sent_to_gather(size, processes) + sent_to_reduce(processes * size, processes)
