"""SAM against the algorithms of the papers, written with loops over Python floats."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_network import make_closure, make_problem

from fuse_optim import SAM, LookSAM

DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
BASES = {
    "SGD": (torch.optim.SGD, {"lr": 0.05}),
    "momentum": (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.02}),
    "Adam": (torch.optim.Adam, {"lr": 0.02, "weight_decay": 0.02}),
    "AdamW": (torch.optim.AdamW, {"lr": 0.02, "weight_decay": 0.1}),
}


class Reference:
    """Algorithm 1 of Foret et al., equation 9 of Kwon et al. and algorithm 1 of Liu et al. on flat lists of floats."""

    def __init__(self, weights, base, rho, adaptive, eta, norm_over, interval, alpha, start_step):
        self.weights = weights
        self.optimizer_class, self.options = BASES[base]
        self.rho, self.adaptive, self.eta = rho, adaptive, eta  # lists, one entry for each weight
        self.norm_over = norm_over
        self.interval, self.alpha, self.start_step = interval, alpha, start_step
        self.orthogonal = None
        self.first_moment = [None] * len(weights)
        self.second_moment = [0.0] * len(weights)
        self.steps = 0

    def step(self, gradient_at):
        since_start = self.steps - self.start_step
        gradient = gradient_at(self.weights)
        if since_start >= 0 and since_start % self.interval == 0:
            perturbed_gradient = gradient_at(self.perturbed(gradient))
            if self.alpha is not None:
                share = dot(gradient, perturbed_gradient) / dot(gradient, gradient)
                self.orthogonal = [p - share * g for p, g in zip(perturbed_gradient, gradient, strict=True)]
                if norm(self.orthogonal) < 4 * 2.0**-52 * norm(perturbed_gradient):
                    self.orthogonal = [0.0] * len(gradient)
            gradient = perturbed_gradient
        elif self.orthogonal is not None:
            length = norm(self.orthogonal)
            factor = self.alpha * norm(gradient) / length if length > 0 else 0.0
            gradient = [g + factor * o for g, o in zip(gradient, self.orthogonal, strict=True)]
        self.steps += 1
        self.descend(gradient)

    def perturbed(self, gradient):
        scales = [
            abs(w) + eta if adaptive else 1.0
            for w, adaptive, eta in zip(self.weights, self.adaptive, self.eta, strict=True)
        ]
        counted = [self.norm_over == "all" or rho > 0 for rho in self.rho]
        length = norm([t * g for t, g, counts in zip(scales, gradient, counted, strict=True) if counts])
        if length == 0.0:
            return self.weights
        return [
            w + rho * t**2 * g / length for w, rho, t, g in zip(self.weights, self.rho, scales, gradient, strict=True)
        ]

    def descend(self, gradient):
        lr, decay = self.options["lr"], self.options.get("weight_decay", 0.0)
        for i, g in enumerate(gradient):
            w = self.weights[i]
            if self.optimizer_class is torch.optim.AdamW:
                w -= lr * decay * w
            else:
                g += decay * w
            if self.optimizer_class is torch.optim.SGD:
                before = self.first_moment[i]
                self.first_moment[i] = g if before is None else self.options.get("momentum", 0.0) * before + g
                self.weights[i] = w - lr * self.first_moment[i]
            else:
                self.first_moment[i] = 0.9 * (self.first_moment[i] or 0.0) + 0.1 * g
                self.second_moment[i] = 0.999 * self.second_moment[i] + 0.001 * g * g
                first = self.first_moment[i] / (1 - 0.9**self.steps)
                second = self.second_moment[i] / (1 - 0.999**self.steps)
                self.weights[i] = w - lr * first / (math.sqrt(second) + 1e-8)


def dot(first, second):
    return math.fsum(a * b for a, b in zip(first, second, strict=True))


def norm(values):
    return math.sqrt(dot(values, values))


def flat(tensors):
    return [value for tensor in tensors for value in tensor.detach().flatten().tolist()]


def gradient_function(model, loss_function):
    """The gradient at flat weights, by autograd."""
    parameters = list(model.parameters())

    def gradient_at(weights):
        remaining = iter(weights)
        with torch.no_grad():
            for parameter in parameters:
                values = [next(remaining) for _ in range(parameter.numel())]
                parameter.copy_(torch.tensor(values, dtype=torch.float64).view_as(parameter))
        return flat(torch.autograd.grad(loss_function(), parameters))

    return gradient_at


group_settings = st.fixed_dictionaries(
    {
        "rho": st.sampled_from([0.0, 0.05, 0.7]),
        "adaptive": st.booleans(),
        "adaptive_eta": st.sampled_from([0.0, 0.01]),
    }
)


@given(
    seed=st.integers(0, 10_000),
    base=st.sampled_from(sorted(BASES)),
    groups=st.tuples(group_settings, group_settings),
    norm_over=st.sampled_from(["perturbed", "all"]),
    interval=st.integers(1, 3),
    alpha=st.sampled_from([None, 0.3, 0.7]),
    start_step=st.integers(0, 2),
    foreach=st.sampled_from([None, False]),
    device=st.sampled_from(DEVICES),
)
def test_steps_are_those_of_the_papers(seed, base, groups, norm_over, interval, alpha, start_step, foreach, device):
    model, loss_function = make_problem(seed, device=device)
    expected, expected_loss = make_problem(seed)
    optimizer_class, options = BASES[base]
    halves = [list(model[0].parameters()), list(model[2].parameters())]
    kind, reuse = (SAM, {}) if alpha is None else (LookSAM, {"reuse_alpha": alpha})
    optimizer = kind(
        [{"params": params, **group} for params, group in zip(halves, groups, strict=True)],
        optimizer_class,
        interval=interval,
        norm_over=norm_over,
        start_step=start_step,
        foreach=foreach,
        **reuse,
        **options,
    )
    sizes = [sum(parameter.numel() for parameter in params) for params in halves]
    of_each_weight = {
        name: [group[name] for group, size in zip(groups, sizes, strict=True) for _ in range(size)]
        for name in ("rho", "adaptive", "adaptive_eta")
    }
    reference = Reference(
        flat(expected.parameters()),
        base,
        of_each_weight["rho"],
        of_each_weight["adaptive"],
        of_each_weight["adaptive_eta"],
        norm_over,
        interval,
        alpha,
        start_step,
    )
    gradient_at = gradient_function(expected, expected_loss)
    closure = make_closure(optimizer, loss_function)
    for _ in range(6):
        optimizer.step(closure)
        reference.step(gradient_at)
    torch.testing.assert_close(
        torch.tensor(flat(model.parameters()), dtype=torch.float64),
        torch.tensor(reference.weights, dtype=torch.float64),
        rtol=1e-9,
        atol=1e-11,
    )


@pytest.mark.parametrize(
    ("kind", "options"), [(SAM, {}), (SAM, {"adaptive": True, "adaptive_eta": 0.01}), (LookSAM, {"interval": 2})]
)
def test_complex_parameters_are_perturbed_as_pairs_of_real_ones(kind, options):
    values = torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=torch.float64)
    real, complex_ = torch.nn.Parameter(values.clone()), torch.nn.Parameter(torch.view_as_complex(values.clone()))
    scale = torch.tensor([[1.0], [4.0]], dtype=torch.float64)
    if options.get("adaptive"):  # measured by the modulus, so the pairs are scaled alike
        real = torch.nn.Parameter(torch.tensor([[1.0, 0.0], [0.0, 3.0]], dtype=torch.float64))
        complex_ = torch.nn.Parameter(torch.view_as_complex(real.detach().clone()))
    for weight, as_real in ((real, lambda: real), (complex_, lambda: torch.view_as_real(complex_))):
        optimizer = kind([weight], torch.optim.SGD, rho=0.5, lr=0.1, **options)
        closure = make_closure(optimizer, lambda as_real=as_real: (scale * as_real()).pow(4).sum())
        for _ in range(3):
            optimizer.step(closure)
    torch.testing.assert_close(torch.view_as_real(complex_.detach()), real.detach(), rtol=1e-12, atol=0)
