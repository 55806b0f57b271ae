import time

import pytest
import torch

from fuse_models.ensemble import faster_execution
from fuse_models.ensemble.faster_execution import is_faster

CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch):
    """A clock that only `sleeping` moves."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def sleeping(clock, *seconds):
    """A function that takes the given times, the last of them from then on."""
    times, calls = list(seconds), []

    def run():
        calls.append(1)
        clock[0] += times.pop(0) if len(times) > 1 else times[0]

    run.calls = calls
    return run


def test_a_clear_gain_is_faster(clock):
    assert is_faster(sleeping(clock, 0.9), sleeping(clock, 1.0), CPU)


@pytest.mark.parametrize("seconds", [0.96, 1.0, 2.0])
def test_no_gain_or_a_small_one_is_not(clock, seconds):
    assert not is_faster(sleeping(clock, seconds), sleeping(clock, 1.0), CPU)


def test_the_first_call_and_disturbed_ones_do_not_count(clock):
    candidate = sleeping(clock, 5e-3, 1e-3, 4e-3, 1e-3)
    assert is_faster(candidate, sleeping(clock, 2e-3), CPU)


def test_long_runs_are_not_repeated(clock):
    candidate, usual = sleeping(clock, 1.0), sleeping(clock, 3.0)
    assert is_faster(candidate, usual, CPU)
    assert len(candidate.calls) == len(usual.calls) == 2


def test_short_runs_are_repeated(clock):
    candidate = sleeping(clock, 1e-4)
    is_faster(candidate, sleeping(clock, 1e-4), CPU)
    assert len(candidate.calls) == 1 + faster_execution.ROUNDS


def test_a_candidate_that_fails_is_not_faster(clock):
    def fail():
        raise RuntimeError("vmap: not possible")

    usual = sleeping(clock, 1.0)
    assert not is_faster(fail, usual, CPU)
    assert not usual.calls  # which would draw random numbers once more than without measuring


def test_an_error_of_the_usual_way_is_raised():
    def fail():
        raise RuntimeError("no such input")

    with pytest.raises(RuntimeError, match="no such input"):
        is_faster(lambda: None, fail, CPU)
