import platform
import subprocess
import sys

import pytest

from detclip2.engine import memory

STEPS = """
import resource, sys
import torch
from detclip2.engine.memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
torch.set_num_threads(1)
images, conv = torch.rand(16, 32, 56, 56), torch.nn.Conv2d(32, 64, 3, padding=1)
def steps():
    for _ in range(10):
        conv(images).relu().mul(2).sum().backward()
for _ in range(5):  # until the heap has grown to what is needed
    steps()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
steps()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(mode):
    answer = subprocess.run(
        [sys.executable, "-c", STEPS, mode], capture_output=True, text=True, check=True
    )
    return int(answer.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_freed_memory_is_used_again():
    assert page_faults("keep") < 0.2 * page_faults("default")


def test_other_c_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert memory.keep_freed_memory() is False
