"""Tables of what stands in the code: settings, recipes, the manifest, command lines, and what the folders are."""

import argparse
import ast
import dataclasses
import importlib
import inspect
import io
import json
import os
import re
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from docs.tables import describe_type, read_attributes, sentence, table
from lengthwise.commands import COMMANDS, EXIT_CODES
from model.data.catalogue import DATASETS
from model.tasks.catalogue import TASKS
from model.training import run_directory
from service.encoder.manifest import Manifest
from service.settings import Settings, variable_of

PROGRAMS = ("lengthwise", "service", "model", "export", "bulk", "bench")  # the folders whose modules may be commands
HELP_COLUMNS = 80  # of the terminal that the command's help is laid out for


def write_settings() -> str:
    """Write each setting with its default and what it sets."""
    rows = [
        (f"`{variable_of(name)}`", "none" if field.default is None else f"`{field.default}`", field.description)
        for name, field in Settings.model_fields.items()
    ]
    return table(["variable", "default", "what it sets"], rows)


class _Described(SystemExit):
    """A parser was about to read its command line."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self.parser = parser


def find_parsers() -> list[argparse.ArgumentParser]:
    """Return the parser of each command, by calling its `main` up to where the command line is read."""

    def describe(parser: argparse.ArgumentParser, *_: object) -> None:
        raise _Described(parser)

    parsers = []
    kept = argparse.ArgumentParser.parse_args
    argparse.ArgumentParser.parse_args = describe  # type: ignore[method-assign,assignment]
    try:
        for path in sorted(path for folder in PROGRAMS for path in Path(folder).rglob("*.py")):
            text = path.read_text(encoding="utf-8")
            if "ArgumentParser(" in text and "def main(" in text:
                name = ".".join(path.with_suffix("").parts)
                try:
                    main = importlib.import_module(name).main
                    main(*([[]] if inspect.signature(main).parameters else []))
                except _Described as described:
                    parsers.append(described.parser)
    finally:
        argparse.ArgumentParser.parse_args = kept  # type: ignore[method-assign]
    return parsers


def write_commands() -> str:
    """Write each command with its arguments."""
    parts = []
    for parser in sorted(find_parsers(), key=order_commands):
        rows = []
        for action in parser._actions:
            if isinstance(action, argparse._HelpAction):
                continue
            names = ", ".join(f"`{name}`" for name in action.option_strings) or f"`{action.metavar or action.dest}`"
            choices = "" if action.choices is None else "one of " + ", ".join(f"`{one}`" for one in action.choices)
            rows.append((names, "; ".join(part for part in (action.help, choices, describe_default(action)) if part)))
        said = sentence(
            re.sub(r"^`(?:lengthwise|python -m) .*?: ", "", (parser.description or "").strip(), flags=re.DOTALL)
        )
        parts.append(f"### {parser.prog}\n\n{said[:1].upper()}{said[1:]}\n\n{table(['argument', 'what it is'], rows)}")
    return "\n\n".join(parts)


def order_commands(parser: argparse.ArgumentParser) -> tuple[int, str]:
    """Order commands as `lengthwise help` does; those that are not its own come last."""
    name = parser.prog.removeprefix("lengthwise ")
    return [*COMMANDS].index(name) if name in COMMANDS else len(COMMANDS), parser.prog


def write_flags() -> str:
    """Write the flags of each of the command's programs in a line, for what completes command lines."""
    flags = {
        parser.prog: [name for action in parser._actions for name in action.option_strings] for parser in find_parsers()
    }
    settings = [f"--{name.replace('_', '-')}" for name in [*Settings.model_fields, "http_port"]]
    return "".join(
        f"{name} {' '.join(flags.get(f'lengthwise {name}', ['-h', '--help', *settings]))}\n" for name in COMMANDS
    )


def write_helps() -> str:
    """Write what each of the command's programs shows with `--help`, one after the other."""
    kept = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(HELP_COLUMNS)
    try:
        return "\n".join(map(ask_for_help, COMMANDS))
    finally:
        os.environ.pop("COLUMNS")
        os.environ |= {"COLUMNS": kept} if kept else {}


def ask_for_help(name: str) -> str:
    """Return what a program shows with `--help`."""
    told = io.StringIO()
    with redirect_stdout(told), suppress(SystemExit):
        importlib.import_module(COMMANDS[name].module).main(["--help"])
    return told.getvalue()


def write_examples() -> str:
    """Write each name of the command with what it is for and an example."""
    rows = [(f"`{name}`", command.summary, f"`{command.example}`") for name, command in COMMANDS.items()]
    return table(["command", "what it does", "for example"], rows)


def write_exit_codes() -> str:
    """Write the command's exit codes."""
    return table(["code", "meaning"], [(f"`{code}`", meaning) for code, meaning in EXIT_CODES.items()])


def describe_default(action: argparse.Action) -> str:
    """Say what an argument is by default, unless its help or its choices say so."""
    told = action.help or ""
    if action.default in (None, False, "", []) or action.choices or str(action.default) in told or "default" in told:
        return ""
    return f"`{action.default}` by default"


def list_fields(kind: type[BaseModel], prefix: str = "") -> list[tuple[str, str, str]]:
    """Return name, type and meaning of each field of a pydantic model, and of the models within it."""
    rows = []
    said, schema = read_attributes(kind), kind.model_json_schema()["properties"]
    for name, field in kind.model_fields.items():
        is_list = "list[" in str(field.annotation)
        inner = next((one for one in find_models(field.annotation) if one.__name__ != "Tensor"), None)
        if inner is None:
            rows.append((f"`{prefix}{name}`", describe_type(schema[name]), said.get(name, "")))
        else:
            full, shown = f"{prefix}{name}{'[]' if is_list else ''}", "list of object" if is_list else "object"
            rows += [(f"`{full}`", shown, said.get(name, sentence(inner.__doc__))), *list_fields(inner, f"{full}.")]
    return rows


def find_models(annotation: Any) -> list[type[BaseModel]]:
    """Return the pydantic models in an annotation."""
    if isinstance(annotation, type) and not hasattr(annotation, "__origin__"):
        return [annotation] if issubclass(annotation, BaseModel) else []
    return [one for part in getattr(annotation, "__args__", ()) for one in find_models(part)]


def write_manifest() -> str:
    """Write the fields of an artifact's manifest."""
    return table(["field", "type", "what it is"], list_fields(Manifest))


def write_dataclass(kind: type) -> str:
    """Write the fields of a dataclass with their defaults."""
    said = read_attributes(kind)
    rows = []
    for field in dataclasses.fields(kind):
        default = "required" if field.default is dataclasses.MISSING else f"`{json.dumps(field.default)}`"
        rows.append((f"`{field.name}`", default, said.get(field.name, "")))
    return table(["field", "default", "what it sets"], rows)


def write_run_directory() -> str:
    """Write what a training leaves, as the module that writes it says."""
    rows = re.findall(r"^\| (`.*`) \| (.*) \|$", run_directory.__doc__ or "", re.MULTILINE)
    return table(["file", "what it holds"], rows)


def write_tasks() -> str:
    """Write the name of each task with what it learns."""
    return table(["task", "what it learns"], [(f"`{name}`", sentence(task.__doc__)) for name, task in TASKS.items()])


def write_datasets() -> str:
    """Write the name of each data set with what it is."""
    rows = [(f"`{name}`", sentence(load.__doc__)) for name, load in sorted(DATASETS.items())]
    return table(["data set", "what it is"], rows)


def write_rooms() -> str:
    """Write what each package is, by the first paragraph of its docstring, which is its map."""
    rows = []
    for folder in PROGRAMS:
        for path in sorted(Path(folder).rglob("__init__.py")):
            text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
            rows.append((f"`{path.parent}/`", sentence(text)))
    return table(["room", "what is there"], rows)


def write_verbs() -> str:
    """Write the verbs of the Makefile."""
    text = Path("Makefile").read_text(encoding="utf-8")
    rows = re.findall(r"^([a-z]+):.*## (.*)$", text, re.MULTILINE)
    return table(["verb", "what it does"], [(f"`make {verb}`", text) for verb, text in rows])
