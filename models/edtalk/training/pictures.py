"""Sample pictures of the image stages."""

import torch
from torch import Tensor


def side_by_side(*columns: Tensor, max_rows: int = 4) -> Tensor:
    """One picture of several batches of images [B, 3, S, S] in -1..1: a column each, an item of the batch per row.

    Returns:
        [3, rows S, columns S] float32 in 0..1, on the CPU.
    """
    rows = torch.cat([column[:max_rows].float() for column in columns], dim=3)
    return (torch.cat(list(rows), dim=1).clamp(-1, 1).cpu() + 1) / 2
