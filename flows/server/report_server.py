"""The reports of every known store over HTTP, for the UI's links: python -m flows.server.report_server HOST PORT."""

import html
import sys

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from storage.snapshot import snapshot_numbers
from storage.store_layout import report_folder, snapshot_digits
from storage.stores import known_stores


def make_app() -> Starlette:
    """The app: / lists the reports, /STORE/NUMBER/index.html is one of them. Nothing else of a store can be reached."""
    return Starlette(
        routes=[
            Route("/health", lambda request: PlainTextResponse("ok")),
            Route("/", list_reports),
            Route("/{store}/{number:int}/index.html", send_report),
        ]
    )


def list_reports(request: Request) -> Response:
    """A page with a link to every report, newest first in each store."""
    found = [
        (html.escape(store.name), number)
        for store in known_stores()
        for number in reversed(snapshot_numbers(store))
        if (report_folder(store, number) / "index.html").is_file()
    ]
    lines = "".join(
        f"<li><a href='/{name}/{snapshot_digits(number)}/index.html'>{name} {number}</a></li>" for name, number in found
    )
    return HTMLResponse(f"<!doctype html><title>Reports</title><h1>Reports</h1><ul>{lines}</ul>")


def send_report(request: Request) -> Response:
    """The HTML page of one snapshot, or 404."""
    name, number = request.path_params["store"], request.path_params["number"]
    pages = [report_folder(store, number) / "index.html" for store in known_stores() if store.name == name]
    found = next((page for page in pages if page.is_file()), None)
    return FileResponse(found) if found else PlainTextResponse("no such report", status_code=404)


def main() -> None:
    """Serves on the host and port given as arguments."""
    import uvicorn

    host, port = sys.argv[1], int(sys.argv[2])
    uvicorn.run(make_app(), host=host, port=port, log_level="warning")


if __name__ == "__main__":
    main()
