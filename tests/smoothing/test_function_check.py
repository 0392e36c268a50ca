"""A base classifier that is no function of its input is refused before any draw is counted."""

import pytest
import torch
from torch import nn

from certify.errors import NoRuleError
from tests.smoothing.toy_runs import CLASSES, dataset, predict, run

DATA = dataset(2)


class Counter:
    """Votes by how often it was called."""

    calls = 0

    def __call__(self, x):
        self.calls += 1
        logits = torch.zeros(len(x), CLASSES)
        logits[:, self.calls % CLASSES] = 1.0
        return logits


def seeded(module):
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module


def by_position(x):
    return torch.eye(CLASSES)[torch.arange(len(x)) % CLASSES]


def by_batch_mean(x):
    return predict((x - x.mean(0)).clamp(-1, 1))


OFFENDERS = {
    "dropout": lambda: seeded(nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(6, CLASSES))).train(),
    "batch norm in train mode": lambda: seeded(
        nn.Sequential(nn.Flatten(), nn.BatchNorm1d(6, track_running_stats=False), nn.Linear(6, CLASSES))
    ),
    "state": Counter,
    "position in the batch": lambda: by_position,
    "statistics of the batch": lambda: by_batch_mean,
    "noise of its own": lambda: lambda x: torch.randn(len(x), CLASSES),
}


@pytest.mark.parametrize("batch", [1, 50, 128, 256])
@pytest.mark.parametrize("name", ["dropout", "state", "noise of its own"])
def test_what_changes_between_calls_is_refused(tmp_path, name, batch):
    with pytest.raises(NoRuleError, match="function of its input"):
        run(tmp_path, DATA, classify=OFFENDERS[name](), batch=batch)


@pytest.mark.parametrize("batch", [50, 128, 256])
@pytest.mark.parametrize("name", ["batch norm in train mode", "position in the batch", "statistics of the batch"])
def test_what_depends_on_the_company_is_refused(tmp_path, name, batch):
    with pytest.raises(NoRuleError, match="function of its input"):
        run(tmp_path, DATA, classify=OFFENDERS[name](), batch=batch)


def test_a_refused_network_leaves_no_counts(tmp_path):
    with pytest.raises(NoRuleError):
        run(tmp_path, DATA, classify=Counter())
    assert run(tmp_path, DATA) == run(tmp_path / "fresh", DATA)


def test_a_network_that_writes_into_its_input_is_still_a_function(tmp_path):
    def clobber(x):
        logits = predict(x)
        x.zero_()
        return logits

    assert run(tmp_path / "a", DATA, classify=clobber) == run(tmp_path / "b", DATA)
