"""The viewer: its numbers are the interface's, and it serves nobody and nothing else."""

import gzip
import http.client
import json
import re
import shutil
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hklflow
from hklflow.base.errors import HklflowError
from hklflow.cli import main
from hklflow.view import answers, server
from tests.cli.volumes import bright
from tests.view.world import LIBRARY, ask, key, request


def same(found: dict[str, Any], cut: Any) -> None:
    """All numbers of a cut are in an answer, bit for bit."""
    for name, values in {**cut.data_vars, **cut.coords}.items():
        if name in found:
            np.testing.assert_array_equal(found[name].astype(np.float64), values.values)
    assert set(cut.data_vars) <= found.keys()


def test_the_list_has_the_volumes_of_the_scans_only(viewer: server.Server) -> None:
    code, found = ask(viewer, "list")
    assert code == 200
    names = [(v["scan"], v["temperature"], v["name"]) for v in found["volumes"]]
    assert names == [
        ("100K", 100.0, "transform.nxs"),
        ("300K", 300.0, "delta_pdf_transform.nxs"),
        ("300K", 300.0, "transform.nxs"),
        ("300K", 300.0, "r1/transform.nxs"),
    ]
    assert str(viewer.catalogue.folder) not in json.dumps(found)


@pytest.mark.parametrize("text", ["h k 0.3", "h 0 l", "h+0.2 h-0.2 l"])
def test_planes_are_those_of_the_interface(viewer: server.Server, folder: Path, text: str) -> None:
    volume = hklflow.open(folder / "out/hexa/300K/transform.nxs")
    for width in (0.0, 0.3):
        code, found = ask(
            viewer, "plane", id=key(viewer, "300K", "transform.nxs"), plane=text, width=width
        )
        assert code == 200
        cut = volume.plane(text, width)
        same(found, cut)
        assert found["estimand"] == cut.attrs["estimand"]
        assert "file" not in found


def test_lines_boxes_and_pairs_are_those_of_the_interface(
    viewer: server.Server, folder: Path
) -> None:
    volume = hklflow.open(folder / "out/hexa/100K/transform.nxs")
    this = key(viewer, "100K", "transform.nxs")
    _, found = ask(viewer, "line", id=this, start="-1,0,0", end="1, 1,0.5", width="0.4")
    same(found, volume.line((-1, 0, 0), (1, 1, 0.5), 0.4))
    assert np.isfinite(found["sigma"]).any()
    _, found = ask(viewer, "box", id=this, h="-0.5,0.5", k="0,1")
    same(found, volume.box(h=(-0.5, 0.5), k=(0, 1)))
    pairs = hklflow.open(folder / "out/hexa/300K/delta_pdf_transform.nxs")
    this = key(viewer, "300K", "delta_pdf_transform.nxs")
    _, found = ask(viewer, "plane", id=this, plane="x y 0.1")
    same(found, pairs.plane("x y 0.1"))
    assert ask(viewer, "volume", id=this)[1]["names"] == ["x", "y", "z"]


def test_nobody_without_the_token_is_served(viewer: server.Server) -> None:
    wrong = ("A" if viewer.token[0] != "A" else "B") + viewer.token[1:]
    for path in ("/", "/list", f"/{wrong}/list", f"/{viewer.token[:-1]}/list", "//", "/%C3%A9/"):
        code, body = request(viewer, path)
        assert code == 403, path
        assert viewer.token.encode() not in body
    assert viewer.server_address[0] == "127.0.0.1"


def test_names_of_other_hosts_are_refused(viewer: server.Server) -> None:
    path = f"/{viewer.token}/list"
    for host in (
        "evil.example",
        f"evil.example:{viewer.server_port}",
        "localhost.evil.example",
        "",
    ):
        assert request(viewer, path, Host=host)[0] == 403, host
    for host in ("localhost:9999", "127.0.0.1", "LOCALHOST"):
        assert request(viewer, path, Host=host)[0] == 200, host


@pytest.mark.parametrize(
    "first",
    [
        "GET /list HTTP/1.0",  # without the name of a host
        "GET http://127.0.0.1/list HTTP/1.1\r\nHost: 127.0.0.1",
        "GET /TOKEN%2flist HTTP/1.1\r\nHost: 127.0.0.1",
        "GET /list?TOKEN/list HTTP/1.1\r\nHost: 127.0.0.1",
        "GET /x/../TOKEN/list HTTP/1.1\r\nHost: 127.0.0.1",
        "GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MTIzNDU2Nzg5MDEyMzQ1Ng==",
        "GET /TOKEN/list HTTP/1.1\r\nHost: 127.0.0.1@evil.example",
        "GET /TOKEN/list HTTP/1.1\r\nHost: 127.0.0.1.evil.example:80\r\nHost: 127.0.0.1",
        "GET /TOKEN/list HTTP/1.0",
    ],
)
def test_requests_that_browsers_do_not_send(viewer: server.Server, first: str) -> None:
    with socket.create_connection(("127.0.0.1", viewer.server_port), timeout=20) as connection:
        connection.sendall(f"{first.replace('TOKEN', viewer.token)}\r\n\r\n".encode())
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        assert answer.status == 403
        assert set(json.loads(answer.read())) == {"error"}


def test_a_websocket_is_never_opened(viewer: server.Server) -> None:
    headers = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    assert request(viewer, f"/{viewer.token}/list", **headers)[0] == 200


def test_a_folder_that_is_a_link_is_not_listed(viewer: server.Server, folder: Path) -> None:
    link = folder / "out/hexa/100K/r7"
    link.symlink_to(folder / "elsewhere")
    try:
        _, found = ask(viewer, "list")
        names = [(v["scan"], v["name"]) for v in found["rotations"]]
        assert names == [("100K", "r1"), ("300K", "r1")]
    finally:
        link.unlink()


def test_answers_are_compressed_for_browsers(viewer: server.Server) -> None:
    path = f"/{viewer.token}/frame?id={key(viewer, '300K', 'r1')}"
    code, packed = request(viewer, f"/{viewer.token}/plotly.min.js", **{"Accept-Encoding": "gzip"})
    assert (code, packed) == (200, LIBRARY)  # too small
    _, plain = request(viewer, path)
    _, packed = request(viewer, path, **{"Accept-Encoding": "gzip, br"})
    assert len(packed) < len(plain)
    assert gzip.decompress(packed) == plain


def test_the_server_only_reads(viewer: server.Server) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        assert request(viewer, f"/{viewer.token}/list", method)[0] == 501, method


def test_paths_lead_nowhere_else(viewer: server.Server, folder: Path) -> None:
    tricks = (
        "../secret.nxs",
        "..%2fsecret.nxs",
        "view.html/../../server.py",
        "/etc/passwd",
        "%2e%2e",
    )
    for trick in tricks:
        assert request(viewer, f"/{viewer.token}/{trick}")[0] == 404, trick
    for trick in (*tricks, str(folder / "secret.nxs"), "out/hexa/300K/transform.nxs"):
        code, found = ask(viewer, "plane", id=trick, plane="hk0")
        assert code == 422
        assert found["error"].startswith("this item is not in the list")


def test_the_page_and_its_library(viewer: server.Server) -> None:
    for place in ("", "frames", "lattice"):
        code, page = request(viewer, f"/{viewer.token}/{place}")
        assert code == 200
        assert b"http://" not in page
        assert b"https://" not in page
        files = set(re.findall(rb'(?:src|href)="([a-z]+(?:\.[a-z]+)*)"', page))
        assert {b"ask.js", b"view.css", b"frames", b"lattice"} <= files
        for name in files:
            assert request(viewer, f"/{viewer.token}/{name.decode()}")[0] == 200, name
    assert request(viewer, f"/{viewer.token}/plotly.min.js") == (200, LIBRARY)


@pytest.mark.parametrize(
    ("what", "query", "sentence"),
    [
        ("plane", {"plane": "hk9"}, "plane hk9 is outside"),
        ("plane", {"plane": "q" * 999}, "plane is missing, or longer"),
        ("plane", {"plane": "hk0", "width": "nan"}, "width: 'nan' is not a number"),
        ("line", {"start": "0,0", "end": "1,0,0", "width": "1"}, "start: '0,0' is not 3 numbers"),
        ("box", {"x": "0,1"}, "'x' is no axis"),
    ],
)
def test_what_cannot_be_cut_is_one_sentence(
    viewer: server.Server, what: str, query: dict[str, str], sentence: str
) -> None:
    code, found = ask(viewer, what, id=key(viewer, "300K", "transform.nxs"), **query)
    assert code == 422
    assert sentence in found["error"].replace("h k 9", "hk9")


def test_a_file_that_is_replaced_gives_one_of_its_states(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new file has another cell: an answer with the old axes and new numbers would be wrong."""
    path = folder / "out/hexa/300K/r1/transform.nxs"
    old = path.read_bytes()
    cell = np.array([5.0, 7.0, 6.0, 90.0, 112.0, 90.0])
    replaced = []
    catalogue = server.Catalogue(folder)
    (item,) = (i for i in catalogue.items() if i.name == "r1/transform.nxs")
    real = answers.open_product

    def replacing(product: Path) -> Any:
        volume = real(product)
        if len(replaced) < times:
            bright(tmp_path / "new.nxs", (0, 1, 0), cell)
            shutil.move(tmp_path / "new.nxs", path)
            replaced.append(path)
        return volume

    monkeypatch.setattr(answers, "open_product", replacing)
    try:
        times = 1
        body = answers.ANSWERS["plane"](catalogue, {"id": item.id, "plane": "h k 0"})
        head, _, _ = body.partition(b"\n")
        np.testing.assert_allclose(json.loads(head)["cell"], cell)
        times = 99
        with pytest.raises(HklflowError, match="is being replaced; try again"):
            answers.ANSWERS["plane"](catalogue, {"id": item.id, "plane": "h k 0"})
        times = 0
        path.write_bytes(old[: len(old) // 2])
        with pytest.raises(HklflowError, match=r"cannot be read|is not a readable HDF5"):
            answers.ANSWERS["plane"](catalogue, {"id": item.id, "plane": "h k 0"})
        path.unlink()
        with pytest.raises(HklflowError, match="does not exist"):
            answers.ANSWERS["plane"](catalogue, {"id": item.id, "plane": "h k 0"})
    finally:
        path.write_bytes(old)


def test_two_users_at_once(viewer: server.Server, folder: Path) -> None:
    scans = ["300K", "100K"] * 6
    keys = {scan: key(viewer, scan, "transform.nxs") for scan in set(scans)}
    with ThreadPoolExecutor(6) as users:
        found = list(users.map(lambda s: ask(viewer, "plane", id=keys[s], plane="h k 0"), scans))
    for scan, (code, answer) in zip(scans, found, strict=True):
        assert code == 200
        same(answer, hklflow.open(folder / f"out/hexa/{scan}/transform.nxs").plane("h k 0"))


def test_the_command_says_what_is_missing(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    viewer: server.Server,
) -> None:
    def refused(*arguments: str) -> str:
        with pytest.raises(SystemExit) as done:
            main(["view", *arguments, "--no-browser"])
        assert done.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install 'hklflow[view]'" in refused(str(folder))
    monkeypatch.setattr(server, "library", lambda: folder / "plotly.min.js")
    assert "no config/config.yaml" in refused(str(tmp_path))
    assert "give another --port" in refused(str(folder), "--port", str(viewer.server_port))
