"""What is larger than it may be, or takes longer than it may, and by which setting."""

from service.errors.base import LengthwiseError


class TooLarge(LengthwiseError):
    """The request is over a hard limit and can never succeed here."""


class BodyTooLarge(TooLarge):
    """The body has more bytes than the service reads."""

    setting = "max_body_bytes"

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"The body is over {limit} bytes, the limit set by `{self.setting}`: send fewer sequences.", limit=limit
        )


class LineTooLong(TooLarge):
    """A line of a stream has more bytes than the service reads at once."""

    setting = "max_body_bytes"

    def __init__(self, limit: int) -> None:
        super().__init__(f"The line is over {limit} bytes, the limit set by `{self.setting}`.", limit=limit)


class SequenceTooLong(TooLarge):
    """One sequence has more steps than any may have."""

    setting = "max_sequence_steps"

    def __init__(self, path: str, steps: int, limit: int) -> None:
        super().__init__(f"{path} has {steps} steps: the limit is {limit}, set by `{self.setting}`.", path, limit=limit)


class RequestTooLong(TooLarge):
    """The sequences of a request have more steps in all than one request may."""

    setting = "max_request_steps"

    def __init__(self, limit: int, field: str = "sequences") -> None:
        super().__init__(
            f"The sequences have more than {limit} steps in all, the limit of `{self.setting}`: send them in parts.",
            field,
            limit=limit,
        )


class AnswerTooLarge(TooLarge):
    """The answer would have more bytes than all that may be unread."""

    setting = "max_unread_bytes"

    def __init__(self, size: int, limit: float) -> None:
        super().__init__(
            f"The answer would have some {size} bytes: the limit is {limit:.0f}, set by `{self.setting}`. "
            "Send fewer sequences, or ask for a smaller form: base64 in place of numbers, or a binary one.",
            limit=limit,
        )


class TextTooLong(TooLarge):
    """One text has more characters than any may have."""

    setting = "max_text_characters"

    def __init__(self, path: str, characters: int, limit: int) -> None:
        super().__init__(
            f"{path} has {characters} characters: the limit is {limit}, set by `{self.setting}`.", path, limit=limit
        )


class TextsTooLong(TooLarge):
    """The texts of a request have more characters in all than one request may."""

    setting = "max_request_characters"

    def __init__(self, limit: int, field: str) -> None:
        super().__init__(
            f"The texts have more than {limit} characters in all, the limit of `{self.setting}`: send them in parts.",
            field,
            limit=limit,
        )


class BodyTooSlow(LengthwiseError):
    """The body did not come to its end in time."""

    setting = "body_timeout_seconds"

    def __init__(self, seconds: int) -> None:
        super().__init__(f"The body was not complete after {seconds} s (`{self.setting}`).", limit=seconds)


class ReaderStalled(LengthwiseError):
    """The answers of a stream were not read, while more was sent; what was sent since was not encoded."""

    setting = "keep_alive_seconds"

    def __init__(self, seconds: int) -> None:
        super().__init__(
            f"No answer was read for {seconds} s (`{self.setting}`), and the lines from this one on were not encoded: "
            "read while you send, or send fewer lines at a time.",
            limit=seconds,
        )
