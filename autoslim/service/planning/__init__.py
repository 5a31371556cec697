"""Plans of requests, made by a process of their own."""
