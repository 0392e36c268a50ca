"""The base network must be a function of its input, or the theorem says nothing about it.

Dropout left on, batch statistics, state kept between calls and some nondeterministic kernels all break this. The check
evaluates the noisy inputs of one pilot block four times over: as they are, again, and in reversed order with every
second row replaced by zeros (the even rows first, then the odd ones), so that each row also stands at another place
and among other company. All outputs must read the same. This refuses what it sees; it cannot prove that there is no
state.
"""

from __future__ import annotations

import torch
from torch import Tensor

from certify.errors import NoRuleError
from certify.examples import Example
from certify.smoothing.addresses import BLOCK_DRAWS, BlockRequest
from certify.smoothing.base_network import BaseNetwork
from certify.smoothing.noise import NoiseLaw, block_inputs
from certify.smoothing.readings import Reading


def refuse_unless_function(
    network: BaseNetwork, reading: Reading, law: NoiseLaw, example: Example, *, micro_batch: int, seed: int
) -> None:
    """Return when equal noisy inputs get outputs that read the same.

    Raises:
        NoRuleError: If an output depends on anything but its own input.
    """
    request = BlockRequest(example, "selection", 0, BLOCK_DRAWS)
    inputs = block_inputs(law, seed, request, network.dtype).to(network.device)
    first = _outputs(network, reading, inputs, micro_batch)
    if not reading.agree(first, _outputs(network, reading, inputs, micro_batch)):
        raise NoRuleError(_message("the same noisy inputs, evaluated twice, got different votes"))
    if not reading.agree(first, _outputs_elsewhere(network, reading, inputs, micro_batch)):
        raise NoRuleError(_message("the same noisy inputs, in another order, got different votes"))


def _outputs_elsewhere(network: BaseNetwork, reading: Reading, inputs: Tensor, micro_batch: int) -> Tensor:
    """Return the outputs of every row, evaluated in reversed order among rows of zeros."""
    parts = []
    for parity in (0, 1):
        company = inputs.clone()
        company[1 - parity :: 2] = 0
        parts.append(_outputs(network, reading, company.flip(0), micro_batch).flip(0)[parity::2])
    return torch.stack(parts, dim=1).flatten(0, 1)


def _outputs(network: BaseNetwork, reading: Reading, inputs: Tensor, micro_batch: int) -> Tensor:
    """Return the outputs of all rows, in micro-batches of the run's shape, the last one padded."""
    padding = -len(inputs) % micro_batch
    padded = torch.cat([inputs, inputs.new_zeros((padding, *inputs.shape[1:]))])
    with network.running() as run:
        found = [reading.check(run(batch.clone()), micro_batch).clone() for batch in torch.split(padded, micro_batch)]
    return torch.cat(found)[: len(inputs)]


def _message(seen: str) -> str:
    return (
        f"expected a network that is a function of its input: {seen}; "
        "put it in eval mode (dropout, batch statistics) and remove state and nondeterministic operations"
    )
