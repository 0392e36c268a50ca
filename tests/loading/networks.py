"""Small networks with known weights for the tests of loading."""

import torch
from torch import nn


class Residual(nn.Module):
    """A block as torchvision writes it, with its own names for the tensors."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.block = nn.ModuleDict({"conv": nn.Conv2d(4, 4, 3, padding=1)})
        self.downsample = nn.Sequential(nn.Conv2d(4, 4, 1))
        self.fc = nn.Linear(4 * 16, 3)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.block["conv"](x) + self.downsample(x))
        return self.fc(x.flatten(1))


class Tied(nn.Module):
    """One weight under two names."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4, bias=False)
        self.second = nn.Linear(4, 4, bias=False)
        self.second.weight = self.first.weight
        self.last = nn.Linear(4, 3)

    def forward(self, x):
        return self.last(torch.relu(self.second(torch.relu(self.first(x)))))


def seeded(module, seed=0):
    """The module with reproducible random weights and batch-norm statistics, in training mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.state_dict(keep_vars=True).items():
            if tensor.is_floating_point():
                value = torch.randn(tensor.shape, generator=generator)
                tensor.copy_(value.abs() + 0.5 if name.endswith("running_var") else value)
    return module.train()


def dense():
    return seeded(nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 3)))


def normed():
    return seeded(
        nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    )


def residual():
    return seeded(Residual())


def tied():
    return seeded(Tied())
