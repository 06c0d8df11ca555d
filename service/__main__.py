"""`python -m service`: read the settings, load the encoder, serve until a signal says stop."""

import sys
from types import FrameType

import uvicorn
from fastapi import FastAPI
from pydantic import ValidationError
from pydantic_settings import CliApp

from service.app import create_app
from service.errors import StartupError
from service.settings import Settings


class DrainingServer(uvicorn.Server):
    """On a signal, refuse new requests before the ones in flight are awaited and the listener closes."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._service = app.state.service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Mark the service as draining, then shut down as uvicorn does."""
        self._service.is_draining = True
        super().handle_exit(sig, frame)


def main(arguments: list[str] | None = None) -> None:
    """Run the service; exit with one sentence where it cannot start.

    Args:
        arguments: the command line, without the program; the process's own by default.
    """
    try:
        settings = CliApp.run(Settings, cli_args=sys.argv[1:] if arguments is None else arguments)
        app = create_app(settings)
    except (StartupError, ValidationError) as error:
        sys.exit(f"lengthwise: {error}")
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_level=settings.log_level,
        access_log=False,
        timeout_keep_alive=settings.keep_alive_seconds,
        timeout_graceful_shutdown=settings.drain_seconds,
        server_header=False,
    )
    DrainingServer(config, app).run()


if __name__ == "__main__":
    main()
