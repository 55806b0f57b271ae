"""The parameters of normalization layers, for optimizers that treat them differently."""

from torch import nn

_NORMALIZATIONS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.LocalResponseNorm, nn.RMSNorm)


def norm_layers(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Divide a model's parameters into those of normalization layers and the others.

    SAM-ON perturbs normalization layers only. Source: Mueller et al. 2023, "Normalization Layers Are All That
    Sharpness-Aware Minimization Needs", arXiv 2306.04226.

    Args:
        model: the model. Its normalization layers are those of `torch.nn` (batch, instance, group, layer and RMS norm)
            and modules of other classes whose name ends in `Norm`, `Norm1d`, `Norm2d` or `Norm3d`.

    Returns:
        The parameters of the normalization layers, and all others. Each parameter is in one of the lists, once.

    Raises:
        ValueError: no normalization layer has parameters, so SAM-ON would perturb nothing.

    Example:
        >>> import torch
        >>> from fuse_optim import SAM
        >>> model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))
        >>> norms, others = norm_layers(model)
        >>> len(norms), len(others)
        (2, 4)
        >>> optimizer = SAM([{"params": norms}, {"params": others, "rho": 0.0}], torch.optim.SGD, rho=0.5, lr=0.1)
    """
    norms = [
        param
        for module in model.modules()
        if isinstance(module, _NORMALIZATIONS) or type(module).__name__.rstrip("123d").endswith("Norm")
        for param in module.parameters(recurse=False)
    ]
    if not norms:
        raise ValueError(
            f"norm_layers found no parameters of normalization layers in {type(model).__name__}. Use a model with such "
            "layers (affine ones), or SAM for all parameters."
        )
    unique = list(dict.fromkeys(norms))
    known = set(unique)
    return unique, [param for param in model.parameters() if param not in known]
