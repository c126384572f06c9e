"""Where the report of a snapshot lies, and at which address a browser finds it."""

import os
from pathlib import Path

from storage.snapshot import Snapshot

# `talkset serve` sets it to the address under which it shows the reports of the stores it knows.
REPORTS_URL = "TALKSET_REPORTS_URL"


def report_folder(store: Path, number: int) -> Path:
    """Folder of a snapshot's report and card."""
    return store / "reports" / f"{number:06d}"


def report_url(snapshot: Snapshot) -> str:
    """Address of the HTML page: of the report server where one runs, else of the file."""
    page = report_folder(snapshot.store, snapshot.body.number) / "index.html"
    base = os.environ.get(REPORTS_URL)
    return f"{base}/{snapshot.store.name}/{page.parent.name}/index.html" if base else page.absolute().as_uri()
