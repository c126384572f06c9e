import numpy as np
import pytest

from storage.catalog import ClipRule
from tasks.faces.track import BlockFaces, TrackBlock
from tasks.windows import Window, WindowAssembler

FACE = np.stack(np.meshgrid(np.arange(17.0), np.arange(4.0)), -1).reshape(68, 2).astype(np.float32)


def faces(count: int, tracks: dict[int, np.ndarray], cuts: tuple[int, ...] = ()) -> BlockFaces:
    is_cut = np.zeros(count, bool)
    is_cut[list(cuts)] = True
    blocks = [TrackBlock(track, points) for track, points in tracks.items()]
    seen = sum(
        (np.isfinite(points).all((1, 2)).astype(np.int16) for points in tracks.values()), np.zeros(count, np.int16)
    )
    return BlockFaces(is_cut, blocks, seen)


def face(count: int, scale: float = 1.0, at: float = 0.0, seen: slice = slice(None)) -> np.ndarray:
    out = np.full((count, 68, 2), np.nan, np.float32)
    out[seen] = FACE * scale + at
    return out


def run(blocks: list[BlockFaces], rule: ClipRule = ClipRule(length_s=2.0, min_tail_s=1.0), **options) -> list[Window]:  # noqa: B008
    assembler = WindowAssembler(rule, **options)
    out = [window for block in blocks for window in assembler.push(block, np.zeros(len(block.is_cut), bool))]
    return [*out, *assembler.finish()]


def steady(total: int, cuts: tuple[int, ...] = (), block: int = 25) -> list[BlockFaces]:
    return [
        faces(n, {1: face(n)}, tuple(c - at for c in cuts if at <= c < at + n))
        for at in range(0, total, block)
        for n in [min(block, total - at)]
    ]


@pytest.mark.parametrize("block", [1, 7, 25])
@pytest.mark.parametrize(
    ("total", "cuts", "expected"),
    [
        (100, (), [(0, 50, False), (50, 50, False)]),
        (130, (), [(0, 50, False), (50, 50, False), (100, 30, False)]),
        (110, (), [(0, 50, False), (50, 50, False), (100, 10, True)]),
        (100, (30,), [(0, 30, False), (30, 50, False), (80, 20, True)]),
        (100, (50,), [(0, 50, False), (50, 50, False)]),
        (60, (20, 25), [(0, 20, True), (20, 5, True), (25, 35, False)]),
        (1, (), [(0, 1, True)]),
    ],
)
def test_windows_tile_the_shots(total, cuts, expected, block):
    windows = run(steady(total, cuts, block))
    assert [(w.start, len(w), w.is_tail) for w in windows] == expected
    assert [w.index for w in windows] == list(range(1, len(expected) + 1))


def test_the_largest_longest_face_speaks():
    windows = run(
        [faces(25, {1: face(25, 1.0), 2: face(25, 2.0, 100)}), faces(25, {1: face(25), 2: face(25, 2.0, 100)})]
    )
    assert [w.track_id for w in windows] == [2]
    assert np.nanmin(windows[0].landmarks) >= 100


def test_a_bystander_who_is_close_for_a_moment_does_not_take_over():
    close = {1: face(25, 1.0), 2: face(25, 3.0, 100, slice(0, 2))}
    windows = run([faces(25, {1: face(25)}), faces(25, {1: face(25)}), faces(25, close), faces(25, {1: face(25)})])
    assert [w.track_id for w in windows] == [1, 1]


def test_the_annotated_region_decides_when_there_is_one():
    blocks = [faces(25, {1: face(25, 1.0), 2: face(25, 2.0, 100)})] * 2
    assert [w.track_id for w in run(blocks, region=(0, 0, 50, 50))] == [1]
    assert [w.track_id for w in run(blocks, region=(500, 500, 600, 600))] == [-1]


def test_missing_frames_are_nan_and_stay_in_place():
    (window,) = run([faces(25, {1: face(25, seen=slice(3, 20))}), faces(25, {})])
    valid = np.isfinite(window.landmarks).all((1, 2))
    assert np.flatnonzero(valid).tolist() == list(range(3, 20))
    assert window.num_faces.tolist() == [0] * 3 + [1] * 17 + [0] * 30


def test_no_face_gives_no_speaker():
    (window,) = run([faces(25, {})] * 2)
    assert window.track_id == -1
    assert np.isnan(window.landmarks).all()
