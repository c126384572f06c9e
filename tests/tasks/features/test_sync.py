"""sync: offsets that were put in are found exactly; what cannot be measured is NaN."""

from pathlib import Path

import numpy as np
import pytest

from tasks.features import sync
from tests.fake_clips import fake_clip, moving_face, talking_clip

PARAMS = sync.Params()


@pytest.mark.parametrize("offset", [-11, -4, -1, 0, 1, 4, 11])
@pytest.mark.parametrize("seed", range(4))
def test_put_in_offsets_are_found(offset: int, seed: int) -> None:
    found = sync.extract(talking_clip(125, offset, seed=seed), PARAMS)
    assert found["offset_frames"] == offset
    assert found["confidence"] > 0.3


@pytest.mark.parametrize("offset", [-4, 0, 4])
def test_gaps_do_not_move_the_offset(offset: int) -> None:
    gaps = [*range(5), *range(30, 42), 60, 61, *range(90, 96)]
    found = sync.extract(talking_clip(125, offset, missing=gaps, seed=7), PARAMS)
    assert found["offset_frames"] == offset


def test_curve_is_pearson_of_the_overlap() -> None:
    rng = np.random.default_rng(0)
    mouth, envelope = rng.normal(size=60), rng.normal(size=60)
    mouth[[4, 30]] = np.nan
    curve = sync.lagged_correlation(mouth, envelope, 15, 25)
    for lag in (-15, -3, 0, 8):
        pairs = [(mouth[i], envelope[i + lag]) for i in range(60) if 0 <= i + lag < 60 and np.isfinite(mouth[i])]
        assert curve[15 + lag] == pytest.approx(np.corrcoef(np.array(pairs).T)[0, 1], abs=1e-12)


def test_confidence_is_the_peak_over_the_median() -> None:
    found = sync.extract(talking_clip(125, 2), PARAMS)
    curve = found["sync_curve"]
    assert found["correlation"] == curve.max()
    assert found["confidence"] == pytest.approx(curve.max() - np.median(np.abs(curve)), abs=1e-6)


def test_unrelated_audio_is_less_confident() -> None:
    true = sync.extract(talking_clip(125, 0, seed=1), PARAMS)
    other = sync.extract(
        fake_clip(125, landmarks=talking_clip(125, 0, seed=1).landmarks, audio=talking_clip(125, 0, seed=2).audio),
        PARAMS,
    )
    assert other["confidence"] < true["confidence"] - 0.2


@pytest.mark.parametrize(
    "clip",
    [
        fake_clip(50, audio=np.zeros(32000), has_audio=False),
        fake_clip(50, missing=range(50)),
        fake_clip(50, landmarks=np.repeat(moving_face(1), 50, axis=0)),
        fake_clip(2),
    ],
    ids=["silent", "no face", "motionless", "short"],
)
def test_what_cannot_be_measured_is_nan(clip: object) -> None:
    found = sync.extract(clip, PARAMS)  # pyright: ignore[reportArgumentType]
    assert np.isnan(found["confidence"])
    assert np.isnan(found["correlation"])
    assert found["offset_frames"] == 0


def test_parts_of_one_real_clip_agree(media: Path) -> None:
    """The 20-second clip is out of sync by about five frames; each of its 5-second parts must say the same."""
    import cv2

    from tasks.faces.backend import load_backend
    from tasks.media.audio import read_audio
    from tasks.media.video import iter_slots

    path = media / "head_shoulders_450_25fps.mp4"
    backend, box, rows = load_backend("dlib"), None, []
    for slot in iter_slots(path):
        if slot.slot >= 250:
            break
        gray = cv2.resize(np.ascontiguousarray(slot.y), (256, 256), interpolation=cv2.INTER_AREA)
        if slot.slot % 25 == 0:
            box = backend.detect(gray, 60)[0].box
        assert box is not None
        rows.append(backend.landmarks(gray, box))
    track = read_audio(path)
    assert track is not None
    points = np.array(rows)
    offsets = [
        int(
            sync.extract(
                fake_clip(125, landmarks=points[k : k + 125], audio=track.samples[640 * k : 640 * (k + 125)]), PARAMS
            )["offset_frames"]
        )
        for k in (0, 125)
    ]
    assert max(offsets) - min(offsets) <= 1
    assert 4 <= offsets[0] <= 7
