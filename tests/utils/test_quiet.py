import logging
import re
import subprocess
import sys
import warnings
from importlib import metadata
from pathlib import Path

import pytest

from detclip2.utils.quiet import errors_alone, without_any_warning, without_upstream_warnings


def test_only_warnings_of_libraries_about_themselves_are_hidden():
    jit = "`torch.jit.script` is deprecated. Please switch to `torch.compile` or `torch.export`."
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with without_upstream_warnings():
            warnings.warn(jit, FutureWarning, stacklevel=1)
            warnings.warn("yours is deprecated", FutureWarning, stacklevel=1)
        assert [str(w.message) for w in seen] == ["yours is deprecated"]
        warnings.warn(jit, FutureWarning, stacklevel=1)
        assert len(seen) == 2


def test_all_warnings_are_hidden_in_a_block_and_errors_are_not(caplog):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with without_any_warning():
            warnings.warn("hidden", UserWarning, stacklevel=1)
            logging.warning("hidden")
            logging.error("shown")
        logging.warning("shown again")
    assert not seen
    assert caplog.messages == ["shown", "shown again"]


def test_a_logger_has_its_level_again_after_a_block_of_errors_alone(caplog):
    logger = logging.getLogger("detclip2.data.one")
    with errors_alone("detclip2.data"):
        logger.warning("hidden")
        logger.error("shown")
    logger.warning("shown again")
    with pytest.raises(ZeroDivisionError), errors_alone("detclip2.data"):
        raise ZeroDivisionError
    logger.warning("and again")
    assert caplog.messages == ["shown", "shown again", "and again"]


def pins_are_installed():
    """Whether the libraries that warn have the versions of requirements.lock."""
    lock = Path(__file__).parents[2].joinpath("requirements.lock").read_text("utf-8")
    names = ("torch", "torchvision", "timm", "transformers", "tokenizers")
    # Builds of torch for one device have a suffix, as in 2.11.0+cpu.
    installed = (f"{name}=={metadata.version(name).partition('+')[0]}" for name in names)
    return all(re.search(rf"^{re.escape(pin)}\b", lock, re.MULTILINE) for pin in installed)


@pytest.mark.parametrize(
    "code",
    [
        "from detclip2 import OpenVocabularyPredictor",
        "from detclip2.cli import main; main(['predict', '--help'])",
    ],
)
@pytest.mark.processes
def test_nothing_on_stderr(code):
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0
    assert "torch.jit.script" not in result.stderr
    # Another release within the ranges may emit new warnings.
    assert result.stderr == "" or not pins_are_installed()
