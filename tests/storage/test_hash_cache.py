"""The hash cache: a file that changed in any way is read again, one that did not is not, damage only costs time."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from storage import hash_cache
from storage.hash_cache import FileFacts, HashCache
from storage.keys import sha256_file, sha256_hex


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files count as old at once."""
    monkeypatch.setattr(hash_cache, "_RACY_NS", -(10**18))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every file that is hashed."""
    seen: list[Path] = []

    def counted(path: Path) -> tuple[str, int]:
        seen.append(path)
        return sha256_file(path)

    monkeypatch.setattr(hash_cache, "sha256_file", counted)
    return seen


def cache(folder: Path) -> HashCache:
    return HashCache(folder / "state" / "files.json", lambda path: 1.5)


def looked_at(folder: Path, path: Path) -> FileFacts:
    """Facts as one whole run finds them."""
    run = cache(folder)
    facts = run.facts(path)
    run.save()
    return facts


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"abcdef")
    return path


@pytest.mark.usefixtures("settled")
def test_an_unchanged_file_is_read_once(tmp_path: Path, video: Path, reads: list[Path]) -> None:
    facts = [looked_at(tmp_path, video) for _ in range(3)]
    assert facts == [FileFacts(sha256_hex(b"abcdef"), 6, 1.5)] * 3
    assert reads == [video]


def _rewrite(path: Path) -> None:
    path.write_bytes(b"ghijkl")


def _rewrite_with_old_mtime(path: Path) -> None:
    before = path.stat()
    path.write_bytes(b"ghijkl")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _replace_by_another_file(path: Path) -> None:
    before = path.stat()
    other = path.with_name("other")
    other.write_bytes(b"ghijkl")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(path)


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("change", [_rewrite, _rewrite_with_old_mtime, _replace_by_another_file])
def test_changed_content_is_noticed_whatever_the_clock_says(
    tmp_path: Path, video: Path, change: Callable[[Path], None]
) -> None:
    """I-02."""
    looked_at(tmp_path, video)
    change(video)
    assert looked_at(tmp_path, video).sha256 == sha256_hex(b"ghijkl")


def test_a_file_that_was_just_written_is_not_trusted_yet(tmp_path: Path, video: Path, reads: list[Path]) -> None:
    looked_at(tmp_path, video)
    looked_at(tmp_path, video)
    assert reads == [video, video]


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize(
    "damage",
    [
        "", "{", "[]", "null", '"x"', "\x00", '{"KEY": []}', '{"KEY": null}', '{"KEY": "abcdefg"}',
    ],
)  # fmt: skip
def test_a_damaged_cache_only_costs_time(tmp_path: Path, video: Path, damage: str) -> None:
    facts = looked_at(tmp_path, video)
    file = tmp_path / "state" / "files.json"
    (key,) = json.loads(file.read_text())
    file.write_text(damage.replace("KEY", key))
    assert looked_at(tmp_path, video) == facts


@pytest.mark.usefixtures("settled")
def test_files_that_are_gone_drop_out(tmp_path: Path, video: Path) -> None:
    looked_at(tmp_path, video)
    other = tmp_path / "b.mp4"
    other.write_bytes(b"x")
    looked_at(tmp_path, other)
    assert list(json.loads((tmp_path / "state" / "files.json").read_text())) == [os.fsencode(other).hex()]


@pytest.mark.usefixtures("settled")
def test_a_run_that_is_killed_keeps_most_of_what_it_hashed(
    tmp_path: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hash_cache, "_SAVE_EVERY", 4)
    paths = [tmp_path / f"{number}.mp4" for number in range(10)]
    for path in paths:
        path.write_bytes(path.name.encode())
    killed = cache(tmp_path)
    for path in paths:
        killed.facts(path)
    again = cache(tmp_path)
    for path in paths:
        again.facts(path)
    assert reads == [*paths, *paths[8:]]


@pytest.mark.usefixtures("settled")
def test_names_that_are_no_utf8_are_kept_apart(tmp_path: Path) -> None:
    paths = [Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)) for name in (b"\xe9.mp4", b"\xe8.mp4", b"\n.mp4")]
    for number, path in enumerate(paths):
        path.write_bytes(b"%d" % number)
    run = cache(tmp_path)
    found = [run.facts(path).sha256 for path in paths]
    run.save()
    assert [cache(tmp_path).facts(path).sha256 for path in paths] == found == [sha256_hex(b"%d" % n) for n in range(3)]


def test_what_cannot_be_read_raises(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        cache(tmp_path).facts(tmp_path / "gone.mp4")
