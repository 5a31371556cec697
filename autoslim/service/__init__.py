"""The HTTP service: takes job specs into the queue, and shows what becomes of them."""

from autoslim.core.extras import needs_extra

with needs_extra("service", "autoslim.service"):
    from autoslim.service.app import create_app
    from autoslim.service.serve import PORT, serve
    from autoslim.service.settings import RequestLimits, ServiceSettings, read_settings

__all__ = ["PORT", "RequestLimits", "ServiceSettings", "create_app", "read_settings", "serve"]
