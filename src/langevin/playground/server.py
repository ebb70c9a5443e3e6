"""Serving the playground: a port of this machine, a browser that opens, an end on Ctrl-C."""

from __future__ import annotations

import contextlib
import socket
import threading
import webbrowser
from collections.abc import Sequence

import uvicorn

from .._errors import UserError
from .app import LARGEST, LOCAL, create_app

PORT = 7878
"""The first port that is tried."""

TRIED = 20
"""Ports that are tried, from ``PORT`` on, where none is asked for."""


def listen(host: str, port: int | None) -> socket.socket:
    """A listening socket: at the port that is asked for, or the first free one.

    Raises:
        UserError: if it is taken, or not ours to take.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for candidate in [port] if port is not None else range(PORT, PORT + TRIED):
        made = socket.socket(family, socket.SOCK_STREAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            made.bind((host, candidate))
            made.listen(128)
            return made
        except OSError as error:
            made.close()
            if port is not None:
                raise UserError(f"port {port} of {host} cannot be had: {error.strerror}; choose another") from None
    raise UserError(f"port: none of {PORT}…{PORT + TRIED - 1} of {host} is free; name one")


def serve(
    models: Sequence[str] = (), *, host: str = "127.0.0.1", port: int | None = None, browser: bool = True
) -> None:
    """Serve the playground until it is interrupted.

    Args:
        models: model directories, names of ``langevin models`` or of the Hub.
        host: the address to listen on; anything but the loopback is reachable by others, who may then use the models.
        port: 0 for any free one; the first free one from 7878 on if not given.
        browser: open the page.
    """
    from ..adapters import loading

    loaded = [(name, loading.load_denoiser(name)) for name in models]
    local = host in ("127.0.0.1", "localhost", "::1")
    with contextlib.closing(listen(host, port)) as listening:
        shown = f"[{host}]" if ":" in host else host
        url = f"http://{shown}:{listening.getsockname()[1]}/"
        app = create_app(loaded, hosts=LOCAL if local else ["*"])
        config = uvicorn.Config(app, log_level="warning", ws="websockets-sansio", ws_max_size=LARGEST, lifespan="on")
        server = uvicorn.Server(config)
        print(f"The playground is at {url} (Ctrl-C ends it).", flush=True)
        if not local:
            print(f"It listens on {host}: others on this network can use it.", flush=True)
        if browser:
            threading.Timer(0.5, webbrowser.open, [url]).start()
        server.run(sockets=[listening])
