"""Server of the viewer: for this computer only, for those who have the token, and read-only.

Login nodes are shared: the address is local, and each path begins with a random token. The name of
the host in a request must be a local one, so that no page of another site can reach the server by a
name that it lets point here (DNS rebinding). The port may be another one, as behind ``ssh -L``.
"""

import gzip
import json
import secrets
import threading
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from hklflow.base import system
from hklflow.base.errors import HklflowError
from hklflow.view import answers, frames
from hklflow.view.catalogue import Catalogue

ADDRESS = "127.0.0.1"
_HOSTS = ("127.0.0.1", "localhost", "[::1]")
_ANSWERS = answers.ANSWERS | frames.ANSWERS
_KINDS = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
_SCRIPTS = ("ask.js", "canvas.js", "draw.js", "frames.js", "lattice.js", "view.js")
_FILES = {
    name: (file, f"{_KINDS[file.rpartition('.')[2]]}; charset=utf-8")
    for name, file in {
        "": "view.html",
        "frames": "frames.html",
        "lattice": "lattice.html",
        "view.css": "view.css",
        **{name: name for name in _SCRIPTS},
    }.items()
}
_LIBRARY = "plotly.min.js"
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_AT_ONCE = 2  # cuts
_PACK = 20_000  # bytes of an answer from which it is compressed


class Server(ThreadingHTTPServer):
    """Server of one experiment.

    Parameters
    ----------
    folder : Path
        Folder of the experiment.
    library : Path
        plotly.js, see `library`.
    port : int
        0: any free port.

    Raises
    ------
    HklflowError
        If the folder is no experiment, or the port is not free.
    """

    daemon_threads = True

    def __init__(self, folder: Path, library: Path, port: int = 0) -> None:
        self.catalogue = Catalogue(folder)
        self.library = library
        self.token = secrets.token_urlsafe(24)
        self.turns = threading.BoundedSemaphore(_AT_ONCE)
        try:
            super().__init__((ADDRESS, port), _Handler)
        except (OSError, OverflowError) as error:
            raise HklflowError(
                f"port {port} cannot be used ({error}); give another --port, or none"
            ) from error

    @property
    def url(self) -> str:
        """Address of the page, with the token."""
        return f"http://{ADDRESS}:{self.server_port}/{self.token}/"

    @cached_property
    def script(self) -> bytes:
        """plotly.js."""
        return self.library.read_bytes()

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore a browser that has closed its connection."""


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "hklflow", ""
    timeout = 60

    def do_GET(self) -> None:
        host = self.headers.get("Host", "")
        name = host if host.endswith("]") else host.rpartition(":")[0] or host
        if name.lower() not in _HOSTS:
            return self._refuse(403, "open the address that `hklflow view` has printed")
        parts = urlsplit(self.path)
        _, _, rest = parts.path.partition("/")
        token, slash, what = rest.partition("/")
        if not secrets.compare_digest(token.encode(), self.server.token.encode()):
            return self._refuse(
                403, "open the address that `hklflow view` has printed, with its token"
            )
        if not slash:
            return self._refuse(404, "the address ends in /")
        if what in _FILES:
            file, kind = _FILES[what]
            found = resources.files("hklflow.view").joinpath("page", file).read_bytes()
            return self._send(200, kind, found)
        if what == _LIBRARY:
            return self._send(200, "text/javascript; charset=utf-8", self.server.script, keep=True)
        if what not in _ANSWERS:
            return self._refuse(404, "there is no such page")
        return self._answer(what, dict(parse_qsl(parts.query)))

    def _answer(self, what: str, query: dict[str, str]) -> None:
        try:
            with self.server.turns:
                found = _ANSWERS[what](self.server.catalogue, query)
        except HklflowError as error:
            return self._refuse(422, str(error))
        except Exception as error:  # noqa: BLE001  (the server goes on for the other users)
            message = system.sentence(error) or f"{type(error).__name__}: {error}"
            return self._refuse(500, f"this is a mistake of hklflow, report it: {message}")
        # Frames are mostly zeros: a tenth of the bytes, also through ssh. S is mostly noise.
        pack = what in frames.ANSWERS
        return self._send(200, "application/octet-stream", found, pack=pack)

    def _refuse(self, code: int, message: str) -> None:
        self._send(code, "application/json", json.dumps({"error": message}).encode())

    def _send(
        self, code: int, kind: str, body: bytes, *, keep: bool = False, pack: bool = True
    ) -> None:
        self.send_response(code)
        packed = {}
        if pack and len(body) > _PACK and "gzip" in self.headers.get("Accept-Encoding", ""):
            body, packed = gzip.compress(body, 1), {"Content-Encoding": "gzip"}
        headers = {
            "Content-Type": kind,
            **packed,
            "Content-Length": str(len(body)),
            "Cache-Control": "private, max-age=86400" if keep else "no-store",
            **_HEADERS,
        }
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Print nothing: the paths contain the token."""


def library() -> Path:
    """Return the file of plotly.js in the installed package; the package is not imported.

    Raises
    ------
    HklflowError
        If plotly is not installed.
    """
    from importlib.util import find_spec

    spec = find_spec("plotly")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / "package_data" / _LIBRARY
        if path.is_file():
            return path
    raise HklflowError("plotly is not installed; run `pip install 'hklflow[view]'`")
