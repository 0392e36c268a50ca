"""What the blocks of a run are evaluated with: the same in every thread, in every process and on every device."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch

from certify.examples import Example
from certify.smoothing.addresses import BLOCK_DRAWS, BlockRequest
from certify.smoothing.base_network import BaseNetwork
from certify.smoothing.noise import NoiseLaw, block_inputs
from certify.smoothing.readings import Reading


@dataclass(frozen=True, eq=False)
class Work:
    """The network, what is read from its outputs, the noise on inputs of ``shape``, and the rows of a forward pass."""

    network: BaseNetwork
    reading: Reading
    law: NoiseLaw
    shape: tuple[int, ...]
    micro_batch: int
    seed: int

    def pilot_outputs(self, example: Example) -> str:
        """Return the sha256 of all outputs, to the last bit, of the first pilot block of an example."""
        request = BlockRequest(example, "selection", 0, BLOCK_DRAWS)
        rows = block_inputs(self.law, self.seed, request, self.network.dtype)
        padding = rows.new_zeros((-BLOCK_DRAWS % self.micro_batch, *self.shape))
        inputs = torch.cat([rows, padding]).to(self.network.device)
        with self.network.running() as network:
            outputs = [network(part).double().cpu().numpy().tobytes() for part in torch.split(inputs, self.micro_batch)]
        return hashlib.sha256(b"".join(outputs)).hexdigest()
