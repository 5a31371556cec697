"""An error that nobody expected is a problem like any other, and not the server's own page."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from autoslim.service.problems import unexpected


class UnexpectedErrors:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def noted(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, noted)
        except Exception as error:
            if started or scope["type"] != "http":
                raise
            await unexpected(scope["state"].get("request_id"), error)(scope, receive, send)
