"""What a problem says of an error, which knows nothing of HTTP or of the environment."""

from pathlib import Path

from service import errors
from service.api import problems
from service.settings import Settings


def test_errors_know_neither_http_nor_the_environment() -> None:
    """Their module names no header and no variable, and their settings are fields of `Settings`."""
    source = Path(errors.__file__).read_text(encoding="utf-8").lower()
    headers = {refusal.header.lower() for refusal in problems.REFUSALS.values() if refusal.header}
    assert not [word for word in ("lengthwise_", "retry-after", *(f'"{name}"' for name in headers)) if word in source]
    settings = {kind.setting for kind in problems.REFUSALS if kind.setting}
    assert "max_body_bytes" in settings
    assert settings <= Settings.model_fields.keys()


def test_a_problem_names_the_variable_of_a_setting() -> None:
    """The error's sentence has the setting's name between backticks; the problem's has its variable."""
    for error in (errors.BodyTooLarge(9), errors.QueueFull(1, 2, "seconds", 3.0), errors.EmptySequence("sequences[0]")):
        assert error.setting is not None
        assert f"`{error.setting}`" in str(error)
        problem = problems.describe(error, "id")
        assert problem.setting == f"LENGTHWISE_{error.setting.upper()}"
        assert problem.setting in problem.detail
        assert "`" not in problem.detail


def test_a_problem_names_the_header_at_fault() -> None:
    """It is the one of the table, unless the error names a place; what to send instead follows the sentence."""
    paths = {
        "X-Request-Timeout-Ms": errors.DeadlinePassed(),
        "Content-Type": errors.UnsupportedMediaType("x", "y"),
        "Content-Encoding": errors.UnsupportedMediaType("x", "y", "Content-Encoding"),
        "Host": errors.InvalidHost(2),
        "sequences[3]": errors.EmptySequence("sequences[3]"),
        "Authorization": errors.InvalidKey(),
    }
    for path, error in paths.items():
        assert problems.describe(error, "id").path == path
    assert problems.describe(errors.InvalidKey(), "id").detail.endswith(" Send the header `Authorization: Bearer KEY`.")
