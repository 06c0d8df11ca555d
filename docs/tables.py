"""Markdown for what the code says."""

import re
from collections.abc import Iterable
from typing import Any


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Write a Markdown table."""
    titles = [*head]
    lines = [titles, ["---"] * len(titles), *([clean(str(one)) for one in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def clean(text: str) -> str:
    """Write a text for a table: on one line, with what Markdown would take for its own escaped outside of code."""
    parts = re.split(r"(`[^`]*`)", " ".join(text.split()))
    return "".join(part if part.startswith("`") else part.replace("<", "&lt;").replace("|", "\\|") for part in parts)


def sentence(text: str | None) -> str:
    """Return the first paragraph of a docstring on one line."""
    return " ".join((text or "").strip().partition("\n\n")[0].split())


def read_attributes(kind: type) -> dict[str, str]:
    """Return what the `Attributes:` of a docstring says of each of them."""
    block = (kind.__doc__ or "").partition("Attributes:\n")[2]
    found = re.findall(r"^ {8}([\w, ]+): (.*(?:\n {12}.*)*)", block, re.MULTILINE)
    return {name: " ".join(text.split()) for names, text in found for name in names.split(", ")}


def describe_type(schema: Any) -> str:
    """Say in a word or two what a JSON Schema allows."""
    if "anyOf" in schema:
        kinds = [describe_type(one) for one in schema["anyOf"] if one.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    if "$ref" in schema:
        return f"`{schema['$ref'].rpartition('/')[2]}`"
    if schema.get("type") == "array":
        inner = describe_type(schema.get("items", {}))
        return f"list of {inner}" if " or " not in inner else f"list of ({inner})"
    return f"`{schema['const']}`" if "const" in schema else str(schema.get("type", "any"))
