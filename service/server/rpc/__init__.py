"""Calls of gRPC, each carried to the app as a request and back as its answer.

- `listening`: the port, TLS, and its end.
- `reserving`: the port, kept for the workers of one service.
- `carrying`: a call, or a message of a stream, as a request to the app.
- `failing`: a problem as a status of gRPC, with its details.
- `streaming`: a stream of requests, answered in the order they are ready.
"""
