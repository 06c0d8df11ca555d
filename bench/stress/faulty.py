"""The service with an encoder that fails on marked sequences; `chaos` starts it as a module.

The mark is a sequence's first number. What dies or hangs does so on runner threads only, and not when it is run again.
"""

import threading
import time

from service.__main__ import main
from service.encoder.sequences import Batch, Embeddings
from service.encoder.session import EncoderSession

RAISES, DIES, HANGS = 666.0, 777.0, 888.0


class Faults:
    """A run that looks for marks first."""

    def __init__(self) -> None:
        self._run = EncoderSession.run
        self._met: set[bytes] = set()

    def run(self, session: EncoderSession, batch: Batch) -> Embeddings:
        """Fail as a mark says, or run."""
        first = batch.steps[:, 0, 0]
        if (first == RAISES).any():
            raise RuntimeError("marked")
        if threading.current_thread() is not threading.main_thread():
            if self._meets(batch, DIES):
                raise SystemExit
            if self._meets(batch, HANGS):
                time.sleep(3600)
        return self._run(session, batch)

    def _meets(self, batch: Batch, mark: float) -> bool:
        """Whether a batch holds a marked sequence that was not met before, or an even number of times."""
        rows = {row.tobytes() for row in batch.steps[batch.steps[:, 0, 0] == mark]}
        fresh = rows - self._met
        self._met = (self._met - rows) | fresh
        return bool(fresh)


if __name__ == "__main__":
    faults = Faults()
    # A function is bound to its session; a method of `faults` would not be.
    EncoderSession.run = lambda session, batch: faults.run(session, batch)  # type: ignore[method-assign, assignment]  # noqa: PLW0108
    main()
