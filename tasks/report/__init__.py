"""Report: what a person reads of a snapshot, one self-contained HTML page and one dataset card."""

from tasks.report.page import ReportFiles, write_report

__all__ = ["ReportFiles", "write_report"]
