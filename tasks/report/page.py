"""The page: everything about a snapshot in one HTML file without a single request, and the card beside it."""

from dataclasses import dataclass
from pathlib import Path

from storage.files import make_dir, replace_durable
from storage.snapshot import Snapshot
from tasks.report.accounts import accounts_of, issues_of
from tasks.report.card import card_text
from tasks.report.changes import changes_of, flat_settings
from tasks.report.contact_sheet import contact_sheet
from tasks.report.groups import group_tables
from tasks.report.histograms import histograms
from tasks.report.speech import speech_charts
from tasks.report.stored import stored_facts
from tasks.report.templating import environment


@dataclass(frozen=True, slots=True)
class ReportFiles:
    """The files of a report.

    Attributes:
        page: The page, index.html.
        card: The dataset card, README.md, in the style of the Hugging Face Hub.
    """

    page: Path
    card: Path


def write_report(snapshot: Snapshot, out: Path) -> ReportFiles:
    """Writes index.html and README.md of a snapshot into `out`; what lies there is replaced.

    Frames are read of at most `contact_sheet.NUM_KEPT + NUM_DROPPED` clips, whatever the size of the snapshot.

    Raises:
        StoreCorrupt: an object of the snapshot is missing or damaged.
    """
    make_dir(out)
    facts = stored_facts(snapshot)
    files = ReportFiles(out / "index.html", out / "README.md")
    page = (
        environment(is_html=True)
        .get_template("report.html")
        .render(
            snapshot=snapshot,
            body=snapshot.body,
            accounts=accounts_of(snapshot),
            changes=changes_of(snapshot),
            groups=group_tables(snapshot),
            histograms=histograms(snapshot),
            sheet=contact_sheet(snapshot),
            speech=speech_charts(snapshot),
            issues=issues_of(snapshot),
            settings=flat_settings(snapshot.body.config),
            stored=facts,
        )
    )
    replace_durable(files.page, page.encode())
    replace_durable(files.card, card_text(snapshot, facts, out).encode())
    return files
