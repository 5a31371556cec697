"""Middleware, from the outside in: access log, security headers, same origin, body limit, unexpected errors."""

from autoslim.service.middleware.access_log import AccessLog
from autoslim.service.middleware.body import BodyLimit
from autoslim.service.middleware.errors import UnexpectedErrors
from autoslim.service.middleware.headers import SecurityHeaders
from autoslim.service.middleware.origin import SameOrigin

__all__ = ["AccessLog", "BodyLimit", "SameOrigin", "SecurityHeaders", "UnexpectedErrors"]
