"""Exports are read back by readers that know the target format only, not our code, and compared with the snapshot."""

import hashlib
import io
import itertools
import json
import tarfile
import wave
from pathlib import Path
from urllib.parse import unquote

import lmdb
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from storage.emotions import EMOTIONS
from storage.errors import ConfigError, LockedError
from storage.snapshot import Snapshot
from storage.timelaw import axis_length
from tasks.export import export_edtalk, export_emogene, export_webdataset
from tasks.export.edtalk import fill_missing
from tasks.export.edtalk_lists import Listed, clip_lists, edtalk_name, is_mead
from tasks.export.names import export_names, safe_name
from tests.rich_store import FACELESS, HARD_NAME, build_rich_store
from tests.synthetic_store import build_store


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return build_rich_store(tmp_path_factory.mktemp("rich") / "store")


@pytest.fixture(scope="module")
def edtalk(snapshot: Snapshot, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("edtalk") / "out"
    export_edtalk(snapshot, out)
    return out


@pytest.fixture(scope="module")
def emogene(snapshot: Snapshot, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("emogene") / "out"
    export_emogene(snapshot, out)
    return out


# ---- EDTalk


class EdtalkReader:
    """Opens a tree as EDTalk's data sets do, by the published description of its layout."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.env = lmdb.open(
            str(root / "EDTalk_lmdb"), max_readers=32, readonly=True, lock=False, readahead=False, meminit=False
        )

    def names(self, path: str) -> list[str]:
        return json.loads((self.root / path).read_text())

    def value(self, *parts: str | int) -> bytes:
        key = "-".join(part if isinstance(part, str) else str(part).zfill(7) for part in parts)
        with self.env.begin(write=False) as txn:
            found = txn.get(key.encode("utf-8"))
        assert found is not None, key
        return found

    def num_frames(self, name: str) -> int:
        return int(self.value(name, "length").decode("utf-8"))

    def frame(self, name: str, index: int) -> Image.Image:
        return Image.open(io.BytesIO(self.value(name, index)))

    def array(self, kind: str, name: str, suffix: str = ".npy") -> NDArray:
        folder = "HDTF" if len(name.split("#")) == 2 else "MEAD_front"
        return np.load(self.root / folder / kind / f"{name}{suffix}", allow_pickle=False)

    def sound(self, name: str) -> NDArray[np.int16]:
        path = f"HDTF/split_5s_audio/{name}.wav" if len(name.split("#")) == 2 else f"MEAD_front/audio/{name}.wav"
        with wave.open(str(self.root / path)) as wav:
            assert (wav.getframerate(), wav.getnchannels(), wav.getsampwidth()) == (16000, 1, 2)
            return np.frombuffer(wav.readframes(wav.getnframes()), "<i2")

    def all_names(self) -> list[str]:
        return [name for split in ("train", "val", "test") for name in self.names(f"{split}.json")]


def test_every_clip_of_an_edtalk_tree_opens(edtalk: Path, snapshot: Snapshot) -> None:
    reader = EdtalkReader(edtalk)
    names = reader.all_names()
    assert len(names) == len(snapshot.clips()) - 1  # all but the faceless one
    assert reader.value("length") == str(len(names)).zfill(7).encode()
    for name in names:
        num_frames = reader.num_frames(name)
        shapes = {kind: reader.array(kind, name).shape for kind in ("mel", "landmark", "bbox")}
        assert shapes == {"mel": (num_frames, 1, 80, 16), "landmark": (num_frames, 68, 2), "bbox": (num_frames, 4)}
        assert [reader.array(kind, name).dtype for kind in ("mel", "landmark", "bbox")] == ["f4", "i8", "i8"]
        assert len(reader.sound(name)) == 640 * num_frames
        image = reader.frame(name, num_frames - 1)
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (256, 256))


def test_edtalk_frames_and_sound_are_those_of_the_store_byte_for_byte(edtalk: Path, snapshot: Snapshot) -> None:
    reader, clip = EdtalkReader(edtalk), snapshot.clip("RD_Radio1#2")
    assert reader.num_frames(clip.name) == clip.num_frames
    stored = [snapshot.frames(clip.shard).jpeg(clip.clip, index) for index in range(clip.num_frames)]
    assert [reader.value(clip.name, index) for index in range(clip.num_frames)] == stored
    np.testing.assert_array_equal(reader.sound(clip.name), snapshot.audio(clip) * 32768)


def test_mel_equals_the_construction_in_edtalks_scripts(edtalk: Path) -> None:
    import librosa

    reader = EdtalkReader(edtalk)
    for name in ("RD_Radio1#1", "S000#neutral#level_1#007"):
        wav = (reader.sound(name) / np.float32(32768)).astype(np.float32)
        emphasised = np.append(wav[0], wav[1:] - 0.97 * wav[:-1])
        spectrum = np.abs(librosa.stft(emphasised, n_fft=800, hop_length=200, win_length=800, pad_mode="reflect"))
        bands = librosa.filters.mel(sr=16000, n_fft=800, n_mels=80, fmin=55, fmax=7600) @ spectrum
        mel = np.clip(8 * (20 * np.log10(np.maximum(1e-5, bands)) - 20 + 100) / 100 - 4, -4, 4)
        for index, window in enumerate(reader.array("mel", name)):
            columns = np.clip(int(80 * (index - 2) / 25.0) + np.arange(16), 0, mel.shape[1] - 1)
            np.testing.assert_allclose(window[0], mel[:, columns], atol=2e-4)


def test_missing_landmarks_are_interpolated_and_masked(edtalk: Path, snapshot: Snapshot) -> None:
    reader, name = EdtalkReader(edtalk), "S000#contempt#level_1#002"
    valid, points = reader.array("landmark", name, ".valid.npy"), reader.array("landmark", name)
    assert np.flatnonzero(~valid).tolist() == [3, 4]
    truth = snapshot.feature(snapshot.clip(name), "landmarks")["landmarks"].astype(float)
    np.testing.assert_array_equal(points[valid], np.rint(truth[valid]))
    np.testing.assert_array_equal(points[3], np.rint(truth[2] + (truth[5] - truth[2]) / 3))
    np.testing.assert_array_equal(reader.array("bbox", name, ".valid.npy"), valid)
    counts = json.loads((edtalk / "export.json").read_text())["counts"]
    assert counts["landmark_frames_filled"] == 2 * 3  # every second take of three subjects


def test_hdtf_landmarks_lie_where_they_are_written_and_where_they_are_read(edtalk: Path) -> None:
    folders = [edtalk / "HDTF" / kind for kind in ("landmark", "ldmk")]
    files = [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders]
    assert files[0] == files[1]
    assert "RD_Radio1#1.npy" in files[0]


def test_a_clip_without_landmarks_is_excluded_with_its_reason(edtalk: Path) -> None:
    assert json.loads((edtalk / "excluded.json").read_text())["clips"] == {FACELESS: "no frame has landmarks"}
    assert FACELESS not in EdtalkReader(edtalk).all_names()
    assert not list(edtalk.rglob(f"{FACELESS}*"))


def test_names_are_spelled_meads_way_and_mapped_back(edtalk: Path) -> None:
    names, mapped = EdtalkReader(edtalk).all_names(), json.loads((edtalk / "names.json").read_text())
    assert "S001#disgusted#level_1#002" in names
    assert mapped["S001#disgusted#level_1#002"] == "S001#disgust#level_1#002"
    hard = next(name for name in names if mapped.get(name, "").startswith(HARD_NAME))
    assert hard == "talks%2FÜnsafe%3A a.b#1"


def test_no_identity_stands_in_two_lists(edtalk: Path, snapshot: Snapshot) -> None:
    reader, mapped = EdtalkReader(edtalk), json.loads((edtalk / "names.json").read_text())
    subject = {row["name"]: row["subject"] for row in snapshot.rows()}
    for pattern in ("{}.json", "lists/MEAD_HDTF_{}.json", "lists/HDTF_facial_{}.json", "lists/HDTF_{}_bbox.json"):
        people = [
            {subject[mapped.get(n, n)] for n in reader.names(pattern.format(s))} for s in ("train", "val", "test")
        ]
        assert len(set().union(*people)) == sum(map(len, people))
    split = {row["name"]: row["split"] for row in snapshot.rows()}
    assert {split[mapped.get(name, name)] for name in reader.names("test.json")} == {"test"}


def test_stage_lists_hold_what_their_stage_can_use(edtalk: Path) -> None:
    reader = EdtalkReader(edtalk)
    hdtf = [name for name in reader.names("train.json") if len(name.split("#")) == 2]
    assert len(hdtf) == 3
    assert reader.names("lists/HDTF_facial_train.json") == reader.names("lists/HDTF_train_bbox.json") == hdtf
    generator = reader.names("lists/MEAD_HDTF_train.json")
    assert {name.split("#")[0] for name in generator if is_mead(name)} == {"S000"}  # the only one with a neutral clip
    assert set(json.loads((edtalk / "excluded.json").read_text())["lists"]["lists/MEAD_HDTF_val.json"])


def test_lists_leave_out_clips_that_would_crash_their_stage() -> None:
    short, silent, boxless, good = (
        Listed(f"V#{k}", "train", 6 if k == 1 else 50, k != 2, k != 3) for k in (1, 2, 3, 4)
    )
    lists = clip_lists([short, silent, boxless, good])
    assert lists.files["lists/HDTF_train_bbox.json"] == ["V#4"]
    assert set(lists.left_out["lists/HDTF_train_bbox.json"]) == {"V#1", "V#2", "V#3"}
    assert lists.files["lists/HDTF_facial_train.json"] == ["V#1", "V#2", "V#3", "V#4"]


def test_val_clips_are_tested_on_only_where_there_is_no_test_split() -> None:
    val = Listed("V#1", "val", 50, True, True)
    alone = clip_lists([val])
    assert alone.files["test.json"] == alone.files["val.json"] == ["V#1"]
    assert any("no test clips" in note for note in alone.notes)
    both = clip_lists([val, Listed("W#1", "test", 50, True, True)])
    assert (both.files["test.json"], both.files["val.json"]) == (["W#1"], ["V#1"])


def test_other_sizes_are_resized_and_landmarks_follow(snapshot: Snapshot, tmp_path: Path) -> None:
    summary = export_edtalk(snapshot, tmp_path / "out", size_px=128)
    reader, clip = EdtalkReader(tmp_path / "out"), snapshot.clip("RD_Radio1#1")
    assert summary.counts["frames_encoded_again"] == summary.num_frames
    assert reader.frame(clip.name, 0).size == (128, 128)
    truth = snapshot.feature(clip, "landmarks")["landmarks"]
    np.testing.assert_array_equal(reader.array("landmark", clip.name), np.rint((truth + 0.5) / 2 - 0.5))
    halved = snapshot.frame(clip, 0).reshape(128, 2, 128, 2, 3).mean(axis=(1, 3))
    assert np.abs(np.asarray(reader.frame(clip.name, 0), float) - halved).mean() < 2


def test_filling_is_linear_inside_and_constant_outside() -> None:
    values = np.array([np.nan, 2, np.nan, np.nan, 8, np.nan])[:, None]
    filled = fill_missing(values)
    assert filled is not None
    assert filled[0].ravel().tolist() == [2, 2, 4, 6, 8, 8]
    assert filled[1].tolist() == [False, True, False, False, True, False]
    assert fill_missing(values[:1]) is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("M003#angry#level_1#001", "M003#angry#level_1#001"),
        ("M003#sur#level_2#010", "M003#surprised#level_2#010"),
        ("M003#angry#level_1#001#2", "M003#angry#level_1#001~2"),
        ("RD_Radio1_000#12", "RD_Radio1_000#12"),
        ("whole take", "whole take#1"),
        ("a#b#c#4", "a%23b%23c#4"),
        ("folder/file#2", "folder%2Ffile#2"),
    ],
)
def test_edtalk_names(name: str, expected: str) -> None:
    assert edtalk_name(name) == expected
    assert is_mead(expected) == (expected.count("#") == 3)


# ---- EmoGene


def test_every_array_of_a_clip_folder_is_what_its_manifest_says(emogene: Path, snapshot: Snapshot) -> None:
    folders = sorted((emogene / "clips").iterdir())
    assert len(folders) == len(snapshot.clips())
    for folder in folders:
        manifest = json.loads((folder / "manifest.json").read_text())
        found = {path.relative_to(folder).as_posix() for path in folder.rglob("*.npy")}
        assert found == set(manifest["files"])
        for path, described in manifest["files"].items():
            array = np.load(folder / path, allow_pickle=False)
            assert (str(array.dtype), list(array.shape)) == (described["dtype"], described["shape"])


def test_arrays_obey_the_time_law_and_equal_the_snapshot(emogene: Path, snapshot: Snapshot) -> None:
    clip = snapshot.clip("S000#contempt#level_1#002")
    folder = emogene / "clips" / clip.name
    files = {
        "mel50.npy": ("mel50", "mel50", "2N"), "f0.npy": ("mel50", "f0_hz", "2N"), "mel80.npy": ("mel", "mel", "T80"),
        "lm68.npy": ("landmarks", "landmarks", "N"), "valid.npy": ("landmarks", "landmarks_valid", "N"),
        "bbox.npy": ("bbox", "bbox", "N"), "face3d/exp.npy": ("face3d", "exp", "N"),
    }  # fmt: skip
    for path, (extractor, column, axis) in files.items():
        array = np.load(folder / path)
        assert len(array) == axis_length(axis, clip.num_frames), path
        np.testing.assert_array_equal(array, snapshot.feature(clip, extractor)[column])
    with wave.open(str(folder / "audio.wav")) as wav:
        assert (wav.getnframes(), wav.getframerate()) == (640 * clip.num_frames, 16000)
    jpegs = [path.read_bytes() for path in sorted((folder / "img").iterdir())]
    assert jpegs == [snapshot.frames(clip.shard).jpeg(clip.clip, index) for index in range(clip.num_frames)]


def test_crop_maps_source_boxes_onto_the_boxes_of_the_crop(emogene: Path, snapshot: Snapshot) -> None:
    clip = snapshot.clip("RD_Radio1#1")
    corner = snapshot.tracks(clip)["source_box"][0, :2].astype(float)
    mapped = np.load(emogene / "clips" / clip.name / "crop.npy") @ [*corner, 1]
    np.testing.assert_allclose(mapped[:2], snapshot.feature(clip, "bbox")["bbox"][0, :2], atol=1e-3)


def test_idexp_is_the_offset_from_the_mean_face(emogene: Path, snapshot: Snapshot) -> None:
    from tasks.face3d import load_shape_model

    model, folder = load_shape_model("gp80x64"), emogene / "clips" / "RD_Radio1#1"
    identity, exp = (np.load(folder / "face3d" / f"{name}.npy").astype(float) for name in ("id", "exp"))
    offset = (model.id_basis @ identity)[None] + np.einsum("pck,nk->npc", model.exp_basis, exp)
    np.testing.assert_allclose(np.load(folder / "idexp_lm3d.npy"), 10 * model.camera_scale * offset, atol=1e-4)


def test_manifests_and_readme_say_what_a_user_must_know(emogene: Path) -> None:
    manifest = json.loads((emogene / "clips" / "S000#contempt#level_1#002" / "manifest.json").read_text())
    assert (manifest["emotion"], manifest["emotion_id"], manifest["fps"]) == (
        "contempt",
        EMOTIONS.index("contempt"),
        25,
    )
    assert manifest["face3d"]["shape_model"].startswith("gp80x64")
    assert manifest["valid_share"] == pytest.approx(1 - 2 / manifest["num_frames"])
    text = (emogene / "README.txt").read_text()
    assert all(path in text for path in manifest["files"])
    assert "gp80x64" in text
    assert "not the Basel Face Model" in text
    splits = [json.loads((emogene / "splits" / f"{split}.json").read_text()) for split in ("train", "val", "test")]
    assert sorted(itertools.chain(*splits)) == sorted(path.name for path in (emogene / "clips").iterdir())


def test_a_faceless_clip_keeps_its_nan_rows(emogene: Path) -> None:
    folder = emogene / "clips" / FACELESS
    assert np.isnan(np.load(folder / "lm68.npy")).all()
    assert not np.load(folder / "valid.npy").any()


# ---- WebDataset


def read_tar(path: Path) -> dict[str, dict[str, bytes]]:
    """Samples by key, by webdataset's rule: the key ends at the first dot of the base name; a sample's files adjoin."""
    samples: dict[str, dict[str, bytes]] = {}
    last = None
    with tarfile.open(path, "r|") as tar:
        for member in tar:
            folder, _, base = member.name.rpartition("/")
            key, _, suffix = base.partition(".")
            key = f"{folder}/{key}" if folder else key
            assert key == last or key not in samples, "the files of a sample are torn apart"
            stream = tar.extractfile(member)
            assert stream is not None
            samples.setdefault(key, {})[suffix] = stream.read()
            last = key
    return samples


def test_tar_shards_group_into_whole_samples(snapshot: Snapshot, tmp_path: Path) -> None:
    summary = export_webdataset(snapshot, tmp_path / "out")
    index = json.loads((tmp_path / "out" / "index.json").read_text())
    samples = {}
    for shard in index["shards"]:
        found = read_tar(tmp_path / "out" / shard["file"])
        assert len(found) == shard["num_clips"]
        assert {json.loads(sample["json"])["split"] for sample in found.values()} == {shard["split"]}
        samples |= found
    assert len(samples) == summary.num_clips == len(snapshot.clips())
    assert {frozenset(sample) for sample in samples.values()} == {frozenset(index["members"])}


def test_a_sample_holds_the_clip(snapshot: Snapshot, tmp_path: Path) -> None:
    export_webdataset(snapshot, tmp_path / "out")
    samples = read_tar(tmp_path / "out" / "train-000000.tar")
    by_name = {json.loads(sample["json"])["name"]: sample for sample in samples.values()}
    clip = snapshot.clip(f"{HARD_NAME}#1")
    sample = by_name[clip.name]
    offsets = np.load(io.BytesIO(sample["frame_offsets.npy"]))
    jpegs = [sample["frames.mjpeg"][a:b] for a, b in itertools.pairwise(offsets)]
    assert jpegs == [snapshot.frames(clip.shard).jpeg(clip.clip, index) for index in range(clip.num_frames)]
    for suffix, (extractor, column) in {"mel.npy": ("mel", "mel"), "landmarks.npy": ("landmarks", "landmarks")}.items():
        np.testing.assert_array_equal(
            np.load(io.BytesIO(sample[suffix]), allow_pickle=False), snapshot.feature(clip, extractor)[column]
        )
    with wave.open(io.BytesIO(sample["wav"])) as wav:
        assert wav.getnframes() == 640 * clip.num_frames


def test_tar_files_are_bounded_and_their_digests_true(snapshot: Snapshot, tmp_path: Path) -> None:
    limit = 1 << 20
    export_webdataset(snapshot, tmp_path / "out", max_shard_bytes=limit)
    shards = json.loads((tmp_path / "out" / "index.json").read_text())["shards"]
    assert len([shard for shard in shards if shard["split"] == "train"]) > 1
    for shard in shards:
        data = (tmp_path / "out" / shard["file"]).read_bytes()
        assert len(data) == shard["num_bytes"]
        assert len(data) <= limit or shard["num_clips"] == 1
        assert hashlib.sha256(data).hexdigest() == shard["sha256"]


def test_headers_name_no_user_and_no_time(snapshot: Snapshot, tmp_path: Path) -> None:
    export_webdataset(snapshot, tmp_path / "out")
    with tarfile.open(tmp_path / "out" / "val-000000.tar") as tar:
        seen = {(member.mtime, member.uid, member.gid, member.uname, member.gname) for member in tar}
    assert seen == {(0, 0, 0, "", "")}


# ---- all of them


@pytest.mark.parametrize("export", [export_edtalk, export_emogene, export_webdataset])
def test_equal_snapshots_give_equal_bytes(export, snapshot: Snapshot, tmp_path: Path) -> None:
    calls = []
    for name in ("a", "b"):
        export(snapshot, tmp_path / name, lambda: calls.append(1))
    assert len(calls) == 2 * len(snapshot.clips())
    trees = [
        {
            path.relative_to(tmp_path / name): path.read_bytes()
            for path in (tmp_path / name).rglob("*")
            if path.is_file()
        }
        for name in ("a", "b")
    ]
    assert trees[0] == trees[1]


@pytest.mark.parametrize("export", [export_edtalk, export_emogene, export_webdataset])
def test_a_failed_export_leaves_nothing(export, snapshot: Snapshot, tmp_path: Path) -> None:
    def fail() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(snapshot, tmp_path / "out", fail)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_export_left_is_replaced(snapshot: Snapshot, tmp_path: Path) -> None:
    left = tmp_path / ".out.export" / "tree"
    left.mkdir(parents=True)
    (left / "junk").touch()
    export_webdataset(snapshot, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert not (tmp_path / "out" / "junk").exists()


def test_two_exports_to_one_place_are_refused(snapshot: Snapshot, tmp_path: Path) -> None:
    def again() -> None:
        export_edtalk(snapshot, tmp_path / "out")

    with pytest.raises(LockedError, match="another process"):
        export_edtalk(snapshot, tmp_path / "out", again)


def test_a_folder_with_content_is_not_touched(snapshot: Snapshot, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("keep")
    with pytest.raises(ConfigError, match="not an empty folder"):
        export_edtalk(snapshot, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_an_empty_folder_is_taken(snapshot: Snapshot, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert export_edtalk(snapshot, tmp_path / "out").num_clips == EdtalkReader(tmp_path / "out").env.stat()[
        "entries"
    ] - (1 + sum(clip.num_frames for clip in snapshot.clips() if clip.name != FACELESS))


@pytest.mark.parametrize("export", [export_edtalk, export_emogene])
def test_missing_features_are_named(export, tmp_path: Path) -> None:
    snapshot = build_store(tmp_path / "store", with_media=False)
    with pytest.raises(ConfigError, match=r"landmarks.*datasets\.yaml"):
        export(snapshot, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@given(st.text(min_size=1, max_size=40))
def test_safe_names_are_safe_and_decode_to_the_name(name: str) -> None:
    safe = safe_name(name, also=".#")
    assert not set(safe) & set('/\\<>:"|?*\0.#')
    assert len(safe.encode()) <= 200
    if "~" not in safe:
        assert unquote(safe) == name


def test_names_that_meet_are_told_apart() -> None:
    rows = [{"clip": "k1", "name": "V"}, {"clip": "k2", "name": "v#1"}, {"clip": "k3", "name": "W#1"}]
    names = export_names(rows, edtalk_name)
    assert len({name.casefold() for name in names.values()}) == 3
    assert all(name.count("#") == 1 for name in names.values())
    assert names["k3"] == "W#1"
