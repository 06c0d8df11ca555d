"""What every measurement shares: servers to measure, and a load that costs less than what it measures.

- `generator`: connections, and the closed and open loops that load them.
- `drive`: a load by wrk, or by several processes of `generator`, and what that took of the CPUs.
- `workloads`: which sequences are sent, and on which wire.
- `models`: the encoders that every server runs.
- `launch`: starts the service on a free port.
- `servers`: the service and its peers, started and ended.
- `watch`: who used the CPUs meanwhile.
- `peers/`: the other servers, each in a file.
"""
