import json

import pytest

from projects.EmojiScenes.evidence import runner
from tests.helpers.tiny_evidence import TINY, experiment_in


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Two rows of a world of 30, run from their shared start; the records by name. Read-only."""
    experiment = experiment_in(tmp_path_factory.mktemp("evidence"), settings=TINY)
    files = {name: runner.run_row(experiment, name, 0) for name in ("pairs", "detection")}
    return experiment, {name: json.loads(file.read_text()) for name, file in files.items()}
