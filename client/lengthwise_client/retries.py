"""Which failures are worth another try, and when."""

import random
from email.utils import parsedate_to_datetime

import httpx

RETRIES = 4  # tries of one request after its first
FIRST_WAIT_SECONDS = 0.1  # before the second try, if the service does not say; doubled before each later one
LONGEST_WAIT_SECONDS = 5.0  # what doubling ends at; what the service says may be longer

# Every call is safe to repeat. Other statuses mean that the same request would fail again.
WORTH_RETRYING = frozenset({408, 409, 429, 500, 502, 503, 504})


def wait_after_failure(tries: int, most: int) -> float | None:
    """Return the seconds to wait before another try if no answer came; None if there should be no other.

    Args:
        tries: how many were made so far, 1 or more.
        most: the most tries after the first.
    """
    if tries > most:
        return None
    longest = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2.0 ** (tries - 1))
    return longest * (1 + random.random()) / 2  # noqa: S311 - so that who failed together does not return together


def wait_after_answer(tries: int, most: int, response: httpx.Response) -> float | None:
    """Return the seconds to wait before another try after an error; None if there should be no other.

    Args:
        tries: how many were made so far, 1 or more.
        most: the most tries after the first.
        response: the answer that says the request failed.
    """
    advice = response.headers.get("x-should-retry")
    if advice == "false" or (advice != "true" and response.status_code not in WORTH_RETRYING):
        return None
    wait, told = wait_after_failure(tries, most), read_retry_after(response)
    if wait is None or told is None:
        return wait
    return told * (1 + random.random() / 10)  # noqa: S311 - not before it, nor all at once


def read_retry_after(response: httpx.Response) -> float | None:
    """Return the seconds after which the service wants to be asked again; None if it does not say.

    It says so in `retry-after-ms`, or in `Retry-After` as seconds or as a date. From a date the answer's own `Date` is
    subtracted, since the clock here may differ.
    """
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        text = response.headers.get(name, "")
        if text.isascii() and text.isdigit():
            return int(text) * unit
    then, now = (_read_date(response.headers.get(name, "")) for name in ("retry-after", "date"))
    return None if then is None or now is None else max(0.0, then - now)


def _read_date(text: str) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp()
    except ValueError:
        return None
