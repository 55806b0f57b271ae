"""What two processes log, predict and learn equals what one does. They run once, for all tests of this file."""

import csv
import importlib.util
import json
import math
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

SCRIPT = Path(__file__).with_name("distributed_run.py")


def load_script():
    spec = importlib.util.spec_from_file_location("distributed_run", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory, run_processes):
    folder = tmp_path_factory.mktemp("distributed")
    errors = run_processes(SCRIPT, folder)
    assert "sync_dist" not in "".join(errors)  # no advice to reduce what is reduced already
    return folder


@pytest.fixture(scope="module")
def two(folder):
    return json.loads((folder / "results.json").read_text())


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    return tmp_path_factory.mktemp("single")


@pytest.fixture(scope="module")
def one(single):
    return load_script().measure(single, 1)


@pytest.mark.parametrize("mode", ["validate", "test"])
@pytest.mark.parametrize("samples", ["uneven_last_batch", "padded"])
def test_what_is_logged_equals_that_of_one_process(one, two, mode, samples):
    assert two["two"][f"{mode}_{samples}"] == pytest.approx(one[f"{mode}_{samples}"], rel=1e-6)


@pytest.mark.parametrize("count", [0, 1, 3, 9])
def test_a_process_with_fewer_samples_changes_no_value(one, two, count):
    assert two["two"][f"few_{count}"] == pytest.approx(one[f"few_{count}"], rel=1e-6)


def test_a_metric_without_samples_on_any_process_is_nan(one, two):
    assert math.isnan(one["no_samples"]["validation.metrics.kept"])
    assert math.isnan(two["two"]["no_samples"]["validation.metrics.kept"])


def test_losses_are_equal_to_the_rounding_of_float64_of_means_of_float32(one, two):
    # Summing in another order is all that differs; a mean of means would be off in the first digits.
    name = "validation.second.losses.mse"
    assert two["two"]["validate_padded"][name] == pytest.approx(one["validate_padded"][name], rel=2e-7)


def test_training_losses_are_means_over_the_samples_of_both_processes(one, two):
    assert two["two"]["train"] == pytest.approx(one["train"], rel=1e-6)


def test_predictions_are_in_order_and_none_is_repeated(folder, one, two):
    with (folder / "predictions_2.csv").open() as file:
        header, *rows = csv.reader(file)
    assert header == ["data.sample_id", "model.y.0", "data.list"]
    assert [int(row[0]) for row in rows] == list(range(11))
    assert not list(folder.glob(".predictions*"))


def test_predictions_have_the_types_that_hold_those_of_both_processes(folder, single, one):
    table = pq.read_table(folder / "predictions_2.parquet")
    assert [str(field.type) for field in table.schema] == ["int64", "float", "list<element: double>"]
    alone = pq.read_table(single / "predictions_1.parquet")
    assert table.schema == alone.schema
    for name in ("data.sample_id", "data.list"):
        assert table[name].to_pylist() == alone[name].to_pylist()
    assert table["model.y.0"].to_pylist() == pytest.approx(alone["model.y.0"].to_pylist(), rel=1e-6)


def test_a_batch_that_one_process_skips_leaves_all_with_the_same_weights(two):
    before, after = two["skip"]["before"], two["skip"]["after"]
    assert before[0] == before[1]
    assert after[0] == after[1] != before[0]
    assert two["skip"]["loss"] > 0  # no NaN


@pytest.mark.skipif(not hasattr(torch.cpu.Stream, "record_event"), reason="this torch shards models on GPUs only")
def test_a_sharded_model_trains_on_plain_dicts_and_is_saved_whole(folder, two):
    assert two["sharded"]["parameters"] == ["DTensor"]
    assert two["sharded"]["loss"] < 3
    saved = load_file(folder / "sharded" / "model.safetensors")
    assert {key: tuple(tensor.shape) for key, tensor in saved.items()} == {"linear.weight": (1, 3), "linear.bias": (1,)}
