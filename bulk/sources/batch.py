"""OpenAI's batch requests, one a line: `{"custom_id": ..., "url": "/v1/embeddings", "body": {...}}`.

A body is read by the service's own codec, so it is refused and answered as the service would.
"""

from collections.abc import Iterator

import numpy as np
import orjson

from bulk.plan import Shard
from bulk.rows import Asked, Rows
from bulk.sources.lines import LineSource
from bulk.sources.parsing import show
from bulk.sources.wanted import Wanted
from bulk.stores import Place
from service.codecs.json.openai import parse
from service.codecs.json.plain import Bounds
from service.codecs.question import Question
from service.encoder.sequences import Sequences, Steps
from service.encoder.tokenizer import Texts
from service.errors import InvalidField, LengthwiseError, MalformedJson, NotOffered, UnknownModel

URL = "/v1/embeddings"


class BatchSource:
    """Lines of requests, plain or compressed; a shard is whole lines, each of which may ask for several embeddings."""

    def __init__(self, path: Place, wanted: Wanted) -> None:
        self._lines = LineSource(path, wanted, is_text=False)
        self._wanted = wanted
        self._bounds = Bounds.of([wanted.spec])

    def survey(self) -> Iterator[tuple[int, int, int]]:
        """Yield shards that end with the line in which some 16 MB are full."""
        return self._lines.survey()

    def read(self, shard: Shard) -> Rows:
        """Read requests; their sequences are end to end, so many of each."""
        sequences: list[Steps] = []
        errors: dict[int, LengthwiseError] = {}
        asked: list[Asked] = []
        for row, line in enumerate(self._lines.read_lines(shard)):
            try:
                name, body = read_request(line)
                question = parse(body, self._wanted.limits, self._bounds)
                found = self._read_sequences(question)
                asked.append(Asked(name, len(found), question.write))
                sequences += found
            except LengthwiseError as error:
                errors[row] = error
                asked.append(Asked(find_name(line), 0))
        return Rows(sequences, errors, asked)

    def _read_sequences(self, question: Question) -> list[Steps]:
        wanted = self._wanted
        if question.model not in (None, wanted.model):
            raise UnknownModel(question.model, [wanted.model])
        if question.dim not in (None, wanted.dim):
            raise NotOffered("dimensions", f"is {question.dim}, and the model's embeddings have {wanted.dim} numbers")
        given = question.read(wanted.spec)
        if isinstance(given, Texts):
            given.check(wanted.limits)
            ids = [] if wanted.spec.tokenize is None else wanted.spec.tokenize(given.texts)
            given = Sequences(np.concatenate(ids), np.array([*map(len, ids)], np.int64), field=given.field)
        given.check(wanted.limits, wanted.spec.kind.vocabulary)
        return given.split()


def read_request(line: bytes) -> tuple[str, bytes]:
    """Return a request's `custom_id` and its body.

    Raises:
        InvalidRequest: the line is not such a request.
    """
    try:
        request = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise MalformedJson(str(error)) from None
    if not isinstance(request, dict):
        raise InvalidField("the line", "no object", "a request: custom_id, method, url and body")
    for name, expected in (("custom_id", None), ("method", "POST"), ("url", URL)):
        found = request.get(name, expected if name == "method" else None)
        if not isinstance(found, str) or expected not in (None, found):
            raise InvalidField(name, show(found), "a text" if expected is None else repr(expected))
    if not isinstance(request.get("body"), dict):
        raise InvalidField("body", show(request.get("body")), "an object")
    try:
        return request["custom_id"], orjson.dumps(request["body"])
    except orjson.JSONEncodeError:  # orjson reads 1,024 lists and objects within each other, and writes 254
        raise InvalidField("body", "nested too deep", "fewer lists and objects within each other") from None


def find_name(line: bytes) -> str | None:
    """Return the `custom_id` of a request that may be wrong, None if it has none."""
    try:
        name = orjson.loads(line).get("custom_id")
    except (orjson.JSONDecodeError, AttributeError):
        return None
    return name if isinstance(name, str) else None
