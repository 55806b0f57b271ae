"""What the tests of cross-entropy and focal loss share."""

from references import focal, probabilities, reduce_voxels, truth_and_valid, weights_of


def expected(batch, gamma, alpha):
    options = batch.options
    binary = options["activation"] == "sigmoid"
    p = probabilities(batch.logits, options["activation"])
    truth, valid = truth_and_valid(batch.target, batch.classes, options.get("ignore_index"), batch.mask)
    ignored = (0,) if options.get("include_background") is False else options["ignore_classes"]
    weights = weights_of(options["class_weights"], ignored, truth, valid)
    losses, divisor = focal(p, truth, valid, weights, gamma, alpha, binary)
    shape = batch.logits.shape if binary else (len(batch.logits), *batch.spatial)
    return reduce_voxels(losses, divisor, options["reduction"], shape)
