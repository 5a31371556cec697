"""Turns an unexpected error into a problem response, in place of the server's own page."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from autoslim.service.problems import internal_error


class UnexpectedErrors:
    """Raises the error again where the response has started already."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def send_noting_start(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, send_noting_start)
        except Exception as error:
            if started or scope["type"] != "http":
                raise
            await internal_error(scope["state"].get("request_id"), error)(scope, receive, send)
