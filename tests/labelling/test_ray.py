"""The same run over Ray: a local cluster of two workers, one of which is killed."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from detclip2.labelling import ray_cluster
from detclip2.labelling.detector import DetectorSettings
from detclip2.labelling.part import Part
from detclip2.labelling.plan import IMAGES
from detclip2.labelling.ray_cluster import JOURNAL, label_with_ray
from detclip2.labelling.run import label_part
from detclip2.utils.errors import UserError
from tests.helpers import label_runs
from tests.helpers.label_runs import begin, check, found, make_detector, write_images

COUNT = 40
NOT_INSTALLED = (
    "the extra ray is not installed: it has 440 MB, and a cluster takes a minute of the 25 that "
    "continuous integration has; pip install 'ray[data]' and run this file after a change"
)


class ColorSettings(DetectorSettings):
    """Settings that build the detector of colours in a worker."""

    def build(self, device):
        return make_detector()


@pytest.fixture
def run(tmp_path):
    images = write_images(tmp_path / "images", COUNT)
    output = tmp_path / "output"
    begin(output, images)
    own = label_runs.settings()
    return output, ColorSettings("", "", False, own.vocabulary, own.settings, readers=1)


def workers():
    """The processes of Ray that detect."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes()
        except OSError:
            continue
        if line.startswith(b"ray::") and b"_Worker" in line:
            found.append(int(path.parent.name))
    return found


def test_without_ray_it_is_said(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"detclip2\[ray\]"):
        label_with_ray("local", *run)


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.timeout(1800)
def test_two_workers_one_of_which_is_killed(run, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # else it writes a token to the home folder
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    ray = pytest.importorskip("ray", reason=NOT_INSTALLED)
    monkeypatch.setattr(ray_cluster, "IMAGES_OF_A_TASK", 4)
    address = os.environ.get("DETCLIP2_TEST_RAY", "local")  # a cluster that runs already
    if address == "local":
        own = {"num_cpus": 2, "include_dashboard": False}
        init = ray.init
        monkeypatch.setattr(ray, "init", lambda **more: init(**own, **more))
    output, settings = run
    done, killed = [], []

    def kill(number):
        done.append(number)
        if len(done) == 6 and not killed and (alive := workers()):
            killed.append(alive[0])
            os.kill(alive[0], signal.SIGKILL)

    label_with_ray(address, output, settings, workers=2, advance=kill)
    assert killed, "no worker was found"
    check(found(output, COUNT), COUNT)
    lines = (output / "journal" / JOURNAL).read_text().splitlines()
    assert sorted(json.loads(line)["image"] for line in lines) == [*range(COUNT)]
    other = tmp_path / "other"
    begin(other, tmp_path / "images")
    label_part(other, Part(0, 1), make_detector)
    assert found(other, COUNT) == found(output, COUNT)
    assert (other / IMAGES).read_bytes() == (output / IMAGES).read_bytes()
