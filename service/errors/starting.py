"""Why the service does not start, or does not serve a file."""

from service.errors.base import LengthwiseError


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
