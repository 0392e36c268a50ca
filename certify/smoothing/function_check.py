"""The base classifier must be a function of its input, or the theorem says nothing about it.

Dropout left on, batch statistics, state kept between calls and some nondeterministic kernels all break this. The check
evaluates the noisy inputs of one pilot block four times over: as they are, again, and in reversed order with every
second row replaced by zeros (the even rows first, then the odd ones), so that each row also stands at another place
and among other company. All votes must agree. This refuses what it sees; it cannot prove the absence of state.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from certify.errors import NoRuleError
from certify.examples import Example
from certify.smoothing.addresses import BLOCK_DRAWS, BlockRequest, block_generator
from certify.smoothing.noise import NoiseLaw
from certify.smoothing.votes import BaseClassifier


def refuse_unless_function(
    classifier: BaseClassifier, law: NoiseLaw, example: Example, *, micro_batch: int, seed: int
) -> None:
    """Return when equal noisy inputs get equal votes.

    Raises:
        NoRuleError: If a vote depends on anything but its own input.
    """
    request = BlockRequest(example, "selection", 0, BLOCK_DRAWS)
    rows = torch.from_numpy(law.draw(example, block_generator(seed, request, law.name)).rows)
    inputs = law.inputs(rows.to(classifier.device), classifier.dtype)
    first = _votes(classifier, inputs, micro_batch)
    if not np.array_equal(first, _votes(classifier, inputs, micro_batch)):
        raise NoRuleError(_message("the same noisy inputs, evaluated twice, got different votes"))
    if not np.array_equal(first, _votes_elsewhere(classifier, inputs, micro_batch)):
        raise NoRuleError(_message("the same noisy inputs, in another order, got different votes"))


def _votes_elsewhere(classifier: BaseClassifier, inputs: Tensor, micro_batch: int) -> NDArray[np.int64]:
    """Return the votes of every row, evaluated in reversed order among rows of zeros."""
    found = np.empty(len(inputs), dtype=np.int64)
    for parity in (0, 1):
        company = inputs.clone()
        company[1 - parity :: 2] = 0
        reversed_votes = _votes(classifier, company.flip(0), micro_batch)
        found[parity::2] = reversed_votes[::-1][parity::2]
    return found


def _votes(classifier: BaseClassifier, inputs: Tensor, micro_batch: int) -> NDArray[np.int64]:
    """Return the votes of all rows, in micro-batches of the run's shape, the last one padded."""
    padding = -len(inputs) % micro_batch
    padded = torch.cat([inputs, inputs.new_zeros((padding, *inputs.shape[1:]))])
    votes = [classifier.votes(batch.clone()) for batch in torch.split(padded, micro_batch)]
    found: NDArray[np.int64] = torch.cat(votes)[: len(inputs)].cpu().numpy()
    return found


def _message(seen: str) -> str:
    return (
        f"expected a network that is a function of its input: {seen}; "
        "put it in eval mode (dropout, batch statistics) and remove state and nondeterministic operations"
    )
