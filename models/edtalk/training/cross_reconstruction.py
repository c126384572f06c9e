"""CrossReconstruction: the mouth-and-pose model while it learns to tell mouth from pose (EDTalk section 3.2)."""

from typing import NamedTuple

import torch
from torch import Tensor

from models.edtalk.networks.edtalk import EDTalk
from models.edtalk.networks.navigation import Codes


class Crossed(NamedTuple):
    """What is drawn of P pairs of faces; row 2 p is face A of pair p, row 2 p + 1 its face B.

    Attributes:
        own: [2 P, 3, S, S] each face driven by its own target.
        crossed: [2 P, 3, S, S] the same, the mouth taken from the other face that has its mouth, the pose from itself
            with the mouth of the other.
        own_codes, crossed_codes: what they were driven with.
    """

    own: Tensor
    crossed: Tensor
    own_codes: Codes
    crossed_codes: Codes


class CrossReconstruction(EDTalk):
    """An EDTalk model called in another way; parameters and names are the same."""

    def forward(self, source: Tensor, target: Tensor, swapped: Tensor) -> Crossed:  # pyright: ignore[reportIncompatibleMethodOverride]  # several processes train through `forward` only, and EDTalk's would encode each picture twice
        """Draws what should become the targets.

        Args:
            source, target, swapped: [P, 2, 3, S, S] in -1..1, see models.edtalk.data.swap_pairs.SwapPairs.
        """
        encoded, directions = self.encode_identity(source.flatten(0, 1)), self.directions()
        latents = self.encode(torch.cat([target.flatten(0, 1), swapped.flatten(0, 1)]))
        own, other = (self.codes(half) for half in latents.chunk(2))
        # the mouth of A is to be seen in the picture of B that has it
        crossed = Codes(exchanged(other.mouth), other.pose)
        own_drawn, crossed_drawn = (self.render(encoded, codes, directions) for codes in (own, crossed))
        return Crossed(own_drawn, crossed_drawn, own, crossed)


def exchanged(rows: Tensor) -> Tensor:
    """[2 P, ...] the two of each pair in each other's place."""
    return rows.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)
