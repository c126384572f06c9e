"""The page: everything about a snapshot in one HTML file without a single request, and the card beside it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storage.files import make_dir, replace_durable
from storage.snapshot import Snapshot
from tasks.report.accounts import accounts_of
from tasks.report.card import card_text
from tasks.report.changes import changes_of
from tasks.report.contact_sheet import contact_sheet
from tasks.report.groups import group_tables
from tasks.report.histograms import histograms
from tasks.report.settings import flat
from tasks.report.speech import speech_pictures
from tasks.report.stored import stored_facts
from tasks.report.templating import html_environment
from tasks.report.troubles import troubles_of


@dataclass(frozen=True, slots=True)
class ReportFiles:
    """Where the report lies.

    Attributes:
        page: index.html.
        card: README.md, a Hugging Face style dataset card.
    """

    page: Path
    card: Path


def write_report(snapshot: Snapshot, out: Path) -> ReportFiles:
    """Writes index.html and README.md of a snapshot into `out`; what lies there is replaced.

    Pictures are read of at most `contact_sheet.NUM_KEPT + NUM_DROPPED` clips, whatever the size of the snapshot.

    Raises:
        StoreCorrupt: an object of the snapshot is missing or damaged.
    """
    make_dir(out)
    facts = stored_facts(snapshot)
    files = ReportFiles(out / "index.html", out / "README.md")
    page = html_environment().get_template("report.html").render(_context(snapshot), stored=facts)
    replace_durable(files.page, page.encode())
    replace_durable(files.card, card_text(snapshot, facts).encode())
    return files


def _context(snapshot: Snapshot) -> dict[str, Any]:
    body = snapshot.body
    return {
        "snapshot": snapshot,
        "body": body,
        "accounts": accounts_of(snapshot),
        "changes": changes_of(snapshot),
        "groups": group_tables(snapshot),
        "histograms": histograms(snapshot),
        "sheet": contact_sheet(snapshot),
        "speech": speech_pictures(snapshot),
        "troubles": troubles_of(snapshot),
        "settings": flat(body.config),
    }
