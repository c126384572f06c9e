import os
import sys
import tempfile
import unicodedata
from pathlib import Path

import pytest

from storage.catalog import AnnotationRule, AudioRule, Dataset, Layout
from storage.errors import ConfigError, PreflightError, Reason
from storage.hash_cache import HashCache
from storage.keys import sha256_file
from storage.takedowns import Takedown, Takedowns
from tasks.inventory import escape_path, take_inventory

MEAD = Layout(
    pattern="{subject}/video/{view}/{emotion}/level_{level:\\d+}/{take:\\d+}.mp4",
    name="{subject}#{emotion}#level_{level}#{take}",
    select={"view": ["front"]},
    audio=AudioRule(path="{subject}/audio/{emotion}/level_{level}/{take}.m4a"),
)
FLAT = Layout(
    pattern="{subject:[^/#]+}#{emotion}#level_{level}#{take}.mp4", name="{subject}#{emotion}#level_{level}#{take}"
)
ANY = Layout(pattern="{subject:.+}.mp4", name="{subject}")


def dataset(root: Path, **layouts: Layout) -> Dataset:
    return Dataset(name="t", root=root, layouts=layouts, features={"landmarks": {}})


def inventory(root: Path, **layouts: Layout):
    return take_inventory(dataset(root, **layouts), HashCache(root.parent / "cache.json", lambda path: 1.0))


def put(root: Path, relative: str | bytes, data: bytes = b"video") -> Path:
    path = Path(os.fsdecode(os.path.join(os.fsencode(root), os.fsencode(relative))))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    return folder


def test_mead_layout_gives_labels_names_and_the_audio_beside(root):
    put(root, "M003/video/front/angry/level_1/001.mp4")
    put(root, "M003/video/left_30/angry/level_1/001.mp4", b"other view")
    audio = put(root, "M003/audio/angry/level_1/001.m4a", b"sound")
    found = inventory(root, raw=MEAD, flat=FLAT)
    (source,) = found.sources
    assert source.name == "M003#angry#level_1#001"
    assert (source.subject, source.labels["emotion"], source.labels["level"]) == ("M003", "angry", "1")
    assert source.audio_sha256 == sha256_file(audio)[0]
    assert (found.num_not_selected, found.num_ignored) == (1, 1)


def test_flat_names_of_edtalk_match_too(root):
    put(root, "M003#angry#level_1#001.mp4")
    (source,) = inventory(root, raw=MEAD, flat=FLAT).sources
    assert (source.layout, source.name, source.subject) == ("flat", "M003#angry#level_1#001", "M003")


def test_a_video_that_matches_nothing_is_rejected_not_forgotten(root):
    put(root, "holiday.mov")
    put(root, "notes.txt")
    found = inventory(root, raw=MEAD)
    assert [(s.path, s.reason) for s in found.sources] == [("holiday.mov", Reason.BAD_NAME)]
    assert found.num_ignored == 1


ODD_NAMES = [
    "with space", "hash#mark", "question?", "percent%41", "co:lon", 'quo"te', "it's", "new\nline", "-dash",
    "\U0001f600",
    "x" * 250, unicodedata.normalize("NFC", "é"), unicodedata.normalize("NFD", "é"), "back\\slash", "..dots..",
]  # fmt: skip


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names_are_taken_exactly(root, name):
    path = put(root, f"{name}.mp4")
    (source,) = inventory(root, any=ANY).sources
    assert source.is_usable
    assert os.fsdecode(bytes.fromhex(source.path_hex)) == path.name
    assert source.path.isprintable() or "\U0001f600" in source.path


def test_names_that_are_no_utf8_are_escaped_and_kept_as_bytes(root):
    put(root, b"caf\xe9.mp4")
    (source,) = inventory(root, any=ANY).sources
    assert source.path == "caf\\xe9.mp4"
    assert bytes.fromhex(source.path_hex) == b"caf\xe9.mp4"
    source.path.encode()


def test_escaping_is_injective():
    assert escape_path("a\\x41") != escape_path("aA")
    assert escape_path("a\\") == "a\\\\"


def test_links_out_of_the_root_loops_and_special_files_are_named(root, tmp_path):
    outside = put(tmp_path, "outside.mp4")
    (root / "out.mp4").symlink_to(outside)
    (root / "loop.mp4").symlink_to(root / "loop.mp4")
    (root / "gone.mp4").symlink_to(root / "nothing.mp4")
    (root / "self.mp4").symlink_to(root)
    os.mkfifo(root / "pipe.mp4")
    put(root, "empty.mp4", b"")
    reasons = {s.path: s.reason for s in inventory(root, any=ANY).sources}
    unsafe = ("out.mp4", "loop.mp4", "gone.mp4", "self.mp4", "pipe.mp4")
    assert reasons == {**dict.fromkeys(unsafe, Reason.UNSAFE_PATH), "empty.mp4": Reason.EMPTY}


def test_a_link_inside_the_root_is_followed(root):
    put(root, "real/a.mp4")
    (root / "b.mp4").symlink_to(root / "real/a.mp4")
    sources = inventory(root, any=ANY).sources
    assert len({s.source_id for s in sources}) == 1
    assert all(s.is_usable for s in sources)


@pytest.fixture
def not_root():
    """Root reads everything: give up its rights for the test."""
    if os.geteuid() != 0:
        yield
        return
    os.setegid(65534)
    os.seteuid(65534)
    yield
    os.seteuid(0)
    os.setegid(0)


@pytest.fixture
def locked_root(tmp_path):
    root = tmp_path / "raw"
    put(root, "locked.mp4").chmod(0)
    put(root, "open.mp4", b"2")
    put(root, "folder/inside.mp4", b"3")
    for folder in [root, *root.parents]:
        if folder == Path(tempfile.gettempdir()):
            break
        folder.chmod(0o755)
    return root


def test_a_file_without_permission_is_failed_and_named(locked_root, not_root):
    found = {s.path: s.error for s in inventory(locked_root, any=ANY).sources}
    assert "PermissionError" in found["locked.mp4"]
    assert found["open.mp4"] == found["folder/inside.mp4"] == ""


def test_a_folder_that_cannot_be_listed_stops_the_run(locked_root, request):
    (locked_root / "folder").chmod(0)
    request.getfixturevalue("not_root")
    with pytest.raises(PreflightError, match="folder"):
        inventory(locked_root, any=ANY)


def test_equal_content_has_one_id_whatever_the_name(root):
    put(root, "a.mp4", b"same")
    put(root, "b.mp4", b"same")
    put(root, "c.mp4", b"other")
    a, b, c = inventory(root, any=ANY).sources
    assert a.source_id == b.source_id != c.source_id


def test_rewritten_content_is_noticed_although_size_and_mtime_are_kept(root):
    path = put(root, "a.mp4", b"one")
    old = path.stat()
    first = inventory(root, any=ANY).sources[0].sha256
    path.write_bytes(b"two")
    os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns))
    assert inventory(root, any=ANY).sources[0].sha256 != first


def test_unchanged_files_are_not_read_again(root, monkeypatch):
    path = put(root, "a.mp4")
    cache_file = root.parent / "cache.json"
    monkeypatch.setattr("storage.hash_cache._RACY_NS", -(10**18))
    cache = HashCache(cache_file, lambda path: 7.5)
    facts = cache.facts(path)
    cache.save()
    monkeypatch.setattr("storage.hash_cache.sha256_file", lambda path: pytest.fail("hashed again"))
    assert HashCache(cache_file, lambda path: pytest.fail("measured again")).facts(path) == facts


def test_missing_root_and_unset_variable_fail_at_once(tmp_path):
    with pytest.raises(PreflightError, match="no folder"):
        inventory(tmp_path / "absent", any=ANY)
    with pytest.raises(PreflightError, match="environment variable"):
        inventory(Path("${NOT_SET}"), any=ANY)


def test_originals_are_not_touched(root):
    path = put(root, "a.mp4")
    before = (path.stat().st_mtime_ns, path.stat().st_ctime_ns, sorted(os.listdir(root)))
    inventory(root, any=ANY)
    assert before == (path.stat().st_mtime_ns, path.stat().st_ctime_ns, sorted(os.listdir(root)))


OFFICIAL = Layout(
    pattern="{subset:RD|WDA|WRA}/{subject:Radio\\d+|[A-Za-z-]+?}{session:\\d*}.mp4",
    name="{subset}_{subject}{session}_{span}",
    subject="{subset}_{subject}",
    annotations=AnnotationRule(folder="HDTF_dataset"),
)


def annotate(root: Path, times: str, crops: str, heights: str) -> None:
    put(root, "HDTF_dataset/RD_annotion_time.txt", times.encode())
    put(root, "HDTF_dataset/RD_crop_wh.txt", crops.encode())
    put(root, "HDTF_dataset/RD_resolution.txt", heights.encode())


def test_official_hdtf_lists_give_spans_and_boxes_in_picture_heights(root):
    put(root, "RD/Radio11.mp4")
    put(root, "RD/Radio12.mp4", b"not listed")
    annotate(
        root, "Radio11.mp4 00:30-01:00 1:01:30-1:02:30\n", "Radio11_0.mp4 412 599 0 599\n", "Radio11.mp4 720\n"
    )  # fmt: skip
    listed, unlisted = inventory(root, official=OFFICIAL).sources
    first, second = listed.spans
    assert (first.start_s, first.end_s, second.start_s, second.end_s) == (30, 60, 3690, 3750)
    assert first.box == pytest.approx((412 / 720, 0, (412 + 599) / 720, 599 / 720))
    assert second.box is None
    assert unlisted.reason is Reason.BAD_NAME


@pytest.mark.parametrize("line", ["Radio11.mp4 00:30\n", "Radio11.mp4 a-b\n"])
def test_a_broken_line_of_the_lists_is_named(root, line):
    from tasks import hdtf_annotations

    hdtf_annotations._lists.cache_clear()
    put(root, "RD/Radio11.mp4")
    annotate(root, line, "", "")
    with pytest.raises(ConfigError, match="Radio11"):
        inventory(root, official=OFFICIAL)


def test_importing_loads_no_codec():
    import subprocess

    code = "import sys, tasks.inventory; sys.exit(any(m in sys.modules for m in ('av', 'dlib', 'numba', 'torch')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---- takedowns


def taken(root: Path, *entries: Takedown, **layouts: Layout):
    cache = HashCache(root.parent / "cache.json", lambda path: 1.0)
    return take_inventory(dataset(root, **layouts), cache, Takedowns(entries))


def takedown(sha256: str = "", *ids: str) -> Takedown:
    return Takedown(sha256=sha256, source_ids=ids, path="as it was called", reason="asked", taken_at="2026-01-02")


def test_a_withdrawn_source_is_rejected_by_content_whatever_it_is_called(root):
    digest = sha256_file(put(root, "a.mp4", b"withdrawn"))[0]
    put(root, "deep/twin.mp4", b"withdrawn")
    put(root, "b.mp4", b"stays")
    found = taken(root, takedown(digest), any=ANY)
    assert [(s.path, s.reason, s.detail, s.is_usable) for s in found.sources] == [
        ("a.mp4", Reason.TAKEN_DOWN, "taken down: asked", False),
        ("b.mp4", None, "", True),
        ("deep/twin.mp4", Reason.TAKEN_DOWN, "taken down: asked", False),
    ]
    assert found.sources[0].sha256 == digest
    assert inventory(root, any=ANY).sources[0].is_usable


def test_a_withdrawn_source_is_known_by_its_id_alone(root):
    put(root, "a.mp4", b"withdrawn")
    put(root, "b.mp4", b"stays")
    before = inventory(root, any=ANY).sources
    found = taken(root, takedown("", before[0].source_id), any=ANY)
    assert [s.reason for s in found.sources] == [Reason.TAKEN_DOWN, None]


def test_ids_that_no_shard_may_hold_are_those_of_the_list_and_of_what_was_found(root):
    """Beside its audio file a source has another id than the list knows; one whose file is gone has no row."""
    video = put(root, "M003/video/front/angry/level_1/001.mp4")
    put(root, "M003/audio/angry/level_1/001.m4a", b"sound")
    with_audio = inventory(root, raw=MEAD).sources[0].source_id
    found = taken(root, takedown(sha256_file(video)[0]), takedown("", "f" * 20), raw=MEAD)
    assert found.taken_down == tuple(sorted((with_audio, "f" * 20)))
    assert inventory(root, raw=MEAD).taken_down == ()


def test_a_withdrawn_source_comes_before_every_other_reason(root):
    put(root, "RD/Radio12.mp4", b"not listed")
    annotate(root, "Radio11.mp4 00:30-01:00\n", "", "")
    digest = sha256_file(root / "RD/Radio12.mp4")[0]
    (found,) = taken(root, takedown(digest), official=OFFICIAL).sources
    assert found.reason is Reason.TAKEN_DOWN


def test_a_withdrawn_source_with_an_unreadable_audio_file_is_not_tried_again(root, tmp_path, request):
    video = put(root, "M003/video/front/angry/level_1/001.mp4")
    put(root, "M003/audio/angry/level_1/001.m4a", b"sound").chmod(0)
    digest = sha256_file(video)[0]
    for folder in [root, *root.parents]:
        if folder == Path(tempfile.gettempdir()):
            break
        folder.chmod(0o755)
    request.getfixturevalue("not_root")
    (failed,) = inventory(root, raw=MEAD).sources
    assert "PermissionError" in failed.error
    (found,) = taken(root, takedown(digest), raw=MEAD).sources
    assert (found.reason, found.error) == (Reason.TAKEN_DOWN, "")
