import os

import pytest

from detclip2.utils import busy_machine


@pytest.mark.parametrize(("load", "expected"), [(0.1, None), (1.9, "PASSIVE"), (50.0, "PASSIVE")])
def test_threads_sleep_where_others_work(monkeypatch, load, expected):
    environment = {}
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0, 0), raising=False)
    monkeypatch.setattr(busy_machine, "cores", lambda: 2)
    busy_machine.adapt_to_load()
    assert environment.get("OMP_WAIT_POLICY") == expected


def test_what_the_user_sets_stays(monkeypatch):
    environment = {"OMP_WAIT_POLICY": "ACTIVE"}
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.setattr(os, "getloadavg", lambda: (99.0, 0, 0), raising=False)
    busy_machine.adapt_to_load()
    assert environment == {"OMP_WAIT_POLICY": "ACTIVE"}


def test_a_system_without_load(monkeypatch):
    monkeypatch.delattr(os, "getloadavg", raising=False)
    assert not busy_machine.is_busy()
    assert busy_machine.cores() >= 1
