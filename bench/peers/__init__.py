"""Other servers of the same ONNX file, each set up as its documentation recommends, each in an environment of its own.

They are started as `python -m bench.peers.NAME` and told by the environment variables that `bench.servers` sets.
"""
