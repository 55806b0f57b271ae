import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fuse_models.ensemble.combine_predictions import average_predictions, majority_vote, standard_deviation


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def vote_by_loops(predictions, average, classes_axis):
    """The vote of each element as it is defined: counts, then the higher average, then the lower index."""
    predictions, average = predictions.movedim(classes_axis % average.ndim + 1, -1), average.movedim(classes_axis, -1)
    votes = torch.empty(average.shape[:-1], dtype=torch.int64)
    for location in itertools.product(*map(range, average.shape[:-1])):
        counts = [0] * average.shape[-1]
        for prediction in predictions:
            scores = prediction[location].tolist()
            counts[scores.index(max(scores))] += 1
        averages = average[location].tolist()
        votes[location] = max(range(len(counts)), key=lambda c: (counts[c], averages[c], -c))
    return votes


@given(
    models=st.integers(1, 6),
    shape=st.lists(st.integers(1, 4), min_size=0, max_size=3),
    classes=st.integers(2, 4),
    levels=st.integers(1, 4),
    axis=st.integers(-4, 3),
    seed=st.integers(0, 999),
)
def test_the_vote_is_that_of_loops_over_all_elements(models, shape, classes, levels, axis, seed):
    axis = max(-len(shape) - 1, min(axis, len(shape)))
    shape.insert(axis if axis >= 0 else len(shape) + 1 + axis, classes)
    generator = torch.Generator().manual_seed(seed)
    # few levels, so that members tie within themselves and with one another
    predictions = torch.randint(levels, (models, *shape), generator=generator).float()
    average = predictions.mean(0)
    assert majority_vote(predictions, average, "probabilities", axis).equal(vote_by_loops(predictions, average, axis))


def test_the_vote_is_not_the_class_of_the_average():
    predictions = torch.tensor([[[0.6, 0.4]], [[0.6, 0.4]], [[0.0, 1.0]]])
    assert majority_vote(predictions, predictions.mean(0), "probabilities", 1).tolist() == [0]
    assert predictions.mean(0).argmax(1).tolist() == [1]


def test_a_tie_goes_to_the_higher_average_and_then_to_the_lower_index():
    predictions = torch.tensor([[[0.5, 0.3, 0.2], [0.2, 0.2, 0.6]], [[0.1, 0.8, 0.1], [0.6, 0.2, 0.2]]])
    assert majority_vote(predictions, predictions.mean(0), "probabilities", 1).tolist() == [1, 0]


def test_the_higher_average_counts_among_the_most_voted_alone():
    predictions = torch.tensor([[[0.41, 0.0, 0.4]], [[0.0, 0.41, 0.4]]])  # nobody votes for class 2
    assert majority_vote(predictions, predictions.mean(0), "probabilities", 1).tolist() == [0]


def test_logits_of_minus_infinity_do_not_hide_the_votes():
    inf = torch.inf
    predictions = torch.tensor([[[-5.0, 0.0, -inf]], [[-5.0, -inf, 0.0]]])
    assert majority_vote(predictions, predictions.mean(0), "probabilities", 1).tolist() == [1]


def test_a_model_that_gives_nan_does_not_undo_the_vote_of_the_others():
    nan = torch.nan
    predictions = torch.tensor([[[0.1, 0.9]], [[0.1, 0.9]], [[nan, nan]]])
    assert majority_vote(predictions, predictions.mean(0), "probabilities", 1).tolist() == [1]


@pytest.mark.parametrize("average", ["probabilities", "logits"])
@pytest.mark.parametrize("axis", [1, -1])
def test_averages_of_logits_and_of_their_probabilities_agree(average, axis):
    logits = torch.randn(5, 3, 4, 2, 4, dtype=torch.float64)
    stacked_axis = axis if axis < 0 else axis + 1
    from_logits = average_predictions(logits, "logits", average, axis).softmax(axis)
    from_probabilities = average_predictions(logits.softmax(stacked_axis), "probabilities", average, axis)
    torch.testing.assert_close(from_logits, from_probabilities)
    torch.testing.assert_close(from_probabilities.sum(axis), torch.ones_like(from_probabilities.sum(axis)))


def test_averaging_probabilities_is_an_arithmetic_mean():
    probabilities = torch.rand(4, 2, 3).softmax(2)
    result = average_predictions(probabilities, "probabilities", "probabilities", 1)
    torch.testing.assert_close(result, sum(probabilities) / 4)


def test_averaging_logits_is_a_normalised_geometric_mean():
    probabilities = torch.rand(4, 2, 3).softmax(2)
    geometric = probabilities.prod(0) ** (1 / 4)
    result = average_predictions(probabilities, "probabilities", "logits", 1)
    torch.testing.assert_close(result, geometric / geometric.sum(1, keepdim=True))


def test_the_average_of_logits_is_their_mean():
    logits = torch.randn(4, 2, 3)
    torch.testing.assert_close(average_predictions(logits, "logits", "logits", 1), logits.mean(0))


@pytest.mark.parametrize("average", ["probabilities", "logits"])
def test_values_are_averaged_as_they_are(average):
    values = torch.randn(4, 2, 1) * 100
    torch.testing.assert_close(average_predictions(values, "values", average, 1), values.mean(0))


def test_probabilities_of_zero_give_a_finite_geometric_mean():
    result = average_predictions(torch.tensor([[[0.0, 1.0]], [[1.0, 0.0]]]), "probabilities", "logits", 1)
    torch.testing.assert_close(result, torch.tensor([[0.5, 0.5]]))


def test_saturated_logits_give_a_finite_mean_of_probabilities():
    result = average_predictions(torch.tensor([[[1e4, 0.0]], [[0.0, 1e4]]]), "logits", "probabilities", 1)
    torch.testing.assert_close(result.softmax(1), torch.tensor([[0.5, 0.5]]))


# --------------------------------------------------------------------------------------- independent labels and weights


@pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 3), (2, 3, 4, 5)])
def test_labels_are_averaged_one_by_one(shape):
    logits = torch.randn(5, *shape, dtype=torch.float64)
    scores = logits.sigmoid()
    for average, expected in (("probabilities", scores.mean(0)), ("logits", scores.logit().mean(0).sigmoid())):
        torch.testing.assert_close(average_predictions(scores, "labels", average, 1), expected)
        torch.testing.assert_close(average_predictions(logits, "label_logits", average, 1).sigmoid(), expected)


def test_saturated_labels_have_a_finite_average():
    logits = torch.tensor([[200.0, -200.0], [-200.0, -200.0]])
    torch.testing.assert_close(average_predictions(logits, "label_logits", "probabilities", 1)[0], torch.tensor(0.0))
    assert average_predictions(logits, "label_logits", "probabilities", 1)[1] == -200
    torch.testing.assert_close(average_predictions(logits.sigmoid(), "labels", "logits", 1)[1], torch.tensor(0.0))
    assert average_predictions(logits.sigmoid(), "labels", "logits", 1).isfinite().all()


def test_labels_are_voted_on_one_by_one_and_ties_go_to_the_average():
    logits = torch.tensor([[2.0, 0.5, 0.5, 0.0], [-1.0, -0.5, -0.75, 0.0]])  # their averages are exact
    scores = torch.tensor([[0.875, 0.625, 0.625, 0.5], [0.25, 0.375, 0.25, 0.5]])
    for kind, predictions in (("labels", scores), ("label_logits", logits)):
        assert majority_vote(predictions, predictions.mean(0), kind, 1).tolist() == [1, 0, 0, 0]
    odd = torch.tensor([[0.6], [0.6], [0.0]])
    assert majority_vote(odd, odd.mean(0), "labels", 1).tolist() == [1]  # though the average is 0.4
    with_nan = torch.tensor([[0.6], [torch.nan], [torch.nan]])
    assert majority_vote(with_nan, with_nan.mean(0), "labels", 1).tolist() == [1]


@pytest.mark.parametrize("kind", ["probabilities", "logits", "labels", "label_logits", "values"])
@pytest.mark.parametrize("average", ["probabilities", "logits"])
def test_a_weight_of_two_is_the_same_model_twice(kind, average):
    predictions = torch.randn(3, 4, 2, dtype=torch.float64)
    if kind in ("probabilities", "labels"):
        predictions = predictions.softmax(2)
    weights = torch.tensor([2.0, 1.0, 1.0])
    expected = average_predictions(predictions[[0, 0, 1, 2]], kind, average, 1)
    torch.testing.assert_close(average_predictions(predictions, kind, average, 1, weights), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("holds", ["logits", "probabilities"])
@pytest.mark.parametrize("average", ["probabilities", "logits"])
def test_half_precision_is_rounded_once(dtype, holds, average):
    predictions = torch.randn(8, 4, 3).to(dtype)
    predictions = predictions.softmax(2) if holds == "probabilities" else predictions
    result = average_predictions(predictions, holds, average, 1)
    expected = average_predictions(predictions.double(), holds, average, 1)
    assert result.dtype == dtype
    torch.testing.assert_close(result.double(), expected, rtol=torch.finfo(dtype).eps, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_the_deviation_is_that_of_torch_with_and_without_gradients(dtype):
    predictions = (torch.randn(5, 3, 4) * 100).to(dtype)
    expected = predictions.double().std(0, correction=0).to(dtype)
    torch.testing.assert_close(standard_deviation(predictions), expected)
    torch.testing.assert_close(standard_deviation(predictions.requires_grad_()), expected)


def test_where_models_agree_the_deviation_is_zero_and_has_a_gradient_of_zero():
    predictions = torch.full((4, 2), 0.3, requires_grad=True)
    standard_deviation(predictions).sum().backward()
    assert predictions.grad.tolist() == [[0.0, 0.0]] * 4
    assert standard_deviation(predictions.detach()).tolist() == [0.0, 0.0]
