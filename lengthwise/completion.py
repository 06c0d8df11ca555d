"""Print what a shell needs to complete command lines: `source <(lengthwise completion bash)`.

The flags of each command are in a file beside this one, so that no key press imports a program to ask it.
"""

import argparse
import sys
from pathlib import Path

from lengthwise.commands import COMMANDS

FLAGS = Path(__file__).with_name("flags.txt")


def main(arguments: list[str]) -> None:
    """Print the script of a shell.

    Args:
        arguments: the command line, without the program.
    """
    parser = argparse.ArgumentParser(prog="lengthwise completion", description=__doc__)
    parser.add_argument("shell", choices=SHELLS, help="the shell that reads it")
    sys.stdout.write(SHELLS[parser.parse_args(arguments).shell](read_flags()))


def read_flags() -> dict[str, list[str]]:
    """Return the flags of each command that has any; `python -m docs.generate` writes them."""
    lines = map(str.split, FLAGS.read_text(encoding="utf-8").splitlines())
    return {name: flags for name, *flags in lines}


def write_bash(flags: dict[str, list[str]]) -> str:
    """Write a function of bash; what is not a command or a flag is completed as a file."""
    cases = "\n".join(f'    {name}) words="{" ".join(ones)}" ;;' for name, ones in flags.items())
    return f"""_lengthwise() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} words=""
  COMPREPLY=()
  if [ "$COMP_CWORD" -eq 1 ]; then
    words="{" ".join([*COMMANDS, "version", "help"])}"
  elif [[ $word == -* ]]; then
    case ${{COMP_WORDS[1]}} in
{cases}
    completion) ;;
    esac
  elif [ "${{COMP_WORDS[1]}}" = completion ]; then
    words="{" ".join(SHELLS)}"
  fi
  COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _lengthwise lengthwise
"""


def write_zsh(flags: dict[str, list[str]]) -> str:
    """Write a function of zsh, with what each command is for."""
    names = "\n".join(f"      '{name}:{command.summary}'" for name, command in COMMANDS.items())
    cases = "\n".join(f"      {name}) compadd -- {' '.join(ones)} ;;" for name, ones in flags.items())
    return f"""#compdef lengthwise
_lengthwise() {{
  if (( CURRENT == 2 )); then
    local -a names=(
{names}
      'version:Print the version'
    )
    _describe command names
  elif [[ $words[CURRENT] == -* ]]; then
    case $words[2] in
{cases}
    esac
  elif [[ $words[2] == completion ]]; then
    compadd -- {" ".join(SHELLS)}
  else
    _files
  fi
}}
compdef _lengthwise lengthwise
"""


def write_fish(flags: dict[str, list[str]]) -> str:
    """Write the lines of fish, with what each command is for."""
    lines = [
        f"complete -c lengthwise -f -n __fish_use_subcommand -a {name} -d '{command.summary}'"
        for name, command in COMMANDS.items()
    ]
    lines.append("complete -c lengthwise -f -n __fish_use_subcommand -a version -d 'Print the version'")
    lines.append(f"complete -c lengthwise -f -n '__fish_seen_subcommand_from completion' -a '{' '.join(SHELLS)}'")
    for name, ones in flags.items():
        for flag in ones:
            kind = "-l" if flag.startswith("--") else "-s"
            lines.append(f"complete -c lengthwise -n '__fish_seen_subcommand_from {name}' {kind} {flag.lstrip('-')}")
    return "\n".join(lines) + "\n"


SHELLS = {"bash": write_bash, "zsh": write_zsh, "fish": write_fish}
