"""Writes log lines to stderr: as JSON for machines, in words for a person at a terminal.

All lines go through the standard library's loggers to structlog, except those of requests. These are many, so they are
written directly, several at once, in the same form.
"""

import argparse
import logging
import os
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import partial
from http import HTTPStatus
from typing import Any

import orjson
import structlog
from structlog.typing import Processor

from service.observing.counts import FIRST_ERROR, HUNG_UP, Exchange
from service.settings import Form

STAMP: list[Processor] = [
    structlog.processors.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]

LEVELS = {logging.DEBUG: "debug", logging.INFO: "info", logging.WARNING: "warning"}


class RequestLog:
    """Writes one line for each request."""

    def __init__(self, level: str, form: Form) -> None:
        """Begin a log.

        Args:
            level: the least level that is written.
            form: the form of the lines.
        """
        self._level = logging.getLevelNamesMapping()[level.upper()]
        self._render = _render_json if is_json(form) else partial(_render_words, _human())

    def write(self, exchanges: Iterable[Exchange]) -> None:
        """Write the lines of some requests in one write."""
        sys.stderr.write("".join(self._render(self._describe(one)) for one in exchanges if self._is_wanted(one)))

    def _is_wanted(self, exchange: Exchange) -> bool:
        return _level_of(exchange) >= self._level

    def _describe(self, exchange: Exchange) -> dict[str, Any]:
        """Return the fields of a line."""
        fields: dict[str, Any] = {
            "timestamp": datetime.fromtimestamp(exchange.ended, UTC).isoformat(),
            "level": LEVELS[_level_of(exchange)],
            "event": "Request",
            "request_id": exchange.request_id,
            "method": exchange.method,
            "route": exchange.route,
            "status": exchange.status,
            "outcome": exchange.outcome,
            "model": exchange.model,
            "total_ms": round(1000 * exchange.seconds, 3),
        }
        if exchange.trace_id:
            fields["trace_id"] = exchange.trace_id
        if stages := exchange.stages:
            fields["sequences"] = stages.sequences
            fields["steps"] = stages.steps
            fields["decode_ms"] = round(1000 * stages.decode, 3)
            fields["queue_ms"] = round(1000 * stages.queue, 3)
            fields["run_ms"] = round(1000 * stages.run, 3)
            fields["encode_ms"] = round(1000 * stages.encode, 3)
        return fields


def is_json(form: Form) -> bool:
    """Whether lines are JSON; `auto` decides by whether a person reads them."""
    return form == "json" or (form == "auto" and not sys.stderr.isatty())


def find_log_format(flags: list[str]) -> Form:
    """Return the form of log lines that the flags or the environment name, whatever is wrong with other settings."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--log-format", "--log_format", default=os.environ.get("LENGTHWISE_LOG_FORMAT"))
    named = parser.parse_known_args(flags)[0].log_format
    return named if named in ("json", "human") else "auto"


def write_ending(sentence: str, form: Form) -> str:
    """Return the last line of a service that cannot start, in the form of all others; for a person, in plain words."""
    if not is_json(form):
        return f"lengthwise: {sentence}"
    return _dump({"event": sentence, "level": "error", "timestamp": datetime.now(UTC).isoformat()})


def configure(level: str, form: Form) -> dict[str, Any]:
    """Return the configuration of the standard library's logging, for all lines but those of requests.

    Args:
        level: the least level of uvicorn and of the service; other libraries are logged from warnings on.
        form: the form of the lines.
    """
    last: list[Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if is_json(form):
        last += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(_dump)]
    else:
        last.append(_human())
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "line": {"()": structlog.stdlib.ProcessorFormatter, "processors": last, "foreign_pre_chain": STAMP}
        },
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
        "root": {"handlers": ["stderr"], "level": "WARNING"},
        "loggers": {name: {"level": level.upper()} for name in ("lengthwise", "uvicorn")},
    }


def _level_of(exchange: Exchange) -> int:
    if exchange.problem == HUNG_UP:
        return logging.DEBUG  # nobody waits for an answer, and nothing is wrong
    if exchange.is_probe and exchange.status < FIRST_ERROR:
        return logging.DEBUG
    return logging.WARNING if exchange.status >= HTTPStatus.INTERNAL_SERVER_ERROR else logging.INFO


def _human() -> structlog.dev.ConsoleRenderer:
    return structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())


def _dump(fields: Any, **options: Any) -> str:
    return orjson.dumps(fields, default=options.get("default")).decode()


def _render_json(fields: dict[str, Any]) -> str:
    return orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE).decode()


def _render_words(render: structlog.dev.ConsoleRenderer, fields: dict[str, Any]) -> str:
    return f"{render(None, '', fields)}\n"
