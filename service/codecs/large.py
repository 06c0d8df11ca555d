"""Large bodies are read and written on a thread, so that the event loop goes on answering others.

One that would hold the interpreter for several milliseconds is taken a piece at a time; if bodies are smaller, to
give way costs more throughput than it is worth.
"""

import time

LARGE_BODY_BYTES = 2**20
PIECED_BODY_BYTES = 2**21
LARGE_ANSWER_NUMBERS = 2**15
PIECE_BYTES = 2**16
PIECE_NUMBERS = 2**13


def give_way() -> None:
    """Let go of the interpreter for as long as others need to take it.

    A thread that wants it would otherwise wait for 0.05 ms, and for the end of a piece.
    """
    time.sleep(1e-6)
