"""
SAM against SGD, with wrong labels
==================================

A fifth of the training labels is wrong. SGD memorizes them in a long training. :py:obj:`~fuse_optim.SAM` uses the
gradient at the worst point near the weights, which reduces this. SAM evaluates each batch twice, so SGD gets twice as
many steps here.
"""

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

from fuse_optim import SAM

torch.manual_seed(0)
digits = load_digits()
pixels = torch.tensor(digits.data, dtype=torch.float32) / 16
label = torch.tensor(digits.target)
given = torch.where(torch.rand(len(label)) < 0.2, torch.randint(10, (len(label),)), label)
print(f"{(given[:1000] != label[:1000]).float().mean():.0%} of the training labels are wrong")


def new_network():
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 10))


def accuracy(network):
    with torch.inference_mode():
        return (network(pixels[1000:]).argmax(1) == label[1000:]).float().mean().item()


# %%
# The loop with SAM
# -----------------
# ``step`` takes a closure. It calls the closure at the weights, and again at the perturbed weights.


def train(network, optimizer, epochs):
    curve = []
    for _ in range(epochs):
        for index in torch.randperm(1000).split(50):

            def closure(index=index):
                optimizer.zero_grad()
                loss = F.cross_entropy(network(pixels[index]), given[index])
                loss.backward()
                return loss

            optimizer.step(closure)
        curve.append(accuracy(network))
    return curve


network = new_network()
sgd = train(network, torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9), epochs=120)
network = new_network()
sam = train(network, SAM(network.parameters(), torch.optim.SGD, rho=0.3, lr=0.1, momentum=0.9), epochs=60)
print(f"test accuracy: SGD {sgd[-1]:.3f}, SAM {sam[-1]:.3f}; SGD's best epoch {max(sgd):.3f}")
assert sam[-1] > sgd[-1]

figure, axis = plt.subplots(figsize=(6.4, 3.4))
axis.plot([(epoch + 1) / 120 for epoch in range(120)], sgd, "--", color="#d55e00", label="SGD, 120 epochs")
axis.plot([(epoch + 1) / 60 for epoch in range(60)], sam, "-", color="#0072b2", label="SAM, 60 epochs")
axis.set_xlabel("share of the computing time")
axis.set_ylabel("test accuracy")
axis.legend()
plt.show()
