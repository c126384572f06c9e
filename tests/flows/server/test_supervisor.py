"""What keeps `talkset serve` from starting; that it works is shown by test_deployments."""

import asyncio
import socket
from pathlib import Path

import httpx
import pytest

from flows.server import report_server, supervisor
from flows.server.prefect_server import free_port
from flows.server.supervisor import ServeOptions
from storage.errors import ConfigError, PreflightError
from storage.store_layout import report_folder
from storage.stores import STORES, report_url
from tests.synthetic_store import build_store


def test_other_hosts_need_a_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_SERVER_API_AUTH_STRING", raising=False)
    with pytest.raises(ConfigError, match="PREFECT_SERVER_API_AUTH_STRING"):
        supervisor.serve(ServeOptions(tmp_path / "home", tmp_path, host="0.0.0.0", port=free_port()))
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("offset", [0, 1])
def test_a_port_that_is_taken_is_named(tmp_path: Path, offset: int) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(PreflightError, match=f"port {port} is taken"):
            supervisor.serve(ServeOptions(tmp_path / "home", tmp_path, port=port - offset))


def test_report_pages_show_reports_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = build_store(tmp_path / "my store")
    monkeypatch.setenv(STORES, str(tmp_path))
    page = report_folder(snapshot.store, snapshot.body.number) / "index.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("<p>the report</p>")
    monkeypatch.setenv("TALKSET_REPORTS_URL", "http://testserver")
    assert _get(report_url(snapshot)).text == "<p>the report</p>"
    assert "/000001/index.html" in _get("/").text
    for path in (
        "/my store/store.json", "/my store/000002/index.html", "/%2e%2e/000001/index.html", "/other/000001/index.html",
    ):  # fmt: skip
        assert _get(path).status_code == 404


def _get(path: str) -> httpx.Response:
    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(report_server.make_app())
        async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
            return await client.get(path)

    return asyncio.run(ask())


def test_without_a_report_server_the_link_is_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TALKSET_REPORTS_URL", raising=False)
    snapshot = build_store(tmp_path)
    assert report_url(snapshot) == (report_folder(snapshot.store, 1) / "index.html").as_uri()
