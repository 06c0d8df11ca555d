"""A request, from its head to its answer, and who may ask.

- `routing`: what the routes share: the loaded service, bodies within bounds, and routes that FastAPI only documents.
- `access`: which key opens which route.
- `keys`: the API keys.
- `meter`: how many steps a second each key may send.
- `crowd`: how many connections there may be.
- `unread`: how many bytes of answers may wait for their readers.
- `worker`: what this process is, if it is one of several.
- `negotiation`: media types that come, and those that are accepted.
- `encoding`: the one path of a request that encodes.
- `tokenizing`: texts of a request, tokenised in groups within its limits.
- `problems`: what is answered if something is wrong.
- `document`: the OpenAPI document, as the loaded models make it.
- `examples`: examples in it, made of what the models read.
- `endpoints/`: the routes.
"""
