"""Property-based tests: their profiles, and what every reader promises.

``--hypothesis-profile=long`` runs fifty times as many examples as the default, "ci", and others
in each run.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis.internal.conjecture import providers

from detclip2.utils.errors import UserError

EXAMPLES = {"ci": 2_000, "long": 100_000}
MAX_SENTENCE = 1_000
"""Characters of a message, with the path of the file."""

for name, number in EXAMPLES.items():
    settings.register_profile(
        name,
        max_examples=number,
        derandomize=name == "ci",
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        print_blob=name == "long",
    )
settings.load_profile("ci")
# Hypothesis also draws constants of the project's modules that happen to be imported, so that the
# examples would depend on the order of tests. Without them, runs of "ci" are equal.
providers._get_local_constants = lambda: providers._local_constants


def fewer(divisor: int) -> settings:
    """Settings for what is dear: a part of the profile's examples."""
    return settings(max_examples=max(1, settings().max_examples // divisor))


def result_of(function: Any, *args: Any, **kwargs: Any) -> Any:
    """What a reader returns, or None for a refusal in a sentence; other exceptions go through."""
    try:
        return function(*args, **kwargs)
    except UserError as error:
        check_sentence(str(error))
        return None


def check_sentence(sentence: str) -> None:
    """A message is one line that can be read."""
    assert sentence.strip()
    assert "\n" not in sentence
    assert len(sentence) <= MAX_SENTENCE, f"{len(sentence)} characters: {sentence[:200]}"


def rewrite(path: Path, content: bytes) -> Path:
    """Write a file again and again; some file systems flush a file that is emptied before."""
    with path.open("r+b" if path.exists() else "wb") as file:
        file.write(content)
        file.truncate()
    return path


def check_samples(records: Sequence[Any], mapper: Any) -> None:
    """Every record makes a sample that keeps the format, or is counted."""
    # Not above: every run of pytest imports this module.
    import numpy as np

    from detclip2.data.mappers import draw_sample
    from detclip2.data.sample import check_sample

    for index in range(len(records)):
        before = mapper.counter.total()
        sample = draw_sample(records, index, mapper, np.random.default_rng(0))
        if sample is None:
            assert mapper.counter.total() > before
        else:
            check_sample(sample, mapper.max_phrases)
