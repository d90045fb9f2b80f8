"""`hklflow view`: look into the results in a browser, also over ssh."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def view(
    directory: Path = Path(),
    /,
    *,
    port: int = 0,
    browser: Annotated[bool, Parameter(negative="--no-browser")] = True,
) -> None:
    """Show volumes, detector frames and peaks in a browser; end with Ctrl-C.

    The address is printed. It is valid on this computer only, and has a random token: whoever
    knows the whole address can read the results until the command ends. Nothing is changed.

    Example: `hklflow view`; on a cluster `hklflow view --port 8123 --no-browser`, and on your own
    computer `ssh -L 8123:localhost:8123 CLUSTER`

    Parameters
    ----------
    directory
        Folder of the experiment.
    port
        Port on this computer. Default: any free one.
    browser
        Open the page in the browser of this computer. Default: yes, but not within ssh.
    """
    import os
    import socket
    import webbrowser

    from hklflow.view.server import Server, library

    with Server(directory, library(), port) as server:
        print(f"{server.url}\nOpen this address in a browser. Ctrl-C ends the viewer.", flush=True)
        if "SSH_CONNECTION" in os.environ:
            port = server.server_port
            print(
                f"On your own computer run first: ssh -L {port}:localhost:{port} "
                f"{socket.gethostname()}",
                flush=True,
            )
        elif browser:
            webbrowser.open(server.url)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("\nThe viewer has ended.")
