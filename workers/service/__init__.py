"""Jobs of the service: the supervisor and its drivers."""
