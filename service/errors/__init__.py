"""What can go wrong, in the domain's words. Each error carries its data and builds its own sentence.

Nothing here is of HTTP or of the environment: `service.api.problems` maps each error to its answer.

- `base`: the base of every error: a sentence, and what a program needs of it.
- `asked`: what a request asks for that cannot be answered, or not by whoever asks.
- `limits`: what is larger than it may be, or takes longer than it may, and by which setting.
- `busy`: what another moment would answer, and what became of a request that was taken.
- `starting`: why the service does not start, or does not serve a file.
"""

# One name for all of them, as in `errors.QueueFull`.
from service.errors.asked import *  # noqa: F403
from service.errors.base import *  # noqa: F403
from service.errors.busy import *  # noqa: F403
from service.errors.limits import *  # noqa: F403
from service.errors.starting import *  # noqa: F403
