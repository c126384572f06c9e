"""Expressions by name, and new ones from a snapshot."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from models.edtalk.inference.animator import Animator
from models.edtalk.inference.named_expressions import expression, mean_expression, names
from models.edtalk.networks.edtalk import EDTalk
from models.edtalk.networks.shape import Shape
from storage.errors import ConfigError, WeightsError
from storage.snapshot import Snapshot
from tests.conftest import REPOSITORY
from tests.rich_store import build_rich_store

SMALL = Shape(size_px=16, width=1 / 64, latent_dim=48)
PUBLISHED = ("angry", "contempt", "disgusted", "fear", "happy", "neutral", "sad", "surprised")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """$TALKSET_WEIGHTS/edtalk, empty; the cache is empty, too."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TALKSET_WEIGHTS", str(tmp_path / "weights"))
    folder = tmp_path / "weights" / "edtalk"
    folder.mkdir(parents=True)
    return folder


def save(folder: Path, name: str, value: float) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / f"{name}.npy", np.full((1, 10), value, np.float32))


def test_names_are_files_and_spellings_do_not_matter(folder: Path) -> None:
    for value, name in enumerate(("disgusted", "happy", "smirk")):
        save(folder, name, value)
    assert names() == ("disgusted", "happy", "smirk")
    for spelling, value in {"disgusted": 0, "disgust": 0, "dis": 0, "happy": 1, "Happy": 1, "smirk": 2}.items():
        assert expression(spelling).tolist() == [[value] * 10], spelling


def test_the_named_folder_comes_before_the_cache(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache" / "talkset" / "weights" / "edtalk"
    save(cache, "sad", 7)
    assert expression("sad")[0, 0] == 7
    save(folder, "sad", 3)
    assert expression("sad")[0, 0] == 3


def test_missing_ones_say_what_to_do(folder: Path) -> None:
    save(folder, "happy", 1)
    with pytest.raises(
        WeightsError, match=r"get surprised\.npy from https.*weights import.*or make your own .*\(at hand: happy\)"
    ):
        expression("surprise")
    with pytest.raises(ConfigError, match=r"no expression 'hapy': .*at hand are happy"):
        expression("hapy")
    with pytest.raises(ConfigError, match="no expression"):
        expression("../edtalk/happy")


def test_the_published_files_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    reference = Path(os.environ.get("TALKSET_REFERENCE", REPOSITORY.parent / "shared" / "reference"))
    if not (reference / "edtalk" / "happy.npy").is_file():
        pytest.skip(f"no published expressions: {reference / 'edtalk'} (set TALKSET_REFERENCE)")
    monkeypatch.setenv("TALKSET_WEIGHTS", str(reference))
    codes = torch.cat([expression(name) for name in PUBLISHED])
    assert codes.shape == (8, 10)
    assert 2 < codes.abs().max() < 6
    assert expression("neutral").abs().max() > 1, "neutral is not zero"


@pytest.fixture
def animator() -> Animator:
    torch.manual_seed(0)
    return Animator(EDTalk(SMALL), batch_size=3)


def test_a_new_expression_is_the_mean_over_the_clips_with_that_label(animator: Animator, store: Path) -> None:
    snapshot = Snapshot.open(store)
    rows = snapshot.rows()
    emotion = rows[0]["emotion"]
    clips = [clip for row, clip in zip(rows, snapshot.clips(), strict=True) if row["emotion"] == emotion]
    means = []
    for clip in clips:
        codes = animator.codes(snapshot.frame(clip, frame) for frame in range(clip.num_frames))
        assert codes.expression is not None
        means.append(codes.expression.mean(0))
    seen: list[tuple[int, int]] = []
    found, count = mean_expression(
        animator, snapshot, emotion, frames_per_clip=100, report=lambda done, total: seen.append((done, total))
    )
    assert count == len(clips)
    assert found.shape == (1, 10)
    torch.testing.assert_close(found[0], torch.stack(means).mean(0), atol=1e-5, rtol=1e-4)
    assert seen[-1] == (count, count)
    few = mean_expression(animator, snapshot, emotion, frames_per_clip=2)[0]
    assert 0 < (few - found).abs().max() < found.abs().max()


def test_frames_without_a_face_have_no_say(animator: Animator, tmp_path: Path) -> None:
    snapshot, shown = build_rich_store(tmp_path / "rich"), []
    clip = next(clip for clip in snapshot.clips() if clip.name.startswith("S002") and clip.name.endswith("#002"))
    valid = snapshot.feature(clip, "landmarks")["landmarks_valid"]
    assert not valid.all()
    frame_of = snapshot.frame
    snapshot.frame = lambda clip, index: shown.append((clip.clip, index)) or frame_of(clip, index)  # type: ignore[method-assign]
    mean_expression(animator, snapshot, clip.name.split("#")[1], frames_per_clip=100)
    assert {index for name, index in shown if name == clip.clip} == set(np.flatnonzero(valid).tolist())
    with pytest.raises(ConfigError, match="no clip labelled 'sad' shows a face"):
        mean_expression(animator, snapshot, "sad")


def test_unknown_labels_and_models_without_a_bank_are_refused(animator: Animator, store: Path) -> None:
    snapshot = Snapshot.open(store)
    with pytest.raises(ConfigError, match="no clip labelled 'bored'; it has angry"):
        mean_expression(animator, snapshot, "bored")
    with pytest.raises(ConfigError, match="'angry' at level 9"):
        mean_expression(animator, snapshot, "angry", level="9")
    with pytest.raises(ConfigError, match="no expression bank"):
        mean_expression(Animator(EDTalk(SMALL, has_expression=False)), snapshot, "angry")
