import subprocess
import sys
import warnings

import pytest

from detclip2.utils.quiet import without_upstream_warnings


def test_only_those_of_libraries_about_themselves():
    jit = "`torch.jit.script` is deprecated. Please switch to `torch.compile` or `torch.export`."
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with without_upstream_warnings():
            warnings.warn(jit, FutureWarning, stacklevel=1)
            warnings.warn("yours is deprecated", FutureWarning, stacklevel=1)
        assert [str(w.message) for w in seen] == ["yours is deprecated"]
        warnings.warn(jit, FutureWarning, stacklevel=1)
        assert len(seen) == 2


@pytest.mark.parametrize(
    "code",
    [
        "from detclip2 import OpenVocabularyPredictor",
        "from detclip2.cli import main; main(['predict', '--help'])",
    ],
)
def test_nothing_on_stderr(code):
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0
    assert result.stderr == ""
