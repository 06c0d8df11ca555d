"""The tuned numbers that decide what runs next, all in one place."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Policy:
    """The numbers by which the queues decide.

    Attributes:
        little_seconds: If all that waits takes no longer, it is not shared out among runners, and no runner is woken
            for it.
        patience_seconds: A job without a deadline is as urgent as one that must be done this long after its arrival.
            So no job waits for ever: nothing that arrives later than that goes before it.
        bulk_seconds: A job that should take one runner longer than this is bulk, which gives way to others.
        bulk_patience_seconds: Bulk gives way for this long. Then it is due, part by part.
        part_seconds: A part of a bulk job should take one runner this long.
        bulk_share: Parts become due at such a pace that all bulk together is sure of this share of the runners. Beside
            that it gets whatever is idle.
        company_seconds: For this long after the last job that was not bulk, bulk leaves a CPU free beside a runner.
        window: So many sequences are cut at a time, the most urgent ones. Among so many, each finds others of nearly
            its own length.
        max_cut_seconds: A batch should take no longer than this. A run cannot be interrupted, so longer ones would
            leave deadlines and small requests to chance, for a gain of a few percent.
        max_cut_stretch: A batch may take longer than that if one of its sequences alone does: so many times what the
            longest takes alone.
        slacks: The sizes that are tried if work is shared out among idle runners: how many times its fair part of the
            work a batch may take. Smaller batches cost more in all, so an even share is not always the fastest.
        uses_cpus: Whether runs use the CPUs of this machine, which other workers want, too.
    """

    little_seconds: float = 0.002
    patience_seconds: float = 1.0
    bulk_seconds: float = 0.05
    bulk_patience_seconds: float = 10.0
    part_seconds: float = 0.02
    bulk_share: float = 0.25
    company_seconds: float = 0.2
    window: int = 512
    max_cut_seconds: float = 0.25
    max_cut_stretch: float = 1.5
    slacks: tuple[float, ...] = (1.0, 1.25, 1.6)
    uses_cpus: bool = True


POLICY = Policy()
# If another process runs the batches, together with those of others: the event loop must not wait for it, and to share
# work out among runners that all wait for the same device gains nothing.
AFAR = Policy(little_seconds=0.0, slacks=(), uses_cpus=False)
