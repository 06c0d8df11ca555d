"""What can be seen of the service from outside.

- `counts`: what happens to requests and runs, counted as it happens.
- `statistics`: the same by model, as KServe's statistics extension asks.
- `prometheus`: the counts, in Prometheus' format.
- `logs`: a line for each request, and the forms of log lines.
- `tracing`: spans for requests and runs, if OpenTelemetry is there.
"""
