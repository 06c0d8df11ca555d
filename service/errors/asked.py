"""What a request asks for that cannot be answered, or not by whoever asks."""

from service.errors.base import LengthwiseError


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
