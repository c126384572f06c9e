"""Export: a snapshot in the format of another system; the store is only read.

An export is written beside its place and gets its name at the end: an interrupted one is not mistaken for a whole one.
Every kept clip is either in the export or in its excluded.json with the reason.
"""

from tasks.export.edtalk import export_edtalk
from tasks.export.emogene import export_emogene
from tasks.export.output import ExportSummary
from tasks.export.webdataset import export_webdataset

__all__ = ["ExportSummary", "export_edtalk", "export_emogene", "export_webdataset"]
