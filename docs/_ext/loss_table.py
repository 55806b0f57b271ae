"""What the pages of the losses say beside the docstrings: when to use a loss, its range, and other libraries' names."""

from typing import NamedTuple


class LossPage(NamedTuple):
    """One page. Texts are Markdown."""

    name: str
    """The class, or the function if there is no class."""
    title: str
    function: str | None
    """The function in `fuse_losses.functional`."""
    use: str
    range: str
    shapes: str
    source: str
    plots: tuple[tuple[str, str, str], ...] = ()
    """The name of a function of `loss_plots`, its title, and what to see in it."""
    peers: tuple[tuple[str, str, str, str], ...] = ()
    """An argument of ours, and that of MONAI, SMP and nnU-Net."""


DENSE_SHAPES = (
    "Prediction `[B, C, *spatial]` with up to three spatial axes, or `[B, C]`. Target: class indices `[B, *spatial]`, or "
    "probabilities `[B, C, *spatial]`. Result: a scalar."
)
COMMON_PEERS = (
    ('`activation="softmax"`', "`softmax=True`", '`mode="multiclass"`', "`apply_nonlin=softmax_helper_dim1`"),
    ('`activation="sigmoid"`', "`sigmoid=True`", '`mode="multilabel"`', "`apply_nonlin=torch.sigmoid`"),
    ("`include_background=False`", "`include_background=False`", "`classes=[1, ...]`", "`do_bg=False`"),
    ("`ignore_index`", "`ignore_index`", "`ignore_index`", "`ignore_label` of the compound losses"),
)

DENSE_USAGE = """
from fuse_losses import {name}

# logits [B, C, H, W]; target [B, H, W] with class indices
criterion = {name}()
loss = criterion(logits, target)

# The same loss of a batch_dict, by its keys:
criterion = {name}(pred="model.logits.seg", target="data.seg")
loss = criterion(batch_dict)
"""
"""With tensors, and with the keys of a batch_dict."""

TERMS = '{"cross_entropy": 1.0, "dice": 1.0}'
USAGE = {
    "LossCompound": f"""
from fuse_losses import LossCompound

terms = {TERMS}
criterion = LossCompound(terms=terms)
loss = criterion(logits, target)

# The same loss of a batch_dict, by its keys:
criterion = LossCompound(pred="model.logits.seg", target="data.seg", terms=terms)
loss = criterion(batch_dict)
""",
    "top_k_cross_entropy": """
from fuse_losses.functional import top_k_cross_entropy

loss = top_k_cross_entropy(logits, target, k=0.1)
""",
    "LossLinearCompound": f"""
from fuse_losses import LossLinearCompound

layer = torch.nn.Conv2d(8, 3, kernel_size=1)  # the network's last layer
criterion = LossLinearCompound(layer=layer, terms={TERMS})
loss = criterion(features, target)
""",
    "LossSupervisedContrastive": """
from fuse_losses import LossSupervisedContrastive, functional

loss = functional.supervised_contrastive_loss(vectors, target_i=labels)

criterion = LossSupervisedContrastive(feat_i="model.vectors", target_i="data.label")
loss = criterion(batch_dict)
""",
    "LossWarmUp": """
from fuse_losses import LossDice, LossWarmUp

dice = LossDice(pred="model.logits.seg", target="data.seg")
criterion = LossWarmUp(dice, nof_iterations=100)
loss = criterion(batch_dict)
""",
    "LossDefault": """
from fuse_losses import LossDefault

criterion = LossDefault(
    pred="model.logits.seg",
    target="data.seg",
    callable=torch.nn.functional.cross_entropy,
)
loss = criterion(batch_dict)
""",
    "LossWrapToDict": """
from fuse_losses import LossWrapToDict

keys = {"input": "model.logits.seg", "target": "data.seg"}
module = torch.nn.CrossEntropyLoss()
criterion = LossWrapToDict(loss_module=module, loss_arg_to_batch_key=keys)
loss = criterion(batch_dict)
""",
    "LossExtractFromBatchDict": """
from fuse_losses import LossExtractFromBatchDict

criterion = LossExtractFromBatchDict("model.loss")
loss = criterion(batch_dict)
""",
}
"""How a loss is called, if not as `DENSE_USAGE` says. The build runs it."""

LOSSES = (
    LossPage(
        "LossSegmentationCrossEntropy",
        "Cross-entropy",
        "segmentation_cross_entropy",
        "The first loss to try, for classifications and segmentations. Every voxel has the same weight, so a rare class has little "
        "influence. For rare classes use `class_weights`, or add Dice with `LossCompound`. Without options it equals "
        "`torch.nn.functional.cross_entropy`.",
        "0 to infinity; lower is better. 0 at a perfect prediction without `label_smoothing`. Equal probabilities for K "
        "classes give log K.",
        DENSE_SHAPES + ' With `reduction="none"`: `[B, *spatial]`.',
        "Szegedy et al. 2016 for `label_smoothing`.",
        (
            (
                "label_smoothing",
                "label_smoothing",
                "With smoothing, the loss is lowest below a probability of 1. So the network does not become overconfident.",
            ),
        ),
        (
            (
                "`class_weights`",
                "`weight` of `DiceCELoss`",
                "`weight` of `SoftBCEWithLogitsLoss`",
                "`weight` in `ce_kwargs`",
            ),
            (
                "`label_smoothing`",
                "`label_smoothing` of `DiceCELoss`",
                "`smooth_factor`",
                "`label_smoothing` in `ce_kwargs`",
            ),
            ("`ignore_index`, any integer", "-", "`ignore_index`", "`ignore_index`"),
            ("`pos_weight`", "-", "`pos_weight`", "`pos_weight` in `bce_kwargs`"),
        ),
    ),
    LossPage(
        "top_k_cross_entropy",
        "Cross-entropy of the worst voxels",
        "top_k_cross_entropy",
        "For large images in which most voxels are easy. Only the share `k` of the voxels with the largest loss counts. Voxels with wrong "
        "labels have large losses too, so do not use it with noisy labels. As a term: "
        '`LossCompound(terms={"top_k_cross_entropy": {"k": 0.1}})`.',
        "0 to infinity; lower is better.",
        DENSE_SHAPES,
        "Wu et al. 2016, section 3.2.",
        (
            (
                "top_k",
                "k",
                "The same voxels with random probabilities. With a smaller k, the mean over the counted voxels is larger.",
            ),
        ),
        (
            ("`k=0.1`, a share", "-", "-", "`TopKLoss(k=10)`, in percent"),
            ("`label_smoothing`", "-", "-", "`label_smoothing`"),
        ),
    ),
    LossPage(
        "LossFocal",
        "Focal loss",
        "focal_loss",
        "For strong imbalance: many easy negatives and few positives, as in detection and with small lesions. Voxels with a high "
        "probability of the true class count little. Start with `gamma=2`; with `gamma=0` it is cross-entropy. Its probabilities are less "
        "confident than those of cross-entropy, so calibrate them before you use them.",
        "0 to infinity; lower is better.",
        DENSE_SHAPES + ' With `reduction="none"`: `[B, *spatial]`, or `[B, C, *spatial]` in the sigmoid form.',
        "Lin et al. 2017, equation 5.",
        (
            (
                "gamma",
                "gamma",
                "With a larger gamma, voxels with a high probability of the true class count less.",
            ),
            ("alpha", "alpha, in the sigmoid form", "Positives get the factor alpha, negatives 1 - alpha."),
        ),
        (
            ("`gamma`", "`gamma`", "`gamma`", "-"),
            ("`alpha`, a number or one for each class", "`alpha`", "`alpha`", "-"),
            ("`class_weights`", "`weight`", "`class_weights`", "-"),
            ('`activation="softmax"`', "`use_softmax=True`", '`mode="multiclass"`', "-"),
            ("`ignore_index`", "`ignore_index`", "`ignore_index`", "-"),
        ),
    ),
    LossPage(
        "LossDice",
        "Dice loss",
        "dice_loss",
        "For segmentations that are evaluated with Dice, and for rare classes: large and small classes count the same. Its "
        "gradient is small where the prediction is far from the target, so it is mostly used with cross-entropy: see `LossCompound`. Leave out the "
        "background (`include_background=False`): it is easy to predict, and its Dice hides that of the other classes. For "
        "rare classes and small batches use `per_sample=False`.",
        "From 0 to 1; lower is better. 0 is a perfect overlap, 1 none. With `log=True`: 0 to infinity.",
        DENSE_SHAPES + ' With `reduction="none"`: `[B, C]`, or `[C]` with `per_sample=False`.',
        "Drozdzal et al. 2016, equation 1; Milletari et al. 2016 for `squared`.",
        (
            (
                "dice_forms",
                "squared, jaccard and log",
                "All are 0 at a perfect prediction. Their slopes differ.",
            ),
            (
                "empty",
                "empty: a class that the target does not hold",
                (
                    '- `"skip"` (the default): the class is left out. The mean is over the other classes.\n'
                    '- `"zero"`: the class has loss 0 and is counted in the mean, so the mean is lower.\n'
                    '- `"penalize"`: its loss is the mean probability that the model predicts for it.\n\n'
                    "The plot shows the mean over two classes: one has a Dice loss of 0.5, the other is not "
                    "in the target. Other libraries smooth the Dice of the absent class instead: its loss is then close to 1 for "
                    "any prediction that is not nearly 0, so its gradient is close to 0."
                ),
            ),
        ),
        (
            *COMMON_PEERS,
            ("`smooth_numerator=0`", "`smooth_nr=1e-5`", "`smooth=0`", "`smooth=1e-5`, added on both sides"),
            ("`smooth_denominator=0`", "`smooth_dr=1e-5`", "`eps=1e-7`, a lower bound", "as above"),
            ("`squared`", "`squared_pred`", "-", "-"),
            ("`jaccard`", "`jaccard`", "`JaccardLoss`", "-"),
            ("`log`", "-", "`log_loss`", "-"),
            ("`per_sample=False`", "`batch=True`", "always", "`batch_dice=True`"),
            ('`empty="skip"`', "-", "always, for the whole batch", "-"),
            ("`class_weights`", "`weight`", "`class_weights`", "-"),
            ("`across_processes`", "-", "-", "`ddp`"),
        ),
    ),
    LossPage(
        "LossTversky",
        "Tversky loss",
        "tversky_loss",
        "When false negatives are worse than false positives, or the reverse. With `beta` above `alpha`, false negatives cost more. "
        "Choose both by the sensitivity and the precision on the validation set. With `alpha = beta = 0.5` it is Dice, with "
        "`alpha = beta = 1` Jaccard.",
        "From 0 to 1; lower is better.",
        DENSE_SHAPES + ' With `reduction="none"`: `[B, C]`.',
        "Salehi et al. 2017, equation 2; Abraham and Khan 2019, equation 4, for `gamma`.",
        (
            (
                "tversky",
                "alpha and beta",
                "The loss of a mask that is too large or too small by some voxels.",
            ),
            (
                "tversky_gamma",
                "gamma",
                "Above 1, classes with a small overlap count more. Below 1, classes with a large overlap count more.",
            ),
        ),
        (
            ("`alpha`, false positives", "`alpha`", "`alpha`", "-"),
            ("`beta`, false negatives", "`beta`", "`beta`", "-"),
            ("`gamma`", "-", "`gamma`", "-"),
            ("`smooth_numerator=0`", "`smooth_nr=1e-5`", "`smooth=0`", "-"),
            ("`smooth_denominator=0`", "`smooth_dr=1e-5`", "`eps=1e-7`", "-"),
            ("`per_sample=False`", "`batch=True`", "always", "-"),
        ),
    ),
    LossPage(
        "LossGeneralizedDice",
        "Generalized Dice loss",
        "generalized_dice_loss",
        "For several classes of very different sizes. It is one overlap over all classes, with a weight for each class that depends on its "
        'volume. With `"square"`, the few voxels of a very small class can outweigh all others. With `"simple"` its weight is smaller.',
        "From 0 to 1; lower is better.",
        DENSE_SHAPES + ' With `reduction="none"`: `[B]`.',
        "Sudre et al. 2017.",
        (
            (
                "volume_weights",
                "volume_weights",
                "The loss if one class is missed completely and all else is right, by the size of this class.",
            ),
        ),
        (
            ('`volume_weights="square"`', '`w_type="square"`', "-", "-"),
            ("`smooth_numerator=0`", "`smooth_nr=1e-5`", "-", "-"),
            ("`per_sample=False`", "`batch=True`", "-", "-"),
        ),
    ),
    LossPage(
        "LossCompound",
        "Sum of losses",
        "compound_loss",
        "The usual loss for a segmentation: cross-entropy and Dice, or focal loss and Tversky. All terms share one softmax, so "
        "the sum takes [less time](../benchmarks.md#fuse-losses) than its terms one by one. After a call, `loss.terms` holds the detached value of each.",
        "The sum of the weighted terms; lower is better.",
        DENSE_SHAPES,
        "Isensee et al. 2021 (nnU-Net) for the sum of cross-entropy and Dice.",
        (("compound", "Two terms", "At low probabilities Dice is flat, and cross-entropy is steep."),),
        (
            (
                '`terms={"dice": a, "cross_entropy": b}`',
                "`DiceCELoss(lambda_dice=a, lambda_ce=b)`",
                "-",
                "`DC_and_CE_loss(weight_dice=a, weight_ce=b)`",
            ),
            ('`terms={"dice": a, "focal": b}`', "`DiceFocalLoss(lambda_dice=a, lambda_focal=b)`", "-", "-"),
            ('`terms={"dice": a, "top_k_cross_entropy": b}`', "-", "-", "`DC_and_topk_loss`"),
            ("a list of predictions", "`DeepSupervisionLoss`", "-", "`DeepSupervisionWrapper`"),
        ),
    ),
    LossPage(
        "LossLinearCompound",
        "Sum of losses with the last layer",
        "linear_compound_loss",
        "For many classes or large volumes, if the logits fill the memory of the GPU. The last layer and the losses run block by block, "
        "so the logits and their gradient are never stored as a whole. With few classes it saves nothing.",
        "As `LossCompound`.",
        "Prediction: the features before the layer, `[B, F, *spatial]`. Target as for `LossCompound`. Result: a scalar.",
        "As `LossCompound`.",
    ),
    LossPage(
        "LossSupervisedContrastive",
        "Supervised contrastive loss",
        "supervised_contrastive_loss",
        "To train features, before or together with a classifier. Features of one class become similar, features of different classes "
        "dissimilar. With `feat_j` it compares two views or two modalities, such as image and text. It needs large batches, in which each "
        "class occurs several times.",
        "0 to infinity; lower is better. For B samples and features without information it is about log(B - 1).",
        "`feat_i` `[B, D]`: vectors, which the loss scales to length 1. `target_i` `[B]`, integer. Result: a scalar.",
        "Khosla et al. 2020, equation 2.",
        (
            (
                "temperature",
                "temperature",
                "With a lower temperature, the nearest features of other classes count more.",
            ),
        ),
        (("`temperature=0.2`", "`ContrastiveLoss(temperature=0.5)`, without classes", "-", "-"),),
    ),
    LossPage(
        "LossWarmUp",
        "Warm-up",
        None,
        "When a loss disturbs the first steps, such as an adversarial or a contrastive term. The loss is zero at first. Then its factor "
        "grows to 1, at once or with a ramp.",
        "That of the other loss, times a factor from 0 to 1.",
        "Those of the other loss.",
        "-",
        (
            (
                "warm_up",
                "nof_iterations and ramp",
                "The factor of the other loss with `nof_iterations=100` and `ramp_iterations=100`.",
            ),
        ),
    ),
    LossPage(
        "LossDefault",
        "Any function of prediction and target",
        None,
        "To use a loss of PyTorch, or of any other library, with keys: `callable=torch.nn.functional.cross_entropy`.",
        "That of the function.",
        "Those of the function.",
        "-",
    ),
    LossPage(
        "LossWrapToDict",
        "Any function, with any argument names",
        None,
        "To use a loss with more than two arguments, or arguments of other names, such as `torch.nn.GaussianNLLLoss`.",
        "That of the function.",
        "Those of the function.",
        "-",
    ),
    LossPage(
        "LossExtractFromBatchDict",
        "A loss that the model computed",
        None,
        "When a model computes its own loss, as the models of Hugging Face do. The model writes the loss under a key, and this class reads it.",
        "That of the model.",
        "A scalar under the key.",
        "-",
    ),
)
