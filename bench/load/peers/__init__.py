"""Other servers of the same ONNX file, each set up as its documentation recommends, each in an environment of its own.

They are started as `python -m bench.load.peers.NAME`; the environment variables that `bench.load.servers` sets tell
them what to serve.

- `encoder`: what every peer does around its own server.
- `naive`: FastAPI, pydantic and ONNX Runtime, as their tutorials put them together.
- `litserve`, `mosec`, `pytriton`: servers with dynamic batching of their own.
"""
