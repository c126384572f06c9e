"""The list of weight files and the order in which they are looked for; nothing is downloaded."""

import hashlib
import importlib.metadata
import re
import socket

import pytest

from storage import weights
from storage.errors import WeightsError

EDTALK = {"edtalk", "edtalk_lip_pose", "edtalk_expressions", "audio2lip", "lia"}
NAMES = EDTALK | {
    "wav2lip", "wav2lip_syncnet", "face_landmarker", "dlib68", "2dfan4", "s3fd", "vgg19", "syncnet_v2", "hubert",
    "gfpgan",
}  # fmt: skip


@pytest.fixture(autouse=True)
def isolated(tmp_path, monkeypatch):
    """No weights, no cache, and no network but what a test sets up."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("TALKSET_WEIGHTS", raising=False)
    monkeypatch.delenv("TALKSET_ALLOW_DOWNLOAD", raising=False)

    def refuse(*_args, **_kwargs):
        raise AssertionError("a test opened a socket")

    monkeypatch.setattr(socket, "socket", refuse)


def _put(folder, file, data=b"weights"):
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def test_every_entry_says_what_a_user_must_know():
    entries = weights.listed()
    assert set(entries) == NAMES
    for name, entry in entries.items():
        assert entry.page.startswith("https://")
        assert entry.licence
        assert entry.bytes > 1_000_000 or name in EDTALK | {"gfpgan"}
        assert len(entry.sha256) in (0, 64) or entry.sha256 in entry.file
        assert entry.url == "" or entry.url.startswith("https://")
    assert entries["dlib68"].is_noncommercial


def test_entries_name_packages_never_a_registry():
    text = weights.LIST.read_text()
    assert not re.search(r"pypi|pythonhosted|anaconda|npmjs", text, re.IGNORECASE)
    packaged = {name: entry for name, entry in weights.listed().items() if entry.package}
    assert set(packaged) == {"dlib68"}
    for entry in packaged.values():
        assert entry.version == importlib.metadata.version(entry.package)
        assert f"install the Python package {entry.package} {entry.version}" in entry.how_to_get()
    assert not any(entry.version for entry in weights.listed().values() if not entry.package)


def test_the_named_folder_comes_before_the_cache(tmp_path, monkeypatch):
    cached = _put(tmp_path / "cache/talkset/weights", "s3fd-619a316812.pth")
    assert weights.resolve("s3fd") == cached
    monkeypatch.setenv("TALKSET_WEIGHTS", str(tmp_path / "mine"))
    assert weights.resolve("s3fd") == cached
    mine = _put(tmp_path / "mine", "s3fd-619a316812.pth", b"other")
    assert weights.resolve("s3fd") == mine


def test_a_missing_file_is_one_line_with_file_place_url_size_and_licence(tmp_path, monkeypatch):
    monkeypatch.setenv("TALKSET_WEIGHTS", str(tmp_path))
    with pytest.raises(WeightsError) as error:
        weights.resolve("s3fd")
    message = str(error.value)
    assert "\n" not in message
    assert str(tmp_path) not in message, "it is stored in snapshots, whose ids must not depend on folders"
    for part in (
        "s3fd-619a316812.pth",
        "$TALKSET_WEIGHTS",
        "https://www.adrianbulat.com",
        "90.0 MB",
        "weights unstated",
    ):
        assert part in message
    assert weights.missing("s3fd") == message


def test_a_pinned_hash_is_checked(tmp_path, monkeypatch):
    monkeypatch.setenv("TALKSET_WEIGHTS", str(tmp_path))
    path = _put(tmp_path, "face_landmarker.task")
    with pytest.raises(WeightsError, match="64184e22") as error:
        weights.resolve("face_landmarker")
    assert str(path) in str(error.value)


def test_the_first_digits_in_a_file_name_are_checked(tmp_path, monkeypatch):
    monkeypatch.setenv("TALKSET_WEIGHTS", str(tmp_path))
    digits, name = hashlib.sha256(b"weights").hexdigest()[:8], "vgg19-dcbb9e9d.pth"
    path = _put(tmp_path, name)
    with pytest.raises(WeightsError, match="must be or begin with dcbb9e9d"):
        weights.resolve("vgg19")
    listing = tmp_path / "weights.toml"
    listing.write_text(weights.LIST.read_text().replace('"dcbb9e9d"', f'"{digits}"'))
    monkeypatch.setattr(weights, "LIST", listing)
    assert weights.resolve("vgg19") == path
    assert weights.fingerprint("vgg19") == hashlib.sha256(b"weights").hexdigest()


def test_a_file_that_is_not_pinned_is_not_read_to_be_found(tmp_path, monkeypatch):
    """Some are over a gigabyte."""
    monkeypatch.setenv("TALKSET_WEIGHTS", str(tmp_path))
    path = _put(tmp_path, "s3fd-619a316812.pth")
    monkeypatch.setattr(weights, "sha256_file", lambda path: pytest.fail("it was read"))
    assert weights.resolve("s3fd") == path


def test_an_unpinned_file_is_identified_by_the_hash_found(tmp_path, monkeypatch):
    monkeypatch.setenv("TALKSET_WEIGHTS", str(tmp_path))
    path = _put(tmp_path, "s3fd-619a316812.pth", b"one")
    assert weights.fingerprint("s3fd") == "unpinned:" + hashlib.sha256(b"one").hexdigest()
    path.write_bytes(b"another")
    assert weights.fingerprint("s3fd") == "unpinned:" + hashlib.sha256(b"another").hexdigest()


def test_the_default_predictor_is_the_pinned_one():
    assert weights.fingerprint("dlib68") == weights.listed()["dlib68"].sha256
    assert weights.missing("dlib68") is None


def test_downloads_happen_only_when_allowed(tmp_path, monkeypatch):
    calls = []

    def retrieve(url, known_hash, fname, path):
        calls.append((url, known_hash))
        return str(_put(path, fname, b"fetched"))

    monkeypatch.setattr("pooch.retrieve", retrieve)
    with pytest.raises(WeightsError):
        weights.resolve("2dfan4")
    assert calls == []
    monkeypatch.setenv("TALKSET_ALLOW_DOWNLOAD", "1")
    assert weights.missing("2dfan4") is None
    assert weights.resolve("2dfan4").read_bytes() == b"fetched"
    assert calls == [(weights.listed()["2dfan4"].url, None)]
    with pytest.raises(WeightsError, match=r"huggingface\.co"):  # no direct link: nothing is guessed
        weights.resolve("hubert")


def test_a_failed_download_is_a_weights_error(monkeypatch):
    def retrieve(*_args, **_kwargs):
        raise ValueError("hash of downloaded file differs")

    monkeypatch.setattr("pooch.retrieve", retrieve)
    monkeypatch.setenv("TALKSET_ALLOW_DOWNLOAD", "1")
    with pytest.raises(WeightsError, match="hash of downloaded file differs"):
        weights.resolve("face_landmarker")
