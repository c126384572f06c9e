"""Codes of all frames: those of each frame alone, computed once, found again, told apart by what they depend on."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import distributed

from models.edtalk.data import encoded_clips
from models.edtalk.data.encoded_clips import extract_codes
from models.edtalk.data.face_frames import image_of
from models.edtalk.networks.edtalk import EDTalk
from models.edtalk.networks.shape import Shape
from models.training.engine.distributed import Ranks
from models.training.runs import environment
from storage.snapshot import Snapshot
from tests.synthetic_store import build_store

SHAPE = Shape(size_px=32, width=1 / 32, latent_dim=48)


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """Several shards."""
    return build_store(tmp_path_factory.mktemp("codes") / "store", 4, 2, (12, 13), shard_minutes=0.02)


def generator(seed: int = 0, has_expression: bool = True) -> EDTalk:
    torch.manual_seed(seed)
    return EDTalk(SHAPE, has_expression).train()


def num_objects(snapshot: Snapshot) -> int:
    return len(list(snapshot.objects.keys()))


def test_codes_are_those_of_every_frame_alone(snapshot: Snapshot) -> None:
    clips = snapshot.clips()[::-1]
    assert len({clip.shard.shard_id for clip in clips}) > 1
    model = generator()
    found = extract_codes(model, snapshot, clips)
    assert model.training
    assert len(found) == len(clips)
    with torch.no_grad():
        for clip, codes in zip(clips, found, strict=True):
            assert (codes.mouth.shape, codes.pose.shape) == ((clip.num_frames, 20), (clip.num_frames, 6))
            for frame in range(0, clip.num_frames, 5):
                image = image_of(snapshot.frame(clip, frame), SHAPE.size_px)[None]
                expected = model.codes(model.encode(image))
                np.testing.assert_allclose(codes.mouth[frame], expected.mouth[0], atol=1e-5)
                np.testing.assert_allclose(codes.pose[frame], expected.pose[0], atol=1e-5)
                assert expected.expression is not None
                np.testing.assert_allclose(codes.expression[frame], expected.expression[0], atol=1e-5)
    assert np.std([codes.mouth.mean(axis=0) for codes in found]) > 0, "not all the same"


def test_computing_codes_draws_no_random_number(snapshot: Snapshot) -> None:
    """The weights that a stage draws after it would depend on whether the codes were in the store already."""
    model, before = generator(11), torch.get_rng_state()
    count = num_objects(snapshot)
    extract_codes(model, snapshot, snapshot.clips())
    assert num_objects(snapshot) > count, "nothing was computed"
    assert torch.equal(torch.get_rng_state(), before)


def test_they_are_computed_once_and_their_object_is_a_table(
    snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = snapshot.clips()
    first = extract_codes(generator(1), snapshot, clips)
    before = num_objects(snapshot)

    def never(*args: object) -> None:
        raise AssertionError("computed again")

    with monkeypatch.context() as patch:
        patch.setattr(encoded_clips, "encode_frames", never)
        # the last of many processes begins with the last shard
        patch.setattr(distributed, "is_initialized", lambda: True)
        patch.setattr(distributed, "get_rank", lambda: 99)
        patch.setattr(distributed, "get_world_size", lambda: 100)
        again = extract_codes(generator(1), snapshot, clips)
        with pytest.raises(AssertionError, match="again"):
            extract_codes(generator(2), snapshot, clips)
    for one, other in zip(first, again, strict=True):
        assert np.array_equal(one.mouth, other.mouth)
        assert np.array_equal(one.expression, other.expression)
    assert num_objects(snapshot) == before
    manifests = [snapshot.objects.manifest(key) for key in snapshot.objects.keys()]
    assert {name for own in manifests if own.step == encoded_clips.STEP for name in own.files} == {"codes.parquet"}


def test_only_what_codes_depend_on_tells_generators_apart(snapshot: Snapshot) -> None:
    model, clips = generator(3), snapshot.clips()[:1]
    extract_codes(model, snapshot, clips)
    before = num_objects(snapshot)
    with torch.no_grad():
        model.dec.conv1.conv.weight.add_(1)
        model.direction_exp.weight.add_(1)
    extract_codes(model, snapshot, clips)
    assert num_objects(snapshot) == before, "a tuned decoder leaves the codes as they are"
    with torch.no_grad():
        dict(model.named_parameters())["pose_fc.2.bias"].add_(1)
    extract_codes(model, snapshot, clips)
    assert num_objects(snapshot) == before + 1


def test_without_an_expression_bank_there_are_none(snapshot: Snapshot) -> None:
    clip = snapshot.clips()[0]
    (codes,) = extract_codes(generator(has_expression=False), snapshot, [clip])
    assert codes.expression.shape == (clip.num_frames, 0)
    assert codes.pose.shape == (clip.num_frames, 6)


def test_workers_decode_the_same(snapshot: Snapshot) -> None:
    clips = snapshot.clips()[:2]
    plain = encoded_clips.encode_frames(generator(), snapshot, clips)
    assert np.array_equal(encoded_clips.encode_frames(generator(), snapshot, clips, num_workers=1), plain)


def test_they_are_computed_on_the_device_that_was_chosen(snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(environment, "_chosen", None)
    assert environment.chosen_device() == torch.device("cuda")
    assert environment.choose_device("cpu", Ranks()) == environment.chosen_device() == torch.device("cpu")
    (codes,) = extract_codes(generator(), snapshot, snapshot.clips()[:1])
    assert np.isfinite(codes.mouth).all()


def test_a_damaged_object_is_told(tmp_path: Path) -> None:
    from storage.errors import StoreCorrupt

    snapshot = build_store(tmp_path / "store", 1, 1, (12,))
    model, clips = generator(), snapshot.clips()
    extract_codes(model, snapshot, clips)
    (path,) = (snapshot.store / "objects").glob("*/*/codes.parquet")
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(StoreCorrupt, match=r"codes\.parquet"):
        extract_codes(model, snapshot, clips)
