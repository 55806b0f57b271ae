"""Two processes over gloo, against references computed in one process."""

from pathlib import Path

import pytest
import torch
from two_processes import STEPS, momentum_reference, reference, train_whole
from worker_processes import results_of


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What both processes got; they are started once for all tests."""
    return results_of(Path(__file__).with_name("two_processes.py"), tmp_path_factory.mktemp("gloo"))


@pytest.mark.parametrize("perturbation", ["global", "local"])
def test_steps_are_those_computed_by_hand(results, perturbation):
    expected = reference(perturbation)
    assert not torch.allclose(expected, reference("local" if perturbation == "global" else "global"), rtol=1e-4)
    for result in results:
        torch.testing.assert_close(result[perturbation][0], expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("perturbation", "averagings"), [("global", 2 * STEPS), ("local", STEPS)])
def test_a_local_perturbation_averages_gradients_once_a_step(results, perturbation, averagings):
    assert [result[perturbation][1] for result in results] == [averagings] * 2


def test_steps_without_a_second_pass_average_gradients(results):
    assert [result["local, interval"][1] for result in results] == [STEPS] * 2
    assert torch.equal(results[0]["local, interval"][0], results[1]["local, interval"][0])


def test_momentum_sam_equals_one_process_with_both_batches(results):
    for result in results:
        weights, averagings = result["momentum"]
        torch.testing.assert_close(weights, momentum_reference(), rtol=1e-10, atol=1e-12)
        assert averagings == STEPS


def test_processes_agree_to_skip_a_step_that_overflows_on_one_of_them(results):
    for result in results:
        skipped, scale, calls, weights = result["overflow"]
        assert (skipped, scale, calls) == (True, 512.0, 3)
        assert torch.equal(weights, results[0]["overflow"][3])


def test_batch_norm_statistics_move_as_without_sam(results):
    for result in results:
        plain, with_sam = result["batch norm"]
        assert torch.equal(plain, with_sam)


@pytest.mark.parametrize("adaptive", [False, True])
def test_norms_of_sharded_parameters_are_over_all_shards(results, adaptive):
    for result in results:
        sharded = result["sharded, adaptive" if adaptive else "sharded"]
        torch.testing.assert_close(sharded, train_whole(adaptive), rtol=1e-10, atol=1e-12)
