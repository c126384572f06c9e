"""The stores of this machine, and which of them holds a snapshot: training names data by id, never by path.

$TALKSET_STORES is a list of folders, separated as in PATH; each is a store or holds stores. Default: ./stores.
"""

import os
from pathlib import Path

from storage.errors import ConfigError
from storage.snapshot import Snapshot, latest, snapshot_numbers, store_dataset
from storage.store_layout import STORE_FILE, report_folder, store_file

STORES = "TALKSET_STORES"
# Address under which the reports of these stores are shown; `talkset serve` sets it.
REPORTS_URL = "TALKSET_REPORTS_URL"
_MIN_DIGITS = 6


def default_store(dataset: str) -> Path:
    """Where a dataset's store lies unless something else is said: in the first folder of $TALKSET_STORES."""
    return (_folders()[0] / dataset).absolute()


def known_stores() -> list[Path]:
    """Every store in $TALKSET_STORES."""
    files = [file for folder in _folders() for file in (store_file(folder), *sorted(folder.glob(f"*/{STORE_FILE}")))]
    return list(dict.fromkeys(file.parent.absolute() for file in files if file.is_file()))


def find_snapshot(which: str) -> Snapshot:
    """The snapshot of this id, in whichever store it lies.

    Args:
        which: an id or its first digits (6 or more), `DATASET` or `DATASET@latest`, or `DATASET@NUMBER`.

    Raises:
        ConfigError: there is none, or the digits fit several; what there is is named.
    """
    stores = known_stores()
    dataset, _, number = which.partition("@")
    named = [store for store in stores if store_dataset(store) == dataset]
    if named:
        return Snapshot.open(named[0], number or "latest")
    found = [hit for store in stores if (hit := _by_id(store, which))]
    if len(found) == 1:
        return found[0]
    have = ", ".join(f"{store_dataset(store)} in {store}" for store in stores) or "no store"
    why = f"fits {len(found)} snapshots" if found else "is in no known store"
    raise ConfigError(f"snapshot {which!r} {why}; ${STORES} names {have}")


def is_known(snapshot: Snapshot) -> bool:
    """Whether another process with this environment would find the snapshot by its id."""
    return snapshot.store.absolute() in known_stores()


def report_url(snapshot: Snapshot) -> str:
    """Address of a snapshot's HTML report: on the report server where one runs, else of the file."""
    page = report_folder(snapshot.store, snapshot.body.number) / "index.html"
    base = os.environ.get(REPORTS_URL)
    return f"{base}/{snapshot.store.name}/{page.parent.name}/index.html" if base else page.absolute().as_uri()


def _by_id(store: Path, digits: str) -> Snapshot | None:
    if len(digits) < _MIN_DIGITS:
        return None
    newest = latest(store)
    if newest and newest.id.startswith(digits):
        return newest
    older = (Snapshot.open(store, number) for number in reversed(snapshot_numbers(store)[:-1]))
    return next((snapshot for snapshot in older if snapshot.id.startswith(digits)), None)


def _folders() -> list[Path]:
    named = [Path(part) for part in os.environ.get(STORES, "").split(os.pathsep) if part]
    return named or [Path("stores")]
