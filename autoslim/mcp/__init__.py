"""The service as tools of the Model Context Protocol (https://modelcontextprotocol.io), over its Python client."""
