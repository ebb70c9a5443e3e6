"""The web application: one page, its files, and a socket on which it asks for work.

Starlette, since the page needs routes, files and a socket and nothing else. Frameworks that bring widgets of their own
(Gradio, Streamlit, Panel) fetch fonts and scripts from other machines, send telemetry unless told not to, and have no
canvas on which particles move or a mask is drawn with a keyboard.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket, WebSocketDisconnect

from .._version import __version__
from . import train, worlds
from .codes import Codes
from .compare import Comparisons
from .generate import Models
from .jobs import Desk, Message, Work
from .messages import families
from .restore import Restorations

if TYPE_CHECKING:
    from ..denoisers import NetworkDenoiser

STATIC = Path(__file__).parent / "static"

POLICY = "default-src 'self'; img-src 'self' data: blob:; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'"
"""What the page may load and speak to: this server alone."""

LARGEST = 64 * 2**20
"""Bytes of a message at most."""

LOCAL = ("127.0.0.1", "localhost", "[::1]", "testserver")
"""Names under which this machine calls itself: a page of another name that leads here is refused."""


def create_app(models: Sequence[tuple[str, NetworkDenoiser]] = (), *, hosts: Sequence[str] = LOCAL) -> Starlette:
    """The playground as an ASGI application.

    Args:
        models: what they are called, and themselves, as ``langevin.load`` gives them.
        hosts: names that requests may be addressed to; ``["*"]`` for any, where a reverse proxy looks after that.
    """
    shelf = Models(models)
    comparisons = Comparisons(shelf.models)
    restorations = Restorations(shelf.models)
    codes = Codes(shelf.models)
    operations: dict[str, Work] = {
        "worlds": worlds.run,
        "train": train.run,
        "generate": shelf.run,
        "restore": restorations.run,
        "picture": restorations.picture,
        "compare": comparisons.run,
        "codes": codes.run,
    }

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        with ThreadPoolExecutor(max(2, os.cpu_count() or 2), "playground") as pool:
            app.state.pool = pool
            yield
            pool.shutdown(wait=False, cancel_futures=True)

    async def home(request: Request) -> Response:
        return FileResponse(STATIC / "index.html", headers={"Content-Security-Policy": POLICY})

    async def choices(request: Request) -> Response:
        found = {"version": __version__, "families": families(), "worlds": worlds.choices(), "train": train.choices()}
        found |= {"generate": shelf.choices(), "restore": restorations.choices(), "codes": codes.choices()}
        return JSONResponse(found)

    return Starlette(
        routes=[
            Route("/", home),
            Route("/choices", choices),
            WebSocketRoute("/work", partial(_converse, operations=operations, hosts=hosts)),
            Mount("/static", StaticFiles(directory=STATIC)),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)],
        lifespan=lifespan,
    )


async def _converse(socket: WebSocket, *, operations: dict[str, Work], hosts: Sequence[str]) -> None:
    """A page's requests until it goes; then what still runs for it is cancelled."""
    if not _same_origin(socket, hosts):
        await socket.close(1008, "the page is of another origin")
        return
    await socket.accept()
    queue: asyncio.Queue[Message] = asyncio.Queue()
    desk = Desk(operations, socket.app.state.pool, queue.put_nowait)

    async def speak() -> None:
        while True:
            await socket.send_text(json.dumps(await queue.get(), separators=(",", ":")))

    speaking = asyncio.create_task(speak())
    try:
        while True:
            desk.take(_read(await socket.receive_text()))
    except WebSocketDisconnect:
        pass
    finally:
        desk.close()
        speaking.cancel()


def _read(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _same_origin(socket: WebSocket, hosts: Sequence[str]) -> bool:
    """Whether the page that opens a socket came from here: browsers let any page open one to any machine."""
    origin = socket.headers.get("origin")
    return origin is None or "*" in hosts or origin.split("://", 1)[-1] == socket.headers.get("host")
