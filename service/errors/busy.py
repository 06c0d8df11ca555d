"""What another moment would answer, and what became of a request that was taken."""

from collections.abc import Mapping
from math import ceil
from typing import Literal

from service.errors.base import LengthwiseError


class Unavailable(LengthwiseError):
    """The service cannot take the request now; later it may."""

    retry_after_ms = 1000

    def _retry_after(self, seconds: float) -> None:
        """Say that trying again may succeed after so many seconds."""
        self.retry_after_ms = max(1, ceil(1000 * seconds))


class QueueFull(Unavailable):
    """More work waits than the queue may hold."""

    def __init__(self, waiting: float, limit: float, unit: Literal["steps", "seconds"], wait_seconds: float) -> None:
        self.setting = f"max_queue_{unit}"
        self._retry_after(wait_seconds)
        what = "steps" if unit == "steps" else "seconds of work"
        super().__init__(
            f"{round(waiting, 1)} {what} are waiting and the queue holds {limit} (`{self.setting}`): "
            f"try again in {self.retry_after_seconds} s.",
            limit=limit,
        )


class AnswersUnread(Unavailable):
    """Answers that are computed, or not read yet, leave no room for another large one."""

    setting = "max_unread_bytes"

    def __init__(self, held: int, limit: float, wait_seconds: float) -> None:
        self._retry_after(wait_seconds)
        super().__init__(
            f"Answers of {held} bytes are under way or not read yet, and there is room for {limit:.0f} "
            f"(`{self.setting}`): try again in {self.retry_after_seconds} s.",
            limit=limit,
        )


class TooManyConnections(Unavailable):
    """More connections are open than may be, and none of them is idle."""

    setting = "max_connections"

    def __init__(self, limit: float) -> None:
        super().__init__(
            f"{limit:.0f} connections are open and in use, which is as many as may be (`{self.setting}`): "
            f"try again in {self.retry_after_seconds} s, or on one of them.",
            limit=limit,
        )


class TooManyCalls(Unavailable):
    """More calls of gRPC are under way than may be."""

    setting = "max_connections"

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"{limit} calls are under way, which is as many as may be (`{self.setting}`): "
            f"try again in {self.retry_after_seconds} s.",
            limit=limit,
        )


class RateExceeded(Unavailable):
    """The key has sent more steps than it may in that time."""

    setting = "steps_per_second"

    def __init__(self, rate: int, wait_seconds: float) -> None:
        self._retry_after(wait_seconds)
        super().__init__(
            f"This key may send {rate} steps a second (`{self.setting}`), and has sent more: "
            f"try again in {self.retry_after_seconds} s.",
            limit=rate,
        )


class WorkersBehind(Unavailable):
    """Some workers have not followed a change that the others made."""

    def __init__(self, reasons: Mapping[int, str]) -> None:
        told = "; ".join(f"worker {number}: {reason}" for number, reason in sorted(reasons.items()))
        super().__init__(f"It is done in all workers but these: {told}. Ask again, or send SIGHUP to the service.")


class Draining(Unavailable):
    """The service is shutting down."""

    def __init__(self) -> None:
        super().__init__("The service is shutting down and takes no new requests: try another instance.")


class DeadlineMissed(LengthwiseError):
    """The answer cannot be given in the time the request allows."""


class DeadlineUnreachable(DeadlineMissed):
    """The request would not be answered in time, and was refused at once."""

    def __init__(self, predicted_ms: int, allowed_ms: int) -> None:
        super().__init__(
            f"The answer should take {predicted_ms} ms and the request allows {allowed_ms} more: it was not begun."
        )


class DeadlinePassed(DeadlineMissed):
    """The time the request allows was over before its answer was complete."""

    def __init__(self) -> None:
        super().__init__("The time the request allows is over, and its answer was not complete.")


class RunFailed(LengthwiseError):
    """The model failed on an input that passed every check."""

    def __init__(self, index: int, reason: str, field: str = "sequences") -> None:
        path = f"{field}[{index}]"
        super().__init__(f"The model could not encode {path}: {reason}.", path)


class RunLost(LengthwiseError):
    """A run never ended, and whoever had a sequence in it gets no answer."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"The model's run was lost: {reason}.")


class Stuck(Unavailable):
    """Work waits and nothing moves: the process should be started anew."""

    retry_after_ms = 5000

    def __init__(self) -> None:
        super().__init__("The model's runs do not end, and there is no runner left: start the service anew.")
