"""What ends the program in one sentence."""


class BulkError(Exception):
    """The command cannot do what it was asked; says why, and what would help."""


class BadInput(BulkError):
    """An input cannot be read; names it, and the place in it."""

    def __init__(self, path: object, reason: str, place: str = "") -> None:
        super().__init__(f"{path}{f', {place}' if place else ''}: {reason}")


class BadRow(BulkError):
    """A row cannot be encoded, and the command was told to end then."""

    def __init__(self, path: str, row: int, detail: str) -> None:
        super().__init__(
            f"{path}, row {row}: {detail} With --on-error null its embedding is null and the rest is encoded."
        )


class TooManyErrors(BulkError):
    """More rows could not be encoded than the command was told to bear."""

    def __init__(self, found: int, allowed: int) -> None:
        super().__init__(
            f"{found} row{'' if found == 1 else 's'} could not be encoded, and --max-errors is {allowed}: "
            "see the files part-*.errors"
        )
