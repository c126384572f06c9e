"""Pairs of people for cross-reconstruction: who meets whom, and what the images show."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional
from torch.utils.data import DataLoader

from models.edtalk.data.face_frames import FaceFrames, image_of
from models.edtalk.data.mouth_swap import Face, mouth_mask, swap_mouth
from models.edtalk.data.swap_pairs import MOUTH_MARGIN_PX, PartnerChoice, SwapPairs
from storage.errors import ConfigError
from storage.snapshot import Snapshot
from tests.rich_store import FACELESS, build_rich_store
from tests.synthetic_store import build_store


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return build_rich_store(tmp_path_factory.mktemp("swaps") / "store")


def test_every_clip_with_a_face_is_met_by_another_one(snapshot: Snapshot) -> None:
    pairs = SwapPairs(snapshot, "train", 32, seed=0)
    faces = FaceFrames(snapshot, snapshot.clips("train"))
    names = [pairs.clip(number).name for number in range(len(pairs))]
    assert names == [clip.name for clip in snapshot.clips("train") if clip.name != FACELESS]
    partners = set()
    for epoch in range(40):
        pairs.set_epoch(epoch)
        for index in range(len(pairs)):
            (reference, target), (other_reference, other_target) = pairs.choose(index)
            assert reference[0] == target[0] == index
            assert other_reference[0] == other_target[0] != index
            assert reference != target
            assert other_reference != other_target
            for clip, frame in (reference, target, other_reference, other_target):
                assert frame in faces.frames[clip]
            partners.add((index, other_target[0]))
    assert len(partners) > 2 * len(pairs), "partners vary"


def test_all_frames_of_all_other_clips_are_candidates(snapshot: Snapshot) -> None:
    pairs = SwapPairs(snapshot, "train", 32, seed=0, partners=PartnerChoice(1))
    faces = FaceFrames(snapshot, snapshot.clips("train"))
    seen = set()
    for epoch in range(1500):
        pairs.set_epoch(epoch)
        seen.add(pairs.choose(1)[1][1])
    expected = {(clip, int(frame)) for clip, frames in enumerate(faces.frames) for frame in frames if clip != 1}
    assert seen <= expected
    assert len(seen) > 0.97 * len(expected)


def test_the_partner_looks_the_same_way(snapshot: Snapshot) -> None:
    """The more candidates, the more alike the turns; with very many it is the nearest of all frames."""
    faces = FaceFrames(snapshot, snapshot.clips("train"))

    def turn(place: tuple[int, int]) -> np.ndarray:
        clip, frame = place
        return faces.turns[clip][list(faces.frames[clip]).index(frame)]

    def mean_distance(num_candidates: int) -> float:
        pairs, total = SwapPairs(snapshot, "train", 32, seed=0, partners=PartnerChoice(num_candidates)), []
        for epoch in range(20):
            pairs.set_epoch(epoch)
            for index in range(len(pairs)):
                (_, target), (_, partner) = pairs.choose(index)
                total.append(np.linalg.norm(turn(target) - turn(partner)))
        return float(np.mean(total))

    assert mean_distance(16) < 0.5 * mean_distance(1)
    pairs = SwapPairs(snapshot, "train", 32, seed=0, partners=PartnerChoice(5000))
    (_, target), (_, partner) = pairs.choose(2)
    others = np.concatenate([turns for clip, turns in enumerate(faces.turns) if clip != 2])
    nearest = np.linalg.norm(others - turn(target), axis=1).min()
    assert np.linalg.norm(turn(partner) - turn(target)) == pytest.approx(nearest, abs=1e-7)


def test_images_are_the_chosen_frames_and_their_swaps(snapshot: Snapshot) -> None:
    pairs = SwapPairs(snapshot, "train", 256, seed=3)
    item, chosen = pairs[1], pairs.choose(1)
    faces = []
    for person, (reference, target) in enumerate(chosen):
        for name, (clip, frame) in (("reference", reference), ("target", target)):
            stored = snapshot.frame(pairs.clip(clip), frame)
            assert torch.equal(item[name][person], image_of(stored, 256))
        clip, frame = pairs.clip(target[0]), target[1]
        points = snapshot.feature(clip, "landmarks", ["landmarks"])["landmarks"][frame]
        faces.append(Face(snapshot.frame(clip, frame), points))
    assert torch.equal(item["swapped"][0], image_of(swap_mouth(faces[0], faces[1]), 256))
    assert torch.equal(item["swapped"][1], image_of(swap_mouth(faces[1], faces[0]), 256))
    for person, face in enumerate(faces):
        assert np.array_equal(item["mouth"][person, 0], mouth_mask(face.points, 256, MOUTH_MARGIN_PX))
    assert {name: tuple(value.shape) for name, value in item.items()} == {
        name: (2, 1 if name == "mouth" else 3, 256, 256) for name in ("reference", "target", "swapped", "mouth")
    }
    assert all(value.dtype == torch.float32 for value in item.values())
    small = SwapPairs(snapshot, "train", 64, seed=3)[1]["mouth"]
    torch.testing.assert_close(small, functional.avg_pool2d(item["mouth"], 4))


def test_items_depend_on_seed_epoch_and_index_only(snapshot: Snapshot) -> None:
    def order(seed: int, epoch: int, num_workers: int) -> list[torch.Tensor]:
        pairs = SwapPairs(snapshot, "train", 32, seed)
        pairs.set_epoch(epoch)
        return [batch["swapped"] for batch in DataLoader(pairs, 2, num_workers=num_workers)]

    first = order(0, 2, 0)
    torch.manual_seed(99)
    assert all(torch.equal(a, b) for a, b in zip(first, order(0, 2, 2), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, order(0, 3, 0), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, order(1, 2, 0), strict=True))


@pytest.mark.parametrize("own_share", [0.0, 0.3, 1.0])
def test_so_many_partners_are_of_the_same_clip_as_asked(snapshot: Snapshot, own_share: float) -> None:
    pairs, faces = (
        SwapPairs(snapshot, "train", 32, 0, PartnerChoice(16, own_share)),
        FaceFrames(snapshot, snapshot.clips("train")),
    )
    own, partners = [], set()
    for epoch in range(100):
        pairs.set_epoch(epoch)
        for index in range(len(pairs)):
            (_, target), (_, partner) = pairs.choose(index)
            own.append(partner[0] == index)
            assert partner != target
            assert partner[1] in faces.frames[partner[0]]
            if index == 1:
                partners.add(partner)
    assert np.mean(own) == pytest.approx(own_share, abs=3 / np.sqrt(len(own)) / 2)
    own_frames = {(1, int(frame)) for frame in faces.frames[1]}
    assert bool(partners & own_frames) == bool(own_share)
    if own_share == 1:
        assert partners == own_frames, "any frame of the clip, and in the end all"


def test_a_single_clip_is_its_own_partner(tmp_path: Path) -> None:
    pairs = SwapPairs(build_store(tmp_path / "store", 1, 1, (12,)), "train", 32, seed=0)
    for epoch in range(20):
        pairs.set_epoch(epoch)
        (_, target), (_, partner) = pairs.choose(0)
        assert target[0] == partner[0] == 0
        assert target != partner


def test_a_split_without_faces_is_one_clear_error(tmp_path: Path) -> None:
    snapshot = build_store(tmp_path / "store", 1, 1, (12,))
    with pytest.raises(ConfigError, match="no clip of split 'val' shows a face"):
        SwapPairs(snapshot, "val", 32, 0)
