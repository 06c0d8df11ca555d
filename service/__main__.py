"""`python -m service`: serve; or run another program of the service, as `python -m service check`."""

import sys
from importlib import import_module

# Imported when asked for: the check takes milliseconds, for it needs none of what serving needs.
PROGRAMS = {
    "serve": "service.server.serve",
    "check": "service.server.check",
    "keys": "service.api.keys",
    "calibrate": "service.costs.calibrate",
    "examine": "service.catalogue.vetting.command",
    "inspect": "service.catalogue.card",
    "doctor": "service.server.doctor",
}


def main(arguments: list[str] | None = None) -> None:
    """Run the program that the first argument names; without a name, serve.

    Args:
        arguments: the command line, without the program; the process's own by default.
    """
    given = sys.argv[1:] if arguments is None else arguments
    name, rest = (given[0], given[1:]) if given and given[0] in PROGRAMS else ("serve", given)
    import_module(PROGRAMS[name]).main(rest)


if __name__ == "__main__":
    main()
