"""Where everything lies inside a store.

    <store>/store.json                    which dataset the store holds
    <store>/objects/ab/<key>/             committed objects, see storage.objects; "ab" are the first digits of the key
    <store>/staging/                      objects in the making
    <store>/snapshots/000042.json         published snapshots, see storage.snapshot
    <store>/reports/000042/               HTML report and dataset card of a snapshot
    <store>/runs/<run id>/                training runs, see storage.runs
    <store>/pins/<run id>                 id of a snapshot that gc keeps
    <store>/takedowns.json                withdrawn sources, see storage.takedowns; takedowns.lock beside it
    <store>/state/files.json              hashes of raw files, see storage.hash_cache
    <store>/state/last.json               fingerprint of the last complete refresh
    <store>/state/prefect/                database and logs of a Prefect server that serves this store alone
    <store>/writer.lock, writer.json      the writer lock and its holder, see storage.lock

Everything is given relative to the folder of the store; nothing here touches the disk.
"""

from pathlib import Path

STORE_FILE = "store.json"


def store_file(store: Path) -> Path:
    """JSON file that makes a folder a store and names its dataset."""
    return store / STORE_FILE


def objects_folder(store: Path) -> Path:
    """Folder of the committed objects, in sub-folders named after the first two digits of their keys."""
    return store / "objects"


def object_folder(store: Path, key: str) -> Path:
    """Folder of one object, whether it exists or not; key: 64 hex digits."""
    return objects_folder(store) / key[:2] / key


def staging_folder(store: Path) -> Path:
    """Folder of objects in the making; it is swept at the start of a refresh."""
    return store / "staging"


def snapshot_digits(number: int) -> str:
    """A snapshot's number as file names spell it: six digits."""
    return f"{number:06d}"


def snapshots_folder(store: Path) -> Path:
    """Folder of the published snapshots."""
    return store / "snapshots"


def snapshot_file(store: Path, number: int) -> Path:
    """File of one snapshot."""
    return snapshots_folder(store) / f"{snapshot_digits(number)}.json"


def report_folder(store: Path, number: int) -> Path:
    """Folder of a snapshot's report and card."""
    return store / "reports" / snapshot_digits(number)


def runs_folder(store: Path) -> Path:
    """Folder of the training runs."""
    return store / "runs"


def run_folder(store: Path, run_id: str) -> Path:
    """Folder of one training run, which may not exist."""
    return runs_folder(store) / run_id


def pins_folder(store: Path) -> Path:
    """Folder of the pins: each file holds the id of a snapshot that gc keeps."""
    return store / "pins"


def pin_file(store: Path, name: str) -> Path:
    """One pin; runs pin the snapshot they train on under their id."""
    return pins_folder(store) / name


def takedowns_file(store: Path) -> Path:
    """JSON list of withdrawn sources."""
    return store / "takedowns.json"


def takedowns_lock(store: Path) -> Path:
    """Lock file of the list of withdrawn sources."""
    return store / "takedowns.lock"


def writer_lock_file(store: Path) -> Path:
    """Lock file of the one writer."""
    return store / "writer.lock"


def writer_file(store: Path) -> Path:
    """JSON file that says who holds the writer lock."""
    return store / "writer.json"


def hash_cache_file(store: Path) -> Path:
    """JSON file with the known hashes of raw files."""
    return store / "state" / "files.json"


def last_refresh_file(store: Path) -> Path:
    """JSON file with the fingerprint of the last complete refresh."""
    return store / "state" / "last.json"


def prefect_folder(store: Path) -> Path:
    """Home of the Prefect server that a refresh starts where none is running."""
    return store / "state" / "prefect"
