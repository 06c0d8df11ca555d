"""The tuned numbers that decide what runs next, all in one place."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Policy:
    """What the queues go by.

    Attributes:
        little_seconds: If all there is to run takes no longer, it is not worth sharing out among runners, nor waking
            one for it.
        patience_seconds: A job without a deadline is as urgent as one that must be done this long after its arrival.
            So none waits for ever: nothing that arrives later than that goes before it.
        bulk_seconds: A job that should take one runner longer than this is bulk, which gives way to others.
        bulk_patience_seconds: For so long. From then on bulk is due, part by part.
        part_seconds: What a part of a bulk job should take one runner.
        bulk_share: Parts become due at such a pace that all bulk together is sure of this share of the runners. It has
            whatever is idle besides.
        company_seconds: So long after a job came that is not bulk, bulk leaves it a CPU as well as a runner.
        window: Sequences cut at a time, the most urgent: among so many, each has mates of nearly equal length.
        max_cut_seconds: What a batch should take at most. A run cannot be interrupted, so longer ones would leave
            deadlines and small requests to chance, for a gain of a few percent.
        max_cut_stretch: A batch may take longer than that if one of its sequences alone does: so many times what the
            longest takes alone.
        slacks: How far over its fair part of the work a batch may go if work is shared out among idle runners. Smaller
            batches cost more in all, so the even share of the least total is not always within reach.
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


POLICY = Policy()
