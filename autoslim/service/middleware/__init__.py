"""What every request goes through before a route sees it, from the outside in."""

from autoslim.service.middleware.body import BodyLimit
from autoslim.service.middleware.errors import UnexpectedErrors
from autoslim.service.middleware.headers import SecurityHeaders
from autoslim.service.middleware.origin import SameOrigin
from autoslim.service.middleware.record import RequestLog

__all__ = ["BodyLimit", "RequestLog", "SameOrigin", "SecurityHeaders", "UnexpectedErrors"]
