"""What a person at a terminal is told once the service listens: where, what it serves, what was measured, what to try.

Machines are told nothing of it: without a terminal, the log is all there is.
"""

import json
from collections.abc import Iterator
from dataclasses import replace

from service import __version__
from service.api.examples import show_native
from service.api.routing import Service
from service.catalogue.models import ServedModel
from service.encoder.sequences import Features
from service.settings import Settings

STEPS = 32  # of the sequences whose times are told
SHOWN_STEPS = 2  # of the sequence to try
MAX_CHARACTERS = 1000  # of a line to copy; a model with very wide steps has none


def write_greeting(service: Service, host: str, port: int) -> str:
    """Write it, with an empty line before and after.

    Args:
        service: the service, its models loaded.
        host: the address it listens on.
        port: the port it listens on.
    """
    settings = service.settings
    url = f"{'https' if settings.ssl_certfile else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"
    place = f"open {url}/ in a browser" if settings.page else f"its routes are at {url}/docs"
    lines = [f"Lengthwise {__version__} listens on {url}; {place}"]
    for model in service.models:
        lines += ["", *describe(model, settings)]
    if request := write_request(service, url):
        lines += ["", "Try:", f"  {request}"]
    return "\n" + "".join(f"  {line}\n" if line else "\n" for line in lines) + "\n"


def describe(model: ServedModel, settings: Settings) -> Iterator[str]:
    """Yield what a model is, and what was proven and measured of it here."""
    kind, difference = model.spec.kind, model.golden_difference
    taken = f"{kind.features} numbers a step" if isinstance(kind, Features) else "token ids"
    taken = "texts" if model.spec.tokenize else taken
    yield f"{model.full_name}: {taken} in, embeddings of {model.session.dim} numbers out"
    if difference is None:
        yield "  proof     none: the file carries no manifest, so that nothing about it is verified"
    else:
        yield f"  proof     golden vectors replayed here, within {difference:.2g}"
    costs, chosen = model.calibrator.costs, model.calibrator.calibration.arrangements[0]
    rows = settings.max_batch_sequences
    one, many = (1000 * costs.predict(count, STEPS) for count in (1, rows))
    times = f"a run of 1 sequence of {STEPS} steps takes {one:.2g} ms, of {rows} {many:.2g} ms"
    yield f"  measured  {times}; runs at a time: {chosen.runners}, threads in each: {chosen.threads}"


def write_request(service: Service, url: str) -> str:
    """Write a command that asks for an embedding; none if no model has a short example."""
    limits, models = service.settings.limits, [*service.models]
    short = replace(limits, max_sequence_steps=SHOWN_STEPS, max_request_steps=SHOWN_STEPS)
    default = models[0].name if len(models) == 1 else None
    found = [*{**show_native(models[:1], limits, default), **show_native(models[:1], short, default)}.values()]
    key = "-H 'Authorization: Bearer KEY' " if service.settings.has_keys else ""
    for example in reversed(found):  # texts come last, and are read most easily
        body = json.dumps(example["value"])
        line = f"curl -s {url}/encode -H 'Content-Type: application/json' {key}-d '{body}'"
        if "'" not in body and len(line) <= MAX_CHARACTERS:
            return line
    return ""
