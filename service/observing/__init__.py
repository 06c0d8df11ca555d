"""What the service shows of itself: figures, log lines and traces.

- `counts`: counts what happens to requests and batches.
- `statistics`: counts the same by model and version, as KServe's statistics extension asks for it.
- `prometheus`: writes the counts in Prometheus' format.
- `logs`: writes a line for each request, and sets the form of all log lines.
- `tracing`: makes spans of requests and batches, if OpenTelemetry is installed and asked for.
"""
