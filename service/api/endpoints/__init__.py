"""The routes, a module for each interface.

- `native`: `POST /encode`.
- `streams`: the same for a stream of lines, answered as it comes.
- `openai`: `/v1/embeddings` and `/v1/models`.
- `kserve`: the Open Inference Protocol.
- `statistics`: its statistics extension.
- `repository`: its model repository extension.
- `rpc`: the protocol over gRPC.
- `clouds`: what SageMaker, Vertex AI and KServe V1 call.
- `operations`: health, `/info` and what it tells.
- `monitoring`: `/metrics`, and what runs right now.
- `whole`: what each worker answers the others, so that any of them speaks for the service.
- `pages`: the document of the API, its reader at `/docs`, and the files of the page at `/`.
- `showing`: what that page shows beside what any client may ask.
"""
