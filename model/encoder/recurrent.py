"""Recurrent layers over padded batches, exact for every row's own length.

The semantics are those of TensorFlow's `bidirectional_dynamic_rnn`: the backward direction starts at a row's last
valid step, and steps past the length output zero and leave the state alone.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from model.encoder.reset_before import ResetBeforeGRU

Cell: TypeAlias = Literal["lstm", "gru", "rnn"]

CELLS: dict[str, type[nn.LSTM | nn.GRU | nn.RNN]] = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}


@dataclass(frozen=True, slots=True)
class RecurrentState:
    """What a recurrent encoder carries from step to step.

    Attributes:
        h: `(B, layers, directions, H)`, the hidden states; the forward direction comes first.
        c: `(B, layers, directions, H)`, the cell states of LSTMs; None for other cells.
    """

    h: Tensor
    c: Tensor | None = None


def valid_mask(lengths: Tensor, steps: int) -> Tensor:
    """Mark the steps that belong to a sequence, as TensorFlow's `sequence_mask` does.

    Args:
        lengths: `(B,)`, integers, `0 <= lengths[i] <= steps`.
        steps: T, the padded time.

    Returns:
        `(B, T)`, bool, true where `t < lengths[i]`.
    """
    return torch.arange(steps, device=lengths.device) < lengths[:, None]


def reverse_by_length(steps: Tensor, lengths: Tensor) -> Tensor:
    """Reverse each row's valid steps in place of themselves; the padding stays where it is.

    Applied twice it is the identity, as TensorFlow's `reverse_sequence` is.

    Args:
        steps: `(B, T, F)`.
        lengths: `(B,)`, integers, `0 <= lengths[i] <= T`.

    Returns:
        `(B, T, F)`: row i holds `steps[i, lengths[i] - 1 - t]` at each valid t.
    """
    time = torch.arange(steps.shape[1], device=steps.device)
    source = torch.where(valid_mask(lengths, steps.shape[1]), lengths[:, None] - 1 - time, time)  # (B, T)
    return steps.gather(1, source[:, :, None].expand_as(steps))


class RecurrentLayer(nn.Module):
    """One recurrent layer over a padded batch, in one direction or both.

    A padded batch runs on the fast kernels that packed sequences bypass. It stays exact because a direction only ever
    meets padding after its row's valid steps, and what it outputs there is set to zero.
    """

    def __init__(
        self, cell: Cell, input_size: int, hidden: int, *, bidirectional: bool = True, reset_after: bool = True
    ) -> None:
        """Make fresh weights.

        Args:
            cell: its kind.
            input_size: I, the numbers in a step.
            hidden: H, units in each direction.
            bidirectional: read each sequence backwards too.
            reset_after: of a GRU, where its reset gate acts; see `ResetBeforeGRU`.
        """
        super().__init__()

        def make() -> nn.Module:
            if cell == "gru" and not reset_after:
                return ResetBeforeGRU(input_size, hidden)
            return CELLS[cell](input_size, hidden, batch_first=True)

        self.ahead = make()
        self.behind = make() if bidirectional else None

    @property
    def directions(self) -> list[nn.Module]:
        """The cell of each direction, the forward one first."""
        return [self.ahead] if self.behind is None else [self.ahead, self.behind]

    def forward(self, steps: Tensor, lengths: Tensor, initial: RecurrentState | None = None) -> Tensor:
        """Run every direction.

        Args:
            steps: `(B, T, I)`, float; what stands past a row's length does not matter.
            lengths: `(B,)`, int64, `0 <= lengths[i] <= T`.
            initial: the state to start from, of this layer alone (`layers` is 1); zero where there is none.

        Returns:
            `(B, T, directions * H)`, forward beside backward, zero past the length.
        """
        outputs, _ = self.ahead(steps, _unpack(initial, 0))
        if self.behind is not None:
            behind, _ = self.behind(reverse_by_length(steps, lengths), _unpack(initial, 1))
            outputs = torch.cat([outputs, reverse_by_length(behind, lengths)], dim=2)
        masked: Tensor = outputs.masked_fill(~valid_mask(lengths, steps.shape[1])[:, :, None], 0.0)
        return masked

    def final_state(
        self, steps: Tensor, outputs: Tensor, lengths: Tensor, initial: RecurrentState | None = None
    ) -> RecurrentState:
        """Return the state after each row's last valid step; a zero-length row keeps the initial one.

        Args:
            steps: what went into `forward`.
            outputs: what came out.
            lengths: as there.
            initial: as there.

        Returns:
            The state of this layer; `layers` is 1.
        """
        h = last_outputs(outputs, lengths, len(self.directions)).view(len(outputs), 1, len(self.directions), -1)
        c = self._final_cells(steps, lengths, initial) if isinstance(self.ahead, nn.LSTM) else None
        if initial is None:
            return RecurrentState(h, c)
        empty = (lengths == 0)[:, None, None, None]
        return RecurrentState(
            torch.where(empty, initial.h, h),
            None if c is None or initial.c is None else torch.where(empty, initial.c, c),
        )

    def _final_cells(self, steps: Tensor, lengths: Tensor, initial: RecurrentState | None) -> Tensor:
        """Run once more over packed sequences, which alone tell an LSTM's cells at each row's own end."""
        at_least_one = lengths.clamp(min=1).cpu()  # packing refuses empty rows
        cells = []
        for place, cell in enumerate(self.directions):
            turned = steps if place == 0 else reverse_by_length(steps, lengths)
            packed = pack_padded_sequence(turned, at_least_one, batch_first=True, enforce_sorted=False)
            _, (_, c) = cell(packed, _unpack(initial, place))
            cells.append(c[0])
        return torch.stack(cells, dim=1)[:, None].masked_fill((lengths == 0)[:, None, None, None], 0.0)


def last_outputs(outputs: Tensor, lengths: Tensor, directions: int) -> Tensor:
    """Take each direction's output where it ends: the forward one at `length - 1`, the backward one at 0.

    Args:
        outputs: `(B, T, directions * H)`, zero past the length.
        lengths: `(B,)`, integers.
        directions: 1 or 2.

    Returns:
        `(B, directions * H)`; zero for a zero-length row.
    """
    hidden = outputs.shape[2] // directions
    ends = (lengths - 1).clamp(min=0)[:, None, None].expand(-1, 1, hidden)
    return torch.cat([outputs[:, :, :hidden].gather(1, ends)[:, 0], outputs[:, 0, hidden:]], dim=1)


def _unpack(initial: RecurrentState | None, direction: int) -> Tensor | tuple[Tensor, Tensor] | None:
    """Return one direction's initial state as torch's cells take it, `(1, B, H)` each."""
    if initial is None:
        return None
    h, c = (None if part is None else part[None, :, 0, direction].contiguous() for part in (initial.h, initial.c))
    return h if c is None else (h, c)  # type: ignore[return-value]  # h is never None
