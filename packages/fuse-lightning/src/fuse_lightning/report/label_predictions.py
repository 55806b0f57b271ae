"""The quality of predicted labels, each of which a sample has or not."""

import numpy as np

THRESHOLD = 0.5


def label_scores(probabilities: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Precision, recall, F1, AUROC, and numbers of positive and of labelled samples, shape [labels, 6].

    A label is predicted above a probability of 0.5. Precision and recall are 0 where nothing is predicted or true.

    Args:
        probabilities: shape [samples, labels].
        target: 0, 1, or NaN for unknown, shape [samples, labels].
    """
    scores = []
    for own, true in zip(probabilities.T, target.T, strict=True):
        known = ~np.isnan(true)
        own, true = own[known], true[known] == 1
        predicted = own > THRESHOLD
        right = (predicted & true).sum()
        precision, recall = right / max(predicted.sum(), 1), right / max(true.sum(), 1)
        f1 = 2 * right / max(predicted.sum() + true.sum(), 1)
        scores.append((precision, recall, f1, auroc(own, true), true.sum(), len(true)))
    return np.array(scores, dtype=float)


def auroc(scores: np.ndarray, positive: np.ndarray) -> float:
    """The probability that a positive sample has a higher score than a negative one; ties count half.

    Source: Mann and Whitney 1947. NaN without samples of both kinds.

    Example:
        >>> auroc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True]))
        0.75
    """
    positives, negatives = positive.sum(), (~positive).sum()
    if not positives or not negatives:
        return float("nan")
    _, place, count = np.unique(scores, return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2)[place]  # the mean rank of equal scores
    return float((rank[positive].sum() - positives * (positives + 1) / 2) / (positives * negatives))
