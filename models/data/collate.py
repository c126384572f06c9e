"""PadCollate: items of different lengths as one batch, padded at the end, with masks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

# Field -> tensor, number or text of one example, or of a batch of them.
Item = dict[str, Any]


@dataclass(frozen=True, slots=True)
class PadCollate:
    """Collate function of a DataLoader; can be pickled.

    A field whose first axis depends on the length becomes [B, longest, ...], padded with 0 (False) at the end; other
    tensors and numbers are stacked, text becomes a list. Each such axis has a bool mask [B, longest], True where
    the values are real: `mask` for one row per frame, `mask_2N`, `mask_T80` and `mask_640N` (audio) for the others.

    Attributes:
        axes: field -> symbol of its first axis.
    """

    axes: Mapping[str, str]

    def __call__(self, items: Sequence[Item]) -> Item:
        """The batch of some items, all with the same fields."""
        batch: Item = {}
        for name in items[0]:
            values = [item[name] for item in items]
            if axis := self.axes.get(name):
                batch[name] = pad_sequence(values, batch_first=True)
                lengths = torch.tensor([len(value) for value in values])
                mask = "mask" if axis == "N" else f"mask_{axis}"
                batch[mask] = torch.arange(int(lengths.max())) < lengths[:, None]
            elif isinstance(values[0], Tensor):
                batch[name] = torch.stack(values)
            else:
                batch[name] = values if isinstance(values[0], str) else torch.tensor(values)
        return batch
