"""PadCollate: items of different lengths as one batch, padded at the end, with masks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


@dataclass(frozen=True, slots=True)
class PadCollate:
    """Collate function of a DataLoader; can be pickled.

    A field whose first axis depends on the length becomes [B, longest, ...], filled with 0 (False) behind its end;
    other tensors and numbers are stacked, text becomes a list. Each such axis has a bool mask [B, longest], True where
    the values are real: `mask` for one row per frame, `mask_2N`, `mask_T80` and `mask_640N` (audio) for the others.

    Attributes:
        axes: field -> symbol of its first axis.
    """

    axes: Mapping[str, str]

    def __call__(self, items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The batch of some items, all with the same fields."""
        batch: dict[str, Any] = {}
        for name in items[0]:
            values = [item[name] for item in items]
            if name in self.axes:
                batch[name] = pad_sequence(values, batch_first=True)
                batch[_mask_name(self.axes[name])] = _mask([len(value) for value in values])
            else:
                batch[name] = _together(values)
        return batch


def _mask_name(axis: str) -> str:
    return "mask" if axis == "N" else f"mask_{axis}"


def _mask(lengths: Sequence[int]) -> Tensor:
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def _together(values: Sequence[Any]) -> Any:
    if isinstance(values[0], Tensor):
        return torch.stack(list(values))
    return list(values) if isinstance(values[0], str) else torch.tensor(values)
