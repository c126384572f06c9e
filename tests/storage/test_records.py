"""Records: ids are contents, never paths; they survive pickling and JSON."""

import dataclasses
import json
import pickle

import pytest

from storage.errors import Reason
from storage.records import Member, Shard, Source, Span, State, StepResult, as_json
from storage.takedowns import Takedown

SOURCE = Source(
    "a/b.mp4", b"a/b.mp4".hex(), "raw", "b", "M1", {"take": "1"}, size_bytes=3, sha256="1" * 64, seconds=2.0
)


def test_the_id_of_a_source_is_what_it_contains() -> None:
    same = dataclasses.replace(
        SOURCE, path="c.mp4", path_hex="00", layout="x", name="n", subject="S", labels={}, size_bytes=9, seconds=9.0,
        audio_path_hex="ff",
    )  # fmt: skip
    assert same.source_id == SOURCE.source_id
    others = [
        dataclasses.replace(SOURCE, sha256="2" * 64), dataclasses.replace(SOURCE, audio_sha256="1" * 64),
        dataclasses.replace(SOURCE, spans=(Span(0, 1),)), dataclasses.replace(SOURCE, spans=(Span(0, 1), Span(1, 2))),
        dataclasses.replace(SOURCE, spans=(Span(0, 1, (0, 0, 1, 1)),)),
    ]  # fmt: skip
    assert len({SOURCE.source_id, *(other.source_id for other in others)}) == 6
    assert len(SOURCE.source_id) == 20
    assert int(SOURCE.source_id, 16) >= 0


def test_video_and_audio_hash_do_not_trade_places() -> None:
    swapped = dataclasses.replace(SOURCE, sha256="", audio_sha256="1" * 64)
    assert swapped.source_id != SOURCE.source_id


@pytest.mark.parametrize(
    ("change", "is_usable"), [({}, True), ({"reason": Reason.EMPTY}, False), ({"error": "OSError: I/O"}, False)]
)
def test_usable_is_what_nothing_speaks_against(change: dict, is_usable: bool) -> None:
    assert dataclasses.replace(SOURCE, **change).is_usable is is_usable


def test_a_shard_is_its_list_of_sources_in_order() -> None:
    shard = Shard.of(("a", "b"), 1.5)
    assert shard == Shard.of(("a", "b"), 1.5)
    assert shard.shard_id == Shard.of(("a", "b"), 9.0).shard_id
    assert len({shard.shard_id, Shard.of(("b", "a")).shard_id, Shard.of(("ab",)).shard_id, Shard.of(()).shard_id}) == 4
    assert len(shard.shard_id) == 12


def test_a_member_outlives_the_file() -> None:
    assert SOURCE.member() == Member(SOURCE.source_id, "raw", "M1")


@pytest.mark.parametrize(
    "record",
    [SOURCE, Shard.of(("a",)), SOURCE.member(), StepResult("cut", "s", ("a",), "k", "d", 1, 1, 0.5, True, {"a": "e"})],
)
def test_records_travel(record: object) -> None:
    assert pickle.loads(pickle.dumps(record)) == record
    assert json.loads(json.dumps(dataclasses.asdict(record)))  # type: ignore[call-overload]
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(record, dataclasses.fields(record)[0].name, "other")  # type: ignore[arg-type]


def test_stored_words_never_change() -> None:
    """They stand in every published snapshot."""
    assert [state.value for state in State] == ["done", "rejected", "failed", "duplicate_of"]
    assert all(reason.value == reason.name for reason in Reason)


def test_a_record_of_records_is_a_json_document() -> None:
    @dataclasses.dataclass(frozen=True)
    class Change:
        from_: tuple[int, ...]
        to: Span
        note: str | None

    document = as_json({"a": [Change((1, 2), Span(0.0, 1.0), None)]})
    # `box` defaults to None and is left out; `note` has no default and stays.
    assert document == {"a": [{"from": [1, 2], "to": {"start_s": 0.0, "end_s": 1.0}, "note": None}]}
    assert as_json(Takedown(sha256="", source_ids=("0" * 20,), path="p", reason="r", taken_at="t")) == {
        "sha256": "", "source_ids": ["0" * 20], "path": "p", "reason": "r", "taken_at": "t", "who": "",
    }  # fmt: skip
