"""What the tests of Dice, Tversky and generalized Dice share."""

from hypothesis import strategies as st
from references import probabilities, truth_and_valid, weights_of

EMPTY = st.sampled_from(["skip", "zero", "penalize"])
SMOOTH = st.sampled_from([(0.0, 0.0), (1.0, 1.0), (0.0, 0.5)])


def parts(batch):
    options = batch.options
    p = probabilities(batch.logits, options["activation"])
    truth, valid = truth_and_valid(batch.target, batch.classes, options.get("ignore_index"), batch.mask)
    ignored = (0,) if options.get("include_background") is False else options["ignore_classes"]
    return p, truth, valid, weights_of(options["class_weights"], ignored, truth, valid)
