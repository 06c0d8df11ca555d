"""The GRU of Cho et al. (2014), which torch does not have: its reset gate acts before the recurrent product."""

import math

import torch
from torch import Tensor, nn


class ResetBeforeGRU(nn.Module):
    """One direction of a GRU whose candidate is `tanh(W x + R (r * h))`, where `nn.GRU` has `tanh(W x + r * (R h))`.

    TensorFlow 1's `GRUCell` and Keras' `GRU(reset_after=False)` are of this kind. Parameters have the names, shapes
    and gate order (reset, update, new) of `nn.GRU`. It is a plain loop over time, slower than torch's kernels.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        bound = 1 / math.sqrt(hidden_size)  # as torch starts its recurrent cells

        def draw(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(*shape).uniform_(-bound, bound))

        self.weight_ih_l0 = draw(3 * hidden_size, input_size)
        self.weight_hh_l0 = draw(3 * hidden_size, hidden_size)
        self.bias_ih_l0 = draw(3 * hidden_size)
        self.bias_hh_l0 = draw(3 * hidden_size)

    def forward(self, steps: Tensor, initial: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Run over time, as `nn.GRU(batch_first=True)` does.

        Args:
            steps: `(B, T, I)`.
            initial: `(1, B, H)`, or None for zeros.

        Returns:
            The hidden state after each step `(B, T, H)`, and after the last `(1, B, H)`.
        """
        gates_size = 2 * self.hidden_size
        h = steps.new_zeros(len(steps), self.hidden_size) if initial is None else initial[0]
        from_input = steps @ self.weight_ih_l0.T + self.bias_ih_l0  # (B, T, 3H)
        recurrent, candidate = self.weight_hh_l0[:gates_size], self.weight_hh_l0[gates_size:]
        outputs = []
        for x in from_input.unbind(1):
            gates = torch.sigmoid(x[:, :gates_size] + h @ recurrent.T + self.bias_hh_l0[:gates_size])
            reset, update = gates.chunk(2, dim=1)
            new = torch.tanh(x[:, gates_size:] + (reset * h) @ candidate.T + self.bias_hh_l0[gates_size:])
            h = update * h + (1 - update) * new
            outputs.append(h)
        return torch.stack(outputs, dim=1), h[None]
