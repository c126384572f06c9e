"""The `talkset` command. Exit codes: 0 done, 1 failed, 2 usage, 3 partial, 4 locked; 130 and 143 when interrupted."""

import json
import os
import signal
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from storage.errors import ConfigError, LockedError, TalksetError
from storage.snapshot import store_dataset

EXIT_DONE, EXIT_FAILED, EXIT_USAGE, EXIT_PARTIAL, EXIT_LOCKED = range(5)

# An interrupted command has this long to stop its workers and its server; what it could not stop dies with it.
_GRACE_S = 8.0

app = typer.Typer(
    help="Raw talking-head videos to versioned, train-ready datasets.", no_args_is_help=True, add_completion=False,
    pretty_exceptions_enable=False,
)  # fmt: skip
export_app = typer.Typer(help="Write a snapshot in another system's format.", no_args_is_help=True)
app.add_typer(export_app, name="export")

DatasetArg = Annotated[str, typer.Argument(help="Block of datasets.yaml.")]
StoreOption = Annotated[
    Path | None, typer.Option("--store", help="Folder of the store. [default: $TALKSET_STORE or stores/DATASET]")
]
SnapshotOption = Annotated[str, typer.Option("--snapshot", help="latest, a number, or the first digits of an id.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
CatalogOption = Annotated[Path | None, typer.Option("--catalog", help="Another datasets.yaml.")]


def main() -> None:
    """Entry point: runs the command and turns errors into one line and an exit code."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    try:
        app(standalone_mode=True)
    except LockedError as error:
        _fail(error, EXIT_LOCKED)
    except ConfigError as error:
        _fail(error, EXIT_USAGE)
    except TalksetError as error:
        _fail(error, EXIT_FAILED)
    except _Stopped as stopped:
        print("talkset: interrupted; run the same command again to go on", file=sys.stderr)
        sys.exit(stopped.code)


class _Stopped(BaseException):
    """SIGINT or SIGTERM arrived. No KeyboardInterrupt, which typer and prefect answer in ways of their own.

    Attributes:
        code: of the exit, 128 + the signal's number.
    """

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def _stop(number: int, frame: FrameType | None) -> None:
    """Unwinds the command from wherever it is, once; a second signal ends it at once."""
    for again in (signal.SIGINT, signal.SIGTERM):
        signal.signal(again, signal.SIG_DFL)
    last_resort = threading.Timer(_GRACE_S, os._exit, (128 + number,))
    last_resort.daemon = True
    last_resort.start()
    raise _Stopped(128 + number)


@app.command()
def demo(
    root: Annotated[Path | None, typer.Option(help="Where to make it. [default: $TALKSET_DEMO or ./demo]")] = None,
    seed: Annotated[int, typer.Option(help="Another seed gives other motion.")] = 0,
) -> None:
    """Make demo data: a small MEAD tree and a small HDTF tree from two public-domain portraits, with known motion."""
    from flows.progress import Progress
    from tasks.demo import make_demo

    folder = root or Path(os.environ.get("TALKSET_DEMO", "demo"))
    progress = Progress()
    progress.start("demo", 0, "videos")
    make_demo(folder, seed=seed, progress=progress.set_total("demo"))
    progress.close()
    print(f"demo data in {folder}; next: talkset refresh demo")


@app.command()
def refresh(
    dataset: DatasetArg,
    store: StoreOption = None,
    catalog: CatalogOption = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Local processes. [default: one per core]")] = None,
    scheduler: Annotated[str | None, typer.Option(help="Address of a Dask scheduler instead.")] = None,
    limit: Annotated[int | None, typer.Option(min=0, help="At most this many new sources.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Only sources that failed before.")] = False,
    wait: Annotated[float, typer.Option(help="Seconds to wait for another writer.")] = 0.0,
    as_json: JsonOption = False,
) -> None:
    """Bring a dataset up to date with its raw files and publish a snapshot if anything changed."""
    from flows.run import dry_refresh, run_refresh

    if workers is not None and scheduler:
        raise ConfigError("--workers makes a local cluster, --scheduler uses another one: give one of them")
    options: dict[str, Any] = {
        "dataset": dataset, "store": _store(store, dataset), "catalog": catalog, "limit": limit,
        "retry_failed": retry_failed, "wait_s": wait, "is_quiet": as_json,
    }  # fmt: skip
    if dry_run:
        _print(dry_refresh(options), as_json, _show_dry_run)
        return
    began = time.monotonic()
    outcome = run_refresh(options, workers, scheduler)
    outcome["seconds"] = round(time.monotonic() - began, 2)
    _print(outcome, as_json, _show_outcome)
    if outcome["status"] == "partial":
        raise typer.Exit(EXIT_PARTIAL)


@app.command()
def status(store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Snapshots of a store, what the latest one holds, and whether somebody is writing."""
    from tasks.status import store_status

    _print(store_status(_existing(store)), as_json, _show_status)


@app.command()
def explain(
    name: Annotated[str, typer.Argument(help="Path, file name, clip name or id.")],
    store: StoreOption = None,
    snapshot: SnapshotOption = "latest",
    as_json: JsonOption = False,
) -> None:
    """Say what happened to a source or clip: state, reason, scores."""
    from storage.snapshot import Snapshot
    from tasks.explain import explain as explain_name

    _print(explain_name(Snapshot.open(_existing(store), snapshot), name), as_json, _show_explanation)


@app.command()
def verify(store: StoreOption = None, snapshot: SnapshotOption = "latest", as_json: JsonOption = False) -> None:
    """Read every byte of a snapshot: digests of all objects, LMDB keys = Parquet rows = manifest."""
    from flows.progress import Progress
    from storage.snapshot import Snapshot
    from tasks.verify import verify_snapshot

    found = Snapshot.open(_existing(store), snapshot)
    progress = Progress(as_json)
    progress.start("verify", len(found.body.shards), "shards")
    problems = verify_snapshot(found, lambda: progress.add("verify"))
    progress.close()
    answer = {"snapshot": found.body.number, "id": found.id, "is_whole": not problems, "problems": problems}
    _print(answer, as_json, _show_verification)
    if problems:
        raise typer.Exit(EXIT_FAILED)


@app.command()
def diff(
    old: Annotated[str, typer.Argument(help="Snapshot A.")],
    new: Annotated[str, typer.Argument(help="Snapshot B.")] = "latest",
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """What changed from snapshot A to snapshot B: sources, clips, settings."""
    from storage.snapshot import Snapshot
    from tasks.diff import diff_snapshots

    folder = _existing(store)
    _print(diff_snapshots(Snapshot.open(folder, old), Snapshot.open(folder, new)), as_json, _show_tree)


@app.command()
def report(
    store: StoreOption = None,
    snapshot: SnapshotOption = "latest",
    out: Annotated[Path | None, typer.Option(help="Folder. [default: reports/<number> in the store]")] = None,
    as_json: JsonOption = False,
) -> None:
    """Write the HTML report and the dataset card of a snapshot."""
    from storage.snapshot import Snapshot
    from tasks.report import write_report

    found = Snapshot.open(_existing(store), snapshot)
    folder = out or found.store / "reports" / f"{found.body.number:06d}"
    write_report(found, folder)
    _print({"report": str(folder / "index.html"), "card": str(folder / "README.md")}, as_json, _show_tree)


@app.command()
def gc(
    store: StoreOption = None,
    keep: Annotated[int, typer.Option(min=1, help="Newest snapshots to keep.")] = 10,
    grace_hours: Annotated[float, typer.Option(min=0, help="Younger objects stay.")] = 24.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove objects that no kept snapshot needs."""
    from storage.lock import writer_lock
    from tasks.collect import find_garbage, remove_garbage

    folder = _existing(store)
    with writer_lock(folder):
        garbage = find_garbage(folder, keep, grace_hours)
        if not dry_run:
            remove_garbage(folder, garbage)
    answer = {"removed": not dry_run, "objects": len(garbage.keys), "bytes": garbage.num_bytes,
              "too_young": garbage.num_young, "snapshots": list(garbage.snapshots)}  # fmt: skip
    _print(answer, as_json, _show_tree)


@export_app.command("edtalk")
def export_edtalk(
    out: Annotated[Path, typer.Argument(help="New folder.")], store: StoreOption = None,
    snapshot: SnapshotOption = "latest", as_json: JsonOption = False,
) -> None:  # fmt: skip
    """The tree, LMDB and list files that EDTalk's own training scripts read."""
    _export("edtalk", out, store, snapshot, as_json)


@export_app.command("emogene")
def export_emogene(
    out: Annotated[Path, typer.Argument(help="New folder.")], store: StoreOption = None,
    snapshot: SnapshotOption = "latest", as_json: JsonOption = False,
) -> None:  # fmt: skip
    """One folder of arrays per clip, as the GeneFace line lays them out."""
    _export("emogene", out, store, snapshot, as_json)


@export_app.command("webdataset")
def export_webdataset(
    out: Annotated[Path, typer.Argument(help="New folder.")], store: StoreOption = None,
    snapshot: SnapshotOption = "latest", as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Tar shards of samples for streaming loaders."""
    _export("webdataset", out, store, snapshot, as_json)


def _export(kind: str, out: Path, store: Path | None, snapshot: str, as_json: bool) -> None:
    from flows.progress import Progress
    from storage.snapshot import Snapshot
    from tasks import export

    found = Snapshot.open(_existing(store), snapshot)
    progress = Progress(as_json)
    progress.start("export", len(found.clips()), "clips")
    exporter = {
        "edtalk": export.export_edtalk,
        "emogene": export.export_emogene,
        "webdataset": export.export_webdataset,
    }
    summary = exporter[kind](found, out, lambda: progress.add("export"))
    progress.close()
    _print({"out": str(out), **asdict(summary)}, as_json, _show_tree)


# ---- stores


def _store(given: Path | None, dataset: str) -> Path:
    """The store of a dataset that may not exist yet."""
    named = os.environ.get("TALKSET_STORE")
    return (given or (Path(named) if named else Path("stores") / dataset)).absolute()


def _existing(given: Path | None) -> Path:
    """The store that is meant: given, $TALKSET_STORE, the working folder, or the only one in stores/."""
    named = os.environ.get("TALKSET_STORE")
    if given or named:
        folder = Path(given or str(named)).absolute()
        store_dataset(folder)
        return folder
    if Path("store.json").is_file():
        return Path.cwd()
    found = sorted(path.parent for path in Path("stores").glob("*/store.json"))
    if len(found) == 1:
        return found[0].absolute()
    names = ", ".join(str(path) for path in found) or "none in stores/"
    raise ConfigError(f"which store? pass --store or set TALKSET_STORE (found: {names})")


# ---- printing


def _print(answer: dict[str, Any], as_json: bool, show: Any) -> None:
    if as_json:
        print(json.dumps(answer, indent=1, ensure_ascii=False, default=str))
    else:
        show(answer)


def _show_tree(value: Any, indent: str = "") -> None:
    for key, inner in value.items():
        if isinstance(inner, dict) and inner:
            print(f"{indent}{key}:")
            _show_tree(inner, indent + "  ")
        elif isinstance(inner, list):
            print(f"{indent}{key}: {len(inner)}")
            for item in inner[:50]:
                print(f"{indent}  {item}")
        else:
            print(f"{indent}{key}: {inner}")


def _show_outcome(outcome: dict[str, Any]) -> None:
    counts = outcome["counts"]
    sources = ", ".join(f"{n} {state}" for state, n in counts["sources"].items() if n and state != "total")
    print(
        f"{outcome['status']}: snapshot {outcome['number']} ({outcome['id'][:12]}) of {outcome['dataset']}: "
        f"{counts['clips']['kept']} of {counts['clips']['expected']} clips, {counts['hours_kept'] * 60:.1f} min, "
        f"{counts['subjects']} subjects; {counts['sources']['total']} sources: {sources}; {outcome['seconds']} s"
    )
    for name, why in outcome["skipped_features"].items():
        print(f"without {name}: {why}")
    for source, error in outcome["failed"].items():
        print(f"failed {source}: {error}; see `talkset explain {source}`")
    number = f"{outcome['number']:06d}"
    print(f"report: {Path(outcome['store']) / 'reports' / number / 'index.html'}")


def _show_dry_run(answer: dict[str, Any]) -> None:
    print(
        f"{answer['sources']} sources ({answer['unusable']} unusable, {answer['duplicates']} duplicates) in "
        f"{answer['shards']} shards; to do: {answer['cuts']} cuts ({answer['minutes']:.1f} min of video), "
        f"{answer['tables']} feature tables"
    )
    for name, why in answer["skipped_features"].items():
        print(f"without {name}: {why}")


def _show_status(answer: dict[str, Any]) -> None:
    size = f"{answer['bytes'] / 2**20:.1f} MiB in {answer['objects']} objects"
    print(f"{answer['store']}: dataset {answer['dataset']}, {size}")
    print(f"writer: {answer['writer'] or 'nobody'}")
    for line in answer["snapshots"]:
        held = f"{line['kept']} clips, {line['hours']:.3f} h"
        print(f"  {line['number']:6d}  {line['id'][:12]}  {line['created_at']}  {held}")


def _show_explanation(answer: dict[str, Any]) -> None:
    for source in answer["sources"]:
        reason = f" {source['reason']}" if source["reason"] else ""
        detail = f": {source['detail']}" if source["detail"] else ""
        print(f"{source['path']}  {source['state']}{reason}{detail}")
        picture = f"{source['codec']} {source['width_px']}x{source['height_px']} {source['avg_fps']:.3g} fps"
        print(f"  {picture}, subject {source['subject']}, id {source['source_id']}")
        for clip in source["clips"]:
            _show_clip(clip)


def _show_clip(clip: dict[str, Any]) -> None:
    outcome = "kept" if clip["is_kept"] else f"dropped {clip['reason']}: {clip['detail']}"
    place = f"{clip['num_frames']} frames from {clip['start_s']:.2f} s, {clip['split']}"
    print(f"  {clip['name']}  {place}: {outcome}")
    scores = ", ".join(f"{name} {value:.4g}" for name, value in clip["scores"].items() if value == value)
    if scores:
        print(f"    {scores}")


def _show_verification(answer: dict[str, Any]) -> None:
    for problem in answer["problems"]:
        print(f"  {problem}")
    state = "whole" if answer["is_whole"] else f"{len(answer['problems'])} problems"
    print(f"snapshot {answer['snapshot']} ({answer['id'][:12]}): {state}")


def _fail(error: TalksetError, code: int) -> None:
    print(f"talkset: {error}", file=sys.stderr)
    sys.exit(code)
