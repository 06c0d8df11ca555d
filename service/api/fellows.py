"""How the workers of a service ask each other, and answer: a question in JSON, an answer in JSON, nothing else.

They know each other by a secret that they share since they were forked.
"""

import asyncio
import hmac
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, TypeAlias

import orjson

from service.api.routing import Service
from service.api.worker import Worker

logger = logging.getLogger("lengthwise")

ASK_SECONDS = 1.0  # for what a worker can answer at once
ABSENT = object()  # in place of the answer of a worker that is not there, or not yet

Answer: TypeAlias = Callable[[Service, Any], Awaitable[Any]]  # takes what was sent along, and returns JSON's types


async def answer_others(service: Service, worker: Worker, answers: Mapping[str, Answer]) -> None:
    """Answer other workers whenever they ask, until this is cancelled.

    Args:
        service: this worker's.
        worker: what this process is.
        answers: what may be asked, by name.
    """

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(OSError, EOFError, TimeoutError):
                async with asyncio.timeout(ASK_SECONDS):
                    secret = await reader.readexactly(len(worker.shared.secret))
                    if not hmac.compare_digest(secret, worker.shared.secret):
                        return
                    name, given = orjson.loads(await reader.readline())
                writer.write(orjson.dumps(await answers[name](service, given)))
                await writer.drain()
        except Exception:  # whoever asked sees that there is no answer
            logger.exception("Another worker could not be answered")
        finally:
            writer.close()

    async with await asyncio.start_unix_server(answer, sock=worker.listen()) as listening:
        await listening.serve_forever()


async def ask_others(
    worker: Worker | None, name: str, given: Any = None, seconds: float = ASK_SECONDS
) -> dict[int, Any]:
    """Ask all other workers at the same time.

    Args:
        worker: what this process is; None if there are no others.
        name: what is asked.
        given: what is sent along.
        seconds: how long an answer may take.

    Returns:
        The answers by the numbers of the workers, without those that are not there: they catch up when they start.
        None of one that gave none in time.
    """
    if worker is None:
        return {}
    answers = await asyncio.gather(*(ask(worker, number, name, given, seconds) for number in worker.others))
    return {number: one for number, one in zip(worker.others, answers, strict=True) if one is not ABSENT}


async def ask(worker: Worker, number: int, name: str, given: Any = None, seconds: float = ASK_SECONDS) -> Any:
    """Ask one other worker: `ABSENT` if it is not there, None if it gives no answer in time."""
    try:
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_unix_connection(sock=worker.call(number))
    except ConnectionRefusedError:
        return ABSENT
    except (OSError, TimeoutError):
        return None
    with suppress(OSError, TimeoutError, orjson.JSONDecodeError):
        async with asyncio.timeout(seconds):
            try:
                writer.write(worker.shared.secret + orjson.dumps([name, given]) + b"\n")
                return orjson.loads(await reader.read())
            finally:
                writer.close()
    return None
