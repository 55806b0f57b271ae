"""The formulas of the losses as loops over Python floats, which share nothing with the package."""

import math

import torch


def probabilities(logits, activation):
    """p[b][c][v] of a tensor [B, C, ...]."""
    scores = (
        logits.detach().double().flatten(2).tolist()
        if logits.ndim > 2
        else logits.detach().double()[..., None].tolist()
    )
    result = []
    for sample in scores:
        columns = []
        for column in zip(*sample, strict=True):
            if activation == "softmax":
                highest = max(column)
                exponentials = [math.exp(one - highest) for one in column]
                columns.append([one / sum(exponentials) for one in exponentials])
            elif activation == "sigmoid":
                columns.append([1 / (1 + math.exp(-one)) for one in column])
            else:
                columns.append(list(column))
        result.append([list(row) for row in zip(*columns, strict=True)])
    return result


def truth_and_valid(target, classes, ignore_index=None, mask=None):
    """y[b][c][v] and valid[b][v] of class indices [B, ...] or probabilities [B, C, ...] (floating-point)."""
    samples = len(target)
    if target.is_floating_point():
        truth = target.double().reshape(samples, classes, -1).tolist()
        valid = [[True] * len(sample[0]) for sample in truth]
    else:
        indices = target.reshape(samples, -1).tolist()
        truth = [[[float(one == c) for one in sample] for c in range(classes)] for sample in indices]
        valid = [[one != ignore_index for one in sample] for sample in indices]
    if mask is not None:
        masked = mask.reshape(samples, -1).tolist()
        valid = [[a and bool(b) for a, b in zip(*rows, strict=True)] for rows in zip(valid, masked, strict=True)]
    return truth, valid


def ipw(truth, valid):
    """N / (K n) for each class, 0 for those that do not occur."""
    classes = len(truth[0])
    counts = [
        sum(truth[b][c][v] for b in range(len(truth)) for v in range(len(valid[b])) if valid[b][v])
        for c in range(classes)
    ]
    occurring = sum(count > 0 for count in counts)
    return [sum(counts) / (occurring * count) if count else 0.0 for count in counts]


def weights_of(class_weights, ignore_classes, truth, valid):
    classes = len(truth[0])
    weights = [1.0] * classes if class_weights is None else list(class_weights)
    if class_weights == "ipw":
        weights = ipw(truth, valid)
    return [0.0 if c in ignore_classes else weights[c] for c in range(classes)]


def focal(p, truth, valid, weights, gamma, alpha, binary):
    """The losses by voxel ([b][v], or [b][c][v] if binary), and what their sum is divided by for a mean."""
    losses, divisor = [], 0.0
    for b in range(len(p)):
        sample = []
        for c in range(len(p[b])):
            row = []
            for v in range(len(p[b][c])):
                q, y, w = p[b][c][v], truth[b][c][v], weights[c]
                a = 1.0 if alpha is None else alpha[c]
                if not valid[b][v]:
                    row.append(0.0)
                    continue
                term = a * w * y * (1 - q) ** gamma * -math.log(q) if y else 0.0
                if binary:
                    if y < 1:
                        rest = 1.0 if alpha is None else 1 - a
                        term += rest * w * (1 - y) * q**gamma * -math.log(1 - q)
                    divisor += w
                else:
                    divisor += w * y
                row.append(term)
            sample.append(row)
        losses.append(sample if binary else [sum(column) for column in zip(*sample, strict=True)])
    return losses, divisor


def overlap(p, truth, valid, power=1, whole_batch=False):
    """The overlap, sums of p ** power and y ** power, the number of valid voxels, [b][c] (one b for a whole batch)."""
    tables = []
    for b in range(len(p)):
        rows = []
        for c in range(len(p[b])):
            voxels = [v for v in range(len(valid[b])) if valid[b][v]]
            rows.append(
                (
                    sum(min(p[b][c][v], truth[b][c][v]) if power == 1 else p[b][c][v] * truth[b][c][v] for v in voxels),
                    sum(p[b][c][v] ** power for v in voxels),
                    sum(truth[b][c][v] ** power for v in voxels),
                    len(voxels),
                )
            )
        tables.append(rows)
    if whole_batch:
        classes = len(p[0])
        return [[tuple(sum(rows[c][i] for rows in tables) for i in range(4)) for c in range(classes)]]
    return tables


def tversky(table, alpha, beta, smooth_numerator, smooth_denominator, empty, loss_of_index):
    """The losses [b][c] and whether they count."""
    losses, counted = [], []
    for rows in table:
        losses.append([])
        counted.append([])
        for tp, predicted, present, voxels in rows:
            if present == 0:
                index = 1 - (predicted / voxels if voxels else 0.0) if empty == "penalize" else 1.0
            else:
                false_positives, false_negatives = predicted - tp, present - tp
                index = (2 * tp + smooth_numerator) / (
                    2 * tp + 2 * alpha * false_positives + 2 * beta * false_negatives + smooth_denominator
                )
            losses[-1].append(loss_of_index(index))
            counted[-1].append(present > 0 if empty == "skip" else voxels > 0)
    return losses, counted


def reduce_classes(losses, counted, weights, reduction):
    """A number, or a tensor [b, c] for "none"."""
    terms = [
        [weights[c] * loss if counted[b][c] else 0.0 for c, loss in enumerate(row)] for b, row in enumerate(losses)
    ]
    if reduction == "none":
        return torch.tensor(terms, dtype=torch.float64)
    total = math.fsum(one for row in terms for one in row)
    if reduction == "sum":
        return torch.tensor(total, dtype=torch.float64)
    divisor = math.fsum(weights[c] for row in counted for c, one in enumerate(row) if one)
    return torch.tensor(total / divisor if divisor else 0.0, dtype=torch.float64)


def reduce_voxels(losses, divisor, reduction, shape):
    if reduction == "none":
        return torch.tensor(losses, dtype=torch.float64).reshape(shape)
    total = torch.tensor(losses, dtype=torch.float64).sum()
    if reduction == "sum":
        return total
    return total / divisor if divisor else total * 0
