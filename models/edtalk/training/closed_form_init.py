"""start_apart: heads and bank of stage 1 that start from what the stage before knows of mouths and of poses.

The stage before moves a face by one code for everything, and the mouth is a small part of it. From random heads
cross-reconstruction has to find that part first, and with little data a mouth code follows the head instead. But pairs
of faces that have each other's mouths already tell the two apart, in closed form:

    axes    directions of the latent vectors along which two faces with the same mouth agree, whosever they are:
            canonical correlation analysis (Hotelling, "Relations Between Two Sets of Variates", Biometrika 1936)
    mouth   the motion that goes with them where nothing but the mouth changes
    pose    the principal components of the motion that is left

The faces then move as they did, now by two codes. Not in the publication, where the stage starts at random heads and
sees hundreds of thousands of clips.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import eigh
from torch import Tensor, nn

from models.edtalk.data.swap_pairs import SwapPairs
from models.edtalk.networks.edtalk import EDTalk
from models.edtalk.networks.lia import NUM_DIRECTIONS
from models.edtalk.networks.navigation import Bank, orthonormal
from models.nn.stylegan import EqualLinear

Array = NDArray[np.float64]

# Opening and width of a mouth. Others agree too little between faces, and would be heads again.
NUM_AXES = 2
# Of the mean variance, added to all: keeps directions out along which next to nothing changes.
_RIDGE = 1e-4


@dataclass(frozen=True, slots=True)
class PairLatents:
    """Latent vectors of pairs of faces; rows 2 n and 2 n + 1 are the two of a pair.

    Attributes:
        target: [2 N, D].
        swapped: [2 N, D] of the same with the mouth of the other.
        clip: [2 N] which clip they are of.
    """

    target: Array
    swapped: Array
    clip: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Motion:
    """An affine function of latent vectors: what a model adds to the vector of the source.

    Attributes:
        weight: [D, D].
        bias: [D].
    """

    weight: Array
    bias: Array


def start_apart(model: EDTalk, parent: Mapping[str, Tensor], pairs: SwapPairs, num_pairs: int) -> None:
    """Sets the heads and the bank of mouth and pose so that faces move about as with the parent's.

    Args:
        model: with the encoder of the parent; changed.
        parent: state dict of models.edtalk.networks.lia.Lia.
        pairs: the training pairs; the first are looked at, epoch by epoch from 0, where they are left.
        num_pairs: several times D.
    """
    faces, motion = _latents(model, pairs, num_pairs), _motion(parent)
    axes = mouth_axes(faces, NUM_AXES)
    leads = _leads(faces, axes, motion)
    by_mouth = leads @ axes.T
    by_pose = motion.weight - by_mouth
    mouth_basis = np.linalg.qr(leads)[0]
    poses = _principal(faces.target @ by_pose.T, mouth_basis, faces.clip, model.shape.num_pose)
    mean = faces.target.mean(axis=0)
    middle = motion.weight @ mean + motion.bias
    with torch.no_grad():
        bank = _bank(mouth_basis, poses, middle, model.shape.num_mouth)
        # as long as the columns of a random bank, so that they learn as fast
        model.direction_lipnonlip.weight.copy_(torch.from_numpy(bank * np.sqrt(len(bank))))
        directions = model.directions().double().numpy()
        mouth, pose = directions[:, : model.shape.num_mouth], directions[:, model.shape.num_mouth :]
        _set_affine(model.lip_fc, mouth.T @ by_mouth, mouth.T @ (middle - by_mouth @ mean))
        _set_affine(model.pose_fc, pose.T @ by_pose, pose.T @ (middle - by_pose @ mean))


def mouth_axes(faces: PairLatents, num_axes: int) -> Array:
    """[D, K] directions along which faces with the same mouth agree most, best first.

    Along each a clip's vectors have about unit variance. What tells one clip from another is taken out before.
    """
    one, other = _within(faces.target, faces.clip), _exchanged(_within(faces.swapped, faces.clip))
    shared = (one.T @ other + other.T @ one) / (2 * len(one))
    spread = (one.T @ one + other.T @ other) / (2 * len(one))
    dim = len(spread)
    spread += _RIDGE * np.trace(spread) / dim * np.eye(dim)
    axes = eigh(shared, spread, subset_by_index=[dim - num_axes, dim - 1])[1]
    return axes[:, ::-1]


def _leads(faces: PairLatents, axes: Array, motion: Motion) -> Array:
    """[D, K] how the motion changes per unit of each axis where only the mouth changes: least squares."""
    change = faces.target - faces.swapped
    change = change - change.mean(axis=0)
    return np.linalg.lstsq(change @ axes, change @ motion.weight.T, rcond=None)[0].T


def _principal(moved: Array, mouth_basis: Array, clip: NDArray[np.int64], num_poses: int) -> Array:
    """[D, P] principal components of motions [N, D] of each clip, orthogonal to `mouth_basis` [D, K]."""
    rest = _within(moved, clip)
    rest -= rest @ mouth_basis @ mouth_basis.T
    return np.linalg.svd(rest, full_matrices=False)[2][:num_poses].T


def _bank(mouth_basis: Array, poses: Array, middle: Array, num_mouth: int) -> Array:
    """[D, mouth + pose] orthonormal: mouth, what is left of `middle` [D], arbitrary directions; then the poses."""
    fixed = np.column_stack([mouth_basis, poses])
    middle = middle - fixed @ (fixed.T @ middle)
    fixed = np.column_stack([fixed, middle / np.linalg.norm(middle)])
    num_free = num_mouth - mouth_basis.shape[1] - 1
    free = np.linalg.svd(np.eye(len(fixed)) - fixed @ fixed.T)[0][:, :num_free]
    return np.column_stack([mouth_basis, fixed[:, -1], free, poses])


def _latents(model: EDTalk, pairs: SwapPairs, num_pairs: int) -> PairLatents:
    """What the heads are given of the first pairs."""
    found, clips = [], []
    for index, item in pairs.first(num_pairs):
        found.append(_shared(model, torch.cat([item["target"], item["swapped"]])))
        clips += [target[0] for _, target in pairs.choose(index)]
    target, swapped = np.stack(found).reshape(num_pairs, 2, 2, -1).swapaxes(0, 1).reshape(2, 2 * num_pairs, -1)
    return PairLatents(target, swapped, np.array(clips))


@torch.no_grad()
def _shared(model: EDTalk, images: Tensor) -> Array:
    return model.fc(model.encode(images)).double().numpy()


def _motion(parent: Mapping[str, Tensor]) -> Motion:
    """The motion of the parent, of what the last layer of its head is given."""
    weight, bias = parent["enc.fc.4.weight"].double().numpy(), parent["enc.fc.4.bias"].double().numpy()
    bank = Bank(weight.shape[1], NUM_DIRECTIONS)
    bank.load_state_dict({"weight": parent["dec.direction.weight"]})
    directions = orthonormal(bank).detach().double().numpy()
    return Motion(directions @ weight / np.sqrt(weight.shape[1]), directions @ bias)


def _set_affine(head: nn.Sequential, weight: Array, bias: Array) -> None:
    """Makes the layers of a head together x -> weight x + bias: all but the last give what they get."""
    *before, last = (cast(EqualLinear, layer) for layer in head)
    for layer in before:
        layer.weight.copy_(torch.eye(len(layer.weight)) / layer.scale)
        layer.bias.zero_()
    last.weight.copy_(torch.from_numpy(weight) / last.scale)
    last.bias.copy_(torch.from_numpy(bias))


def _within(rows: Array, clip: NDArray[np.int64]) -> Array:
    """Rows less the mean of their clip."""
    centred = rows.copy()
    for number in np.unique(clip):
        centred[clip == number] -= rows[clip == number].mean(axis=0)
    return centred


def _exchanged(rows: Array) -> Array:
    """The two of each pair in each other's place."""
    return rows.reshape(-1, 2, rows.shape[1])[:, ::-1].reshape(rows.shape)
