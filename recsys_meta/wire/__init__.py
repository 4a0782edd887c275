"""Bodies of the HTTP API, written once: the server and the client both use these; pydantic is all they need."""
