"""The base of every error: a sentence, and what a program needs of it."""

from collections.abc import Callable
from math import ceil


def spell(text: str) -> str:
    """Return a text as UTF-8 can write it: the bytes of a path that are not are escaped."""
    return text.encode(errors="backslashreplace").decode()


class LengthwiseError(Exception):
    """The base of every error the service raises on purpose.

    Attributes:
        path: the place in the request that is at fault, as `sequences[3][17]`, if there is one.
        limit: the bound that was met, in the unit its setting names.
        setting: the name of the setting that changes that bound or behaviour; the sentence has it between backticks.
        retry_after_ms: the milliseconds after which trying again may succeed, if it ever may.
    """

    setting: str | None = None
    retry_after_ms: int | None = None

    def __init__(self, sentence: str, path: str | None = None, limit: float | None = None) -> None:
        super().__init__(spell(sentence))
        self.path = path
        self.limit = limit

    @property
    def retry_after_seconds(self) -> int | None:
        """The same in whole seconds, at least 1."""
        return None if self.retry_after_ms is None else max(1, ceil(self.retry_after_ms / 1000))

    def tell(self, spell: Callable[[str], str]) -> str:
        """Return the sentence with its setting spelt as whoever reads it writes it, by a function from its name."""
        return str(self) if self.setting is None else str(self).replace(f"`{self.setting}`", spell(self.setting))
