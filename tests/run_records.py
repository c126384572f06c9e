"""Records of training runs without any training: each with a model file of a few bytes, saved as a real run saves it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from storage.keys import sha256_hex
from storage.runs import Checkpoint, Continuation, Parent, RunKey, RunRecord, Session, save_run
from storage.snapshot import Snapshot
from storage.store_layout import run_folder


def finished_run(
    snapshot: Snapshot,
    stage: str,
    parents: Mapping[str, RunRecord] | None = None,
    continued_from: RunRecord | None = None,
    weights: Mapping[str, str] | None = None,
    published: Mapping[str, tuple[str, str]] | None = None,
    **config: Any,
) -> RunRecord:
    """A finished run of `stage` on `snapshot`, saved in its store; its snapshot is pinned.

    Args:
        snapshot: whose ancestors must all exist, as when a run starts.
        stage: any name; the system is 'edtalk'.
        parents: stage -> run whose model it starts from.
        continued_from: run whose state it goes on from.
        weights: see RunKey.
        published: stage -> (entry, sha256) of weights that stand in for a run of it.
        config: hyper-parameters, to tell runs of one stage apart.
    """
    start = continued_from and Continuation(
        run=continued_from.id, snapshot=continued_from.key.snapshot, sha256=continued_from.model().sha256, step=10
    )
    key = RunKey(
        system="edtalk", stage=stage, stage_version=1, snapshot=snapshot.id, config=config, continued_from=start,
        parents={name: Parent(run=run.id, sha256=run.model().sha256) for name, run in (parents or {}).items()},
        weights=dict(weights or {}) | dict((published or {}).values()),
        published={name: entry for name, (entry, _) in (published or {}).items()},
    )  # fmt: skip
    content = f"weights of {key.run_id()}".encode()
    record = RunRecord(
        id=key.run_id(), key=key, preset="smoke", dataset=snapshot.body.dataset, snapshot_number=snapshot.body.number,
        ancestors=_ancestors(snapshot), code_version="0", packages_sha256=sha256_hex(b""), seed=1, state="done",
        sessions=(Session(started_at=f"2026-01-01T00:00:{_count(snapshot.store):02d}", first_step=0, hardware={}),),
        checkpoints=(
            Checkpoint(file="checkpoints/model-00000010.safetensors", kind="model", step=10,
                       sha256=sha256_hex(content), num_bytes=len(content)),
        ),
    )  # fmt: skip
    save_run(snapshot.store, record)
    model = run_folder(snapshot.store, record.id) / record.model().file
    model.parent.mkdir()
    model.write_bytes(content)
    return record


def _ancestors(snapshot: Snapshot) -> tuple[str, ...]:
    numbers = range(snapshot.body.number - 1, 0, -1)
    return tuple(Snapshot.open(snapshot.store, number).id for number in numbers)


def _count(store: Path) -> int:
    return len(list((store / "runs").glob("*")))
