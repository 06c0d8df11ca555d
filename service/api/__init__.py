"""A request, from its head to its answer, and who may ask.

- `front`: where every request comes in: it has its route found, is let in or not, answered and counted.
- `routing`: what a route is, and what all routes share: the loaded service, the request, and its body within bounds.
- `keys`: the API keys.
- `meter`: how many steps a second each key may send.
- `crowd`: how many connections there may be.
- `unread`: how many bytes of answers may wait for their readers.
- `worker`: what this process is, if it is one of several.
- `fellows`: how workers ask each other.
- `encoding`: the one path of a request that encodes.
- `tokenizing`: texts of a request, tokenised in groups within its limits.
- `problems`: what is answered if something is wrong.
- `fallback`: FastAPI, built from the routes: it documents them, and answers what no route matches.
- `document`: the OpenAPI document, as the loaded models make it.
- `described`: what it says of every route that encodes.
- `examples`: examples in it, made of what the models read.
- `endpoints/`: the routes.
"""
