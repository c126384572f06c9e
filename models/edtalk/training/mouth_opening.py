"""open_as_seen: a mouth code that opens mouths as far as they are.

Absolute errors prefer the middle of all that may be right. What has learned from little data by them knows less of
mouths than of heads, so it moves mouths too little: half as far as they are, say. How far pictures of a face really
change by another mouth is in the training pairs, and how far drawn ones do can be measured, so the code can be made
longer until both are alike. Not in the publication, which trains until nothing is missing.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, cast

import torch
from scipy.optimize import root_scalar
from torch import Tensor

from models.edtalk.data.swap_pairs import SwapPairs
from models.edtalk.networks.edtalk import EDTalk
from models.edtalk.networks.navigation import Codes
from models.edtalk.training.cross_reconstruction import exchanged
from models.nn.stylegan import EqualLinear

# Beyond it a generator would be asked for mouths that it has never seen.
MAX_GAIN = 4.0
NUM_PAIRS = 32
_TOLERANCE = 0.05
_BATCH = 4


class _Faces(NamedTuple):
    """Some pairs of faces; rows 2 n and 2 n + 1 are the two of a pair, as in training.cross_reconstruction.

    Attributes:
        source, target, swapped: [2 P, 3, S, S] see SwapPairs.
        mouth: [2 P, 1, S, S] how much of each pixel is mouth.
        codes: of the targets.
    """

    source: Tensor
    target: Tensor
    swapped: Tensor
    mouth: Tensor
    codes: Codes


@torch.no_grad()
def open_as_seen(model: EDTalk, pairs: SwapPairs) -> float:
    """Stretches the mouth code about its mean until drawn mouths change as strongly by the other's code as real ones
    do by the other's mouth: root mean square of the difference of the two pictures, over the pixels of the mouth.

    Args:
        model: without expression; its `lip_fc` is changed.
        pairs: NUM_PAIRS are looked at, epoch by epoch from 0, where they are left.

    Returns:
        How many times as long the code is now: 1 to MAX_GAIN. 1 leaves all as it was.
    """
    items = [item for _, item in pairs.first(NUM_PAIRS)]
    faces = [_faces(model, items[begin : begin + _BATCH]) for begin in range(0, NUM_PAIRS, _BATCH)]
    mean = torch.cat([some.codes.mouth for some in faces]).mean(0)
    expected = sum(_strength(some.target - some.swapped, some.mouth) for some in faces)
    directions = model.directions()

    def excess(gain: float) -> float:
        drawn = sum(_strength(_drawn_change(model, some, mean, gain, directions), some.mouth) for some in faces)
        return drawn**0.5 - expected**0.5

    gain = _root(excess)
    _stretch(cast(EqualLinear, model.lip_fc[-1]), mean, gain)
    return gain


def _faces(model: EDTalk, items: Sequence[Mapping[str, Tensor]]) -> _Faces:
    images = [torch.cat([item[name] for item in items]) for name in ("source", "target", "swapped", "mouth")]
    return _Faces(*images, codes=model.codes(model.encode(images[1])))


def _drawn_change(model: EDTalk, faces: _Faces, mean: Tensor, gain: float, directions: Tensor) -> Tensor:
    """[2 P, 3, S, S] faces drawn with their own mouth codes less the same with the other's."""
    encoded, own = model.encode_source(faces.source), mean + gain * (faces.codes.mouth - mean)
    drawn = [model.render(encoded, Codes(code, faces.codes.pose), directions) for code in (own, exchanged(own))]
    return drawn[0] - drawn[1]


def _strength(change: Tensor, mouth: Tensor) -> float:
    """Sum of squares, of the mouths."""
    return float((change.square() * mouth).sum())


def _root(excess: Callable[[float], float]) -> float:
    """The gain of 1..MAX_GAIN where a growing function is 0, or is nearest to it."""
    if excess(1.0) >= 0:
        return 1.0
    if excess(MAX_GAIN) <= 0:
        return MAX_GAIN
    return float(root_scalar(excess, bracket=(1.0, MAX_GAIN), xtol=_TOLERANCE).root)


def _stretch(layer: EqualLinear, mean: Tensor, gain: float) -> None:
    """Makes what the layer gives `gain` times as far from `mean`."""
    layer.weight.mul_(gain)
    layer.bias.copy_(mean + gain * (layer.bias - mean))
