"""What can go wrong, in the domain's words. Each error carries its data and builds its own sentence.

Nothing here is of HTTP or of the environment: `service.api.problems` maps each error to its answer.
"""

from collections.abc import Callable, Mapping
from math import ceil
from typing import Literal


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
        super().__init__(sentence)
        self.path = path
        self.limit = limit

    @property
    def retry_after_seconds(self) -> int | None:
        """The same in whole seconds, at least 1."""
        return None if self.retry_after_ms is None else max(1, ceil(self.retry_after_ms / 1000))

    def tell(self, spell: Callable[[str], str]) -> str:
        """Return the sentence with its setting spelt as whoever reads it writes it, by a function from its name."""
        return str(self) if self.setting is None else str(self).replace(f"`{self.setting}`", spell(self.setting))


class InvalidRequest(LengthwiseError):
    """The request cannot be answered as it is written."""


class MalformedJson(InvalidRequest):
    """The body is not JSON."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"The body is not valid JSON: {reason}.")


class MalformedBody(InvalidRequest):
    """The body is not in the format it claims to be in."""

    def __init__(self, form: str, reason: str) -> None:
        super().__init__(f"The body is not valid {form}: {reason}.")


class InvalidHost(LengthwiseError):
    """The request does not name its host exactly once, as HTTP/1.1 demands."""

    def __init__(self, found: int) -> None:
        super().__init__(f"The request names {found or 'no'} hosts: HTTP/1.1 expects one (RFC 9112, 3.2).")


class InvalidField(InvalidRequest):
    """A field of the request is missing, unknown or of the wrong kind."""

    def __init__(self, path: str, found: str, expected: str) -> None:
        super().__init__(f"{path} is {found}: expected {expected}.", path)


class NotANumber(InvalidRequest):
    """A string, null, boolean, list or object stands where a number belongs."""

    def __init__(self, path: str, found: str) -> None:
        super().__init__(f"{path} is {found}: expected a number.", path)


class NonFiniteValue(InvalidRequest):
    """A number is NaN or infinite, or beyond the range of float32."""

    def __init__(self, path: str) -> None:
        super().__init__(
            f"{path} is not finite as float32: NaN, infinities and magnitudes over 3.4e38 are refused.", path
        )


class UnknownToken(InvalidRequest):
    """A token id is not one of the model's vocabulary."""

    def __init__(self, path: str, found: int, vocabulary: int | None) -> None:
        known = "1 and above" if vocabulary is None else f"1 to {vocabulary - 1}"
        padding = "; 0 is padding, which may only follow the last token" if found == 0 else ""
        sentence = f"{path} is the token id {found}: the model knows {known}{padding}."
        if path.startswith("input["):  # of OpenAI's clients, some of which make ids of texts
            sentence += (
                " If texts were sent, the client made these ids by a tokenizer that is not the model's: "
                "have it send the texts (LangChain: check_embedding_ctx_length=False)."
            )
        super().__init__(sentence, path)


class NotOffered(InvalidRequest):
    """The request asks for, or brings, what the loaded model does not have."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path} {reason}.", path)


class FeatureMismatch(InvalidRequest):
    """A step has another number of features than the model reads."""

    def __init__(self, path: str, found: int, expected: int, steps: int | None = None) -> None:
        """Say which step it is, and if the sequence would fit the other way around.

        Args:
            path: the place of the step, or of all steps.
            found: the features it has.
            expected: the features the model reads.
            steps: the steps of its sequence, if all of them have as many features.
        """
        turned = f", and the sequence has {expected} steps: channels-first data must be transposed"
        hint = turned if steps == expected else ""
        super().__init__(f"{path} has {found} features: the model reads {expected} in each step{hint}.", path)


class EmptyRequest(InvalidRequest):
    """The request holds no sequence."""

    def __init__(self, field: str = "sequences") -> None:
        super().__init__(f"{field} is empty: expected at least one sequence.", field)


class EmptySequence(InvalidRequest):
    """A sequence holds no step."""

    setting = "empty_sequences"

    def __init__(self, path: str) -> None:
        super().__init__(
            f"{path} has no steps, and no average: set `{self.setting}`=zero to answer the zero vector instead.", path
        )


class InvalidLengths(InvalidRequest):
    """`lengths` does not fit the padded sequences it came with."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path} {reason}.", path)


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


class UnknownModel(LengthwiseError):
    """The request names a model that is not loaded, or names none although there is no default."""

    def __init__(self, name: str | None, known: list[str]) -> None:
        what = "No model is named, and there is no default" if name is None else f"There is no model {name[:99]!r} here"
        served = f"the models are {', '.join(map(repr, known))}" if known else "no model is served"
        super().__init__(f"{what}: {served}.", "model")


class ModelRefused(LengthwiseError):
    """The artifact cannot be served; what was served before still is."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, "model")


class UnexpectedModel(LengthwiseError):
    """The model is another than the request expects."""

    def __init__(self, name: str, sha256: str) -> None:
        super().__init__(f"{name} is the artifact {sha256} now, and another one is expected.")


class InvalidKey(LengthwiseError):
    """The request brings no key, or none that is known."""

    def __init__(self) -> None:
        super().__init__("This needs a key that is known here.")


class UnsupportedMediaType(LengthwiseError):
    """The body is of a kind the service does not read."""

    def __init__(self, found: str, supported: str, path: str | None = None) -> None:
        super().__init__(f"The body is {found}: expected {supported}.", path)


class ExtraMissing(LengthwiseError):
    """The body is of a kind the service reads only with a package that is not installed."""

    def __init__(self, found: str, package: str, extra: str) -> None:
        super().__init__(
            f"The body is {found}, which needs the package {package}: "
            f"install the service's extra {extra} (pip install '.[{extra}]'), or send another kind."
        )


class NotAcceptable(LengthwiseError):
    """The answer cannot be of any kind the request accepts."""

    def __init__(self, wanted: str, offered: str) -> None:
        super().__init__(f"The request accepts {wanted[:80]!r}: this answer can be {offered}.")


class Unavailable(LengthwiseError):
    """The service cannot take the request now; later it may."""


class QueueFull(Unavailable):
    """More work waits than the queue may hold."""

    def __init__(self, waiting: float, limit: float, unit: Literal["steps", "seconds"], wait_seconds: float) -> None:
        self.setting = f"max_queue_{unit}"
        self.retry_after_ms = max(1, ceil(1000 * wait_seconds))
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
        self.retry_after_ms = max(1, ceil(1000 * wait_seconds))
        super().__init__(
            f"Answers of {held} bytes are under way or not read yet, and there is room for {limit:.0f} "
            f"(`{self.setting}`): try again in {self.retry_after_seconds} s.",
            limit=limit,
        )


class TooManyConnections(Unavailable):
    """More connections are open than may be, and none of them is idle."""

    setting = "max_connections"
    retry_after_ms = 1000

    def __init__(self, limit: float) -> None:
        super().__init__(
            f"{limit:.0f} connections are open and in use, which is as many as may be (`{self.setting}`): "
            f"try again in {self.retry_after_seconds} s, or on one of them.",
            limit=limit,
        )


class RateExceeded(Unavailable):
    """The key has sent more steps than it may in that time."""

    setting = "steps_per_second"

    def __init__(self, rate: int, wait_seconds: float) -> None:
        self.retry_after_ms = max(1, ceil(1000 * wait_seconds))
        super().__init__(
            f"This key may send {rate} steps a second (`{self.setting}`), and has sent more: "
            f"try again in {self.retry_after_seconds} s.",
            limit=rate,
        )


class WorkersBehind(Unavailable):
    """Some workers have not followed a change that the others made."""

    def __init__(self, reasons: Mapping[int, str]) -> None:
        self.retry_after_ms = 1000
        told = "; ".join(f"worker {number}: {reason}" for number, reason in sorted(reasons.items()))
        super().__init__(f"It is done in all workers but these: {told}. Ask again, or send SIGHUP to the service.")


class Draining(Unavailable):
    """The service is shutting down."""

    retry_after_ms = 1000

    def __init__(self) -> None:
        super().__init__("The service is shutting down and takes no new requests: try another instance.")


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


class StartupError(LengthwiseError):
    """The service refuses to start."""


class KeysUnusable(StartupError):
    """The API keys cannot be used as they are given; tells the place, never the key."""

    def __init__(self, place: str, reason: str) -> None:
        super().__init__(f"The API keys cannot be used: {place} is {reason}.")


class ArtifactError(StartupError):
    """The file is not an encoder this service can serve."""

    def __init__(self, file: str, reason: str) -> None:
        self.reason = reason
        super().__init__(f"{file} cannot be served: {reason}.")


class RouteTaken(StartupError):
    """A path that a setting names is another route's."""

    def __init__(self, setting: str, path: str, method: str) -> None:
        self.setting = setting
        super().__init__(
            f"`{setting}` is {path}, and {method} {path} is answered otherwise already: name another path."
        )


class ProviderUnavailable(StartupError):
    """The execution provider asked for is not there."""

    setting = "provider"

    def __init__(self, provider: str, reason: str) -> None:
        super().__init__(f"The {provider} provider was asked for (`{self.setting}`={provider}), but {reason}.")


class GoldenMismatch(StartupError):
    """The session does not reproduce the embeddings stored in its artifact."""

    def __init__(self, file: str, difference: float, tolerance: float) -> None:
        super().__init__(
            f"{file} does not reproduce its golden vectors here: they differ by {difference:.3g}, "
            f"and {tolerance:.3g} is tolerated. The file or this machine's runtime is not the one that was proven."
        )
