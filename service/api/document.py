"""The OpenAPI document of what is served: its examples work as they stand, and its steps are as wide as the models'."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import cached_property
from typing import Any, TypeAlias

import orjson

from service.api import examples
from service.catalogue.models import Models
from service.encoder.sequences import Features, InputSpec, Tokens
from service.settings import Limits

Schema: TypeAlias = dict[str, Any]

MAX_SHOWN = 10  # models that have examples


class ServedDocument:
    """Writes the document anew when other models are served, and keeps what it wrote."""

    def __init__(self, models: Models, limits: Limits, describe: Callable[[], Schema]) -> None:
        """Write nothing yet.

        Args:
            models: the models that are served.
            limits: what a request may hold.
            describe: returns the document without what the models add to it; called once, when it is first asked for.
        """
        self._models = models
        self._limits = limits
        self._describe = describe
        self._state: object = None
        self._written = b""

    @cached_property
    def plain(self) -> Schema:
        """The document without what the models add to it; it stays as it is."""
        return self._describe()

    def write(self) -> bytes:
        """Return the document as JSON, with what the models add to it."""
        state = ([*self._models], self._models.default_name)
        if state != self._state:
            document = deepcopy(self.plain)
            if state[0]:
                self._fill(document)
            self._state, self._written = state, orjson.dumps(document)
        return self._written

    def write_plain(self) -> bytes:
        """Return it as JSON for strangers, who are told of no model."""
        return orjson.dumps(self.plain)

    def _fill(self, document: Schema) -> None:
        named = self._models.names()
        shown = [model for name, model in named.items() if name == model.name][:MAX_SHOWN]
        default = self._models.default_name
        first = named[default] if default else shown[0]
        bound_steps(document["components"]["schemas"], [model.spec for model in self._models])
        paths = document["paths"]
        for path in ("/encode", "/invocations"):
            _show(paths[path], examples.show_native(shown, self._limits, default))
        _show(paths["/v1/embeddings"], examples.show_openai(shown, self._limits))
        bodies = examples.show_v2(first, self._limits)
        for path, operations in paths.items():
            # A version, or a body, is of one model; all else may be asked of any.
            is_of_one = path.endswith(("/infer", ":predict")) or "{version}" in path
            for parameter in (one for operation in operations.values() for one in operation.get("parameters", ())):
                if parameter["name"] == "model" and (parameter["in"] == "path" or path == "/tokenizer"):
                    names = [first.name] if is_of_one else list(named)[:MAX_SHOWN]
                    parameter["examples"] = {name: {"value": name} for name in names}
                elif (parameter["in"], parameter["name"]) == ("path", "version"):
                    parameter["examples"] = {first.version: {"value": first.version}}
            if path.endswith("/infer"):
                _show(operations, bodies)
            elif operations.get("post", {}).get("operationId") in ("v1_predict", "named_predict"):
                _show(operations, examples.show_instances(first, self._limits, default))


def bound_steps(schemas: Schema, specs: Sequence[InputSpec]) -> None:
    """Leave in the schemas of bodies the kinds of sequences that models read, each with its bounds if all agree."""
    sequences: list[Schema] = []
    if widths := {spec.kind.features for spec in specs if isinstance(spec.kind, Features)}:
        step = {"type": "array", "items": {"type": "number"}}
        width = widths.pop()
        sequences.append(_list(step if widths else {**step, "minItems": width, "maxItems": width}))
    if sizes := {spec.kind.vocabulary for spec in specs if isinstance(spec.kind, Tokens)}:
        size = sizes.pop()
        token = {"type": "integer", "minimum": 0}  # which is padding
        sequences.append(_list(token if sizes or size is None else {**token, "maximum": size - 1}))
    lists = [{**_list(sequence), "minItems": 1} for sequence in sequences]
    texts = [{"type": "string"}, _list({"type": "string"})] if any(spec.tokenize for spec in specs) else []
    schemas["EncodeRequest"]["properties"]["sequences"]["anyOf"] = lists
    texts_alone = [{**texts[1], "minItems": 1}] if texts else []
    schemas["PredictRequest"]["properties"]["instances"]["anyOf"] = [*lists, *texts_alone]
    schemas["EmbeddingsRequest"]["properties"]["input"]["anyOf"] = [*texts, *sequences, *lists]


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _show(operations: Schema, shown: examples.Named) -> None:
    if shown:
        operations["post"]["requestBody"]["content"]["application/json"]["examples"] = shown
