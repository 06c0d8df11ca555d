"""Writes the service's figures as Prometheus reads them: in base units, those of a model labelled with it."""

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector, CollectorRegistry

from service.batching.runners import RunnerState
from service.observing.counts import Histogram, Telemetry

# Of all workers the highest value stands; all others are added up.
HIGHEST = {
    "lengthwise_queue_drain_seconds",
    "lengthwise_cost_error_ratio",
    "lengthwise_runner_last_progress_seconds",
    "lengthwise_build",
    "process_start_time_seconds",
}


class Gauges(NamedTuple):
    """Figures of a model that are looked up when they are asked for, since nobody counts them."""

    queue_sequences: int
    queue_steps: int
    queue_drain_seconds: float
    cost_error_ratio: float
    build: Mapping[str, str]


class Holdings(NamedTuple):
    """Figures of the process that are looked up when they are asked for."""

    connections: int
    unread_bytes: int
    runners: Mapping[RunnerState, int]


class Snapshot(Collector):
    """All metrics at one moment."""

    def __init__(
        self,
        telemetry: Telemetry,
        gauges: Iterable[tuple[str, Gauges]],
        holdings: Holdings,
        seconds_since_progress: float,
        *,
        is_asked: bool = True,
    ) -> None:
        """Keep the figures to write.

        Args:
            telemetry: all counts.
            gauges: the figures that were looked up, by model.
            holdings: the figures of the process that were looked up.
            seconds_since_progress: the time since a run last began or ended.
            is_asked: whether the request for the metrics is one of those under way.
        """
        self._telemetry = telemetry
        self._gauges = list(gauges)
        self._holdings = holdings
        self._seconds_since_progress = seconds_since_progress
        self._own_requests = int(is_asked)

    def collect(self) -> Iterator[Metric]:
        """Yield each metric."""
        seen = self._telemetry
        models = seen.models.items()
        served = [(name, counts) for name, counts in models if name]
        yield _count(
            "requests",
            "Requests that ended; the code is 499 if nobody was left to answer.",
            "model route code",
            [((model, route, str(code)), count) for (model, route, code), count in seen.requests.items()],
        )
        yield _count(
            "rejected",
            "Requests answered with a problem, by its kind.",
            "model reason",
            [((name, reason), count) for name, counts in models for reason, count in counts.rejected.items()],
        )
        yield _count(
            "cancelled",
            "Requests whose client hung up: while the body was read, in the queue, during a run, or during the answer.",
            "model where",
            [((name, where), count) for name, counts in models for where, count in counts.cancelled.items()],
        )
        yield _count(
            "artifacts",
            "Artifacts that were loaded, refused or unloaded.",
            "model change",
            [((name, change), count) for name, counts in served for change, count in counts.changes.items()],
        )
        yield _count(
            "steps",
            "Steps in batches: valid ones, and all that were computed, padding included.",
            "model kind",
            [((name, kind), getattr(one, f"{kind}_steps")) for name, one in served for kind in ("valid", "padded")],
        )
        for field, text in (
            ("run_seconds", "Seconds that runners were at work on batches."),
            ("nonfinite", "Sequences whose embedding was not finite."),
        ):
            yield _count(field, text, "model", [((name,), getattr(counts, field)) for name, counts in served])
        yield _count(
            "text_tokens",
            "Tokens of texts, by whether the tokenizer knows them.",
            "model kind",
            [((name, kind), getattr(one, f"{kind}_tokens")) for name, one in served for kind in ("known", "unknown")],
        )
        yield _distribute(
            "request_duration_seconds",
            "Seconds from a request's arrival to the end of its answer, of requests that were encoded.",
            "model",
            [((name,), counts.request_seconds) for name, counts in served],
        )
        yield _distribute(
            "stage_duration_seconds",
            "Seconds that each stage of these requests took: reading the body, waiting for the first run, running, and "
            "writing the answer.",
            "model stage",
            [((name, stage), seconds) for name, counts in served for stage, seconds in counts.stage_seconds.items()],
        )
        for field, text in (
            ("batch_sequences", "Sequences in a batch."),
            ("batch_steps", "Padded steps in a batch."),
        ):
            yield _distribute(field, text, "model", [((name,), getattr(counts, field)) for name, counts in served])
        for field, text in (
            ("queue_sequences", "Sequences that wait in the queue."),
            ("queue_steps", "Steps of the sequences that wait in the queue."),
            ("queue_drain_seconds", "Predicted seconds until all sequences that wait have a runner."),
            ("cost_error_ratio", "How far a run's time usually is from its prediction, as a share of the prediction."),
        ):
            yield _show(field, text, "model", [((name,), getattr(gauges, field)) for name, gauges in self._gauges])
        yield _make(
            InfoMetricFamily,
            "build",
            "The versions of what serves, and the model that is served.",
            "model",
            [((name,), dict(gauges.build)) for name, gauges in self._gauges],
        )
        yield _distribute(
            "event_loop_lag_seconds",
            "Seconds that the event loop was late for a timer, measured once a second.",
            "",
            [((), seen.loop_lag)],
        )
        yield _show(
            "inflight_requests",
            "Requests under way, except the one for these metrics.",
            "",
            [((), seen.inflight - self._own_requests)],
        )
        yield _count(
            "closed_connections",
            "Connections closed to make room: idle ones if there were too many, and those of the slowest readers.",
            "why",
            [((why,), count) for why, count in seen.closed.items()],
        )
        yield _show("connections", "Open connections.", "", [((), self._holdings.connections)])
        yield _show(
            "unread_bytes",
            "Bytes of large answers that are under way, and of all answers that wait for their readers.",
            "",
            [((), self._holdings.unread_bytes)],
        )
        yield _show(
            "runners",
            "Runners by what they do; one that hung and was not replaced is lost. Little runs need none of them.",
            "state",
            [((state,), number) for state, number in self._holdings.runners.items()],
        )
        yield _show(
            "runner_last_progress_seconds",
            "Seconds since a run last began or ended; 0 if no run is under way.",
            "",
            [((), self._seconds_since_progress)],
        )


class _Collected(Collector):
    """Metrics that were collected earlier."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        """Return them."""
        return self._families


def collect(snapshot: Snapshot) -> list[Metric]:
    """Return the metrics of a snapshot, and the kernel's figures of the process."""
    return [*snapshot.collect(), *ProcessCollector(registry=None).collect()]


def add_up(workers: Iterable[Iterable[Metric]]) -> list[Metric]:
    """Put the metrics of several workers together: samples of the same labels are added, or the highest one stands."""
    joined: dict[str, Metric] = {}
    values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
    for family in (family for families in workers for family in families):
        joined.setdefault(family.name, _empty(family))
        known = values.setdefault(family.name, {})
        for name, labels, value, *_ in family.samples:
            sample = name, tuple(labels.items())
            join = max if family.name in HIGHEST else float.__add__
            known[sample] = join(known[sample], float(value)) if sample in known else float(value)
    for family in joined.values():
        for (name, pairs), value in values[family.name].items():
            family.add_sample(name, dict(pairs), value)
    return [*joined.values()]


def set_apart(workers: Iterable[tuple[int, Iterable[Metric]]]) -> list[Metric]:
    """Put the metrics of several workers side by side, each labelled with its number; those of one number are added."""
    apart = []
    for number, families in workers:
        for family in families:
            apart.append(labelled := _empty(family))
            for name, labels, value, *_ in family.samples:
                labelled.add_sample(name, {**labels, "process": str(number)}, value)
    return add_up([apart])


def leave_counters(families: Iterable[Metric]) -> list[Metric]:
    """Return what only ever grows: what is left of a worker when it has ended."""
    return [family for family in families if family.type in ("counter", "histogram")]


def _empty(family: Metric) -> Metric:
    """Return a family of the same name without samples."""
    return Metric(family.name, family.documentation, family.type, family.unit)


def pack(families: Iterable[Metric]) -> list[Any]:
    """Take metrics apart into what JSON holds, for another worker."""
    return [
        (one.name, one.documentation, one.type, one.unit, [sample[:3] for sample in one.samples]) for one in families
    ]


def unpack(packed: Iterable[Any]) -> list[Metric]:
    """Turn what `pack` returned into metrics again."""
    families = []
    for *described, samples in packed:
        family = Metric(*described)
        for sample in samples:
            family.add_sample(*sample)
        families.append(family)
    return families


def write(families: Iterable[Metric], accept: str) -> tuple[bytes, str]:
    """Write metrics in the format that Prometheus asks for.

    Args:
        families: the metrics.
        accept: the header in which Prometheus names the formats it reads.

    Returns:
        The body and its media type.
    """
    registry = CollectorRegistry()
    registry.register(_Collected(families))
    encode, media_type = choose_encoder(accept)
    return encode(registry), media_type


def _make(kind: Any, name: str, text: str, labels: str, samples: Iterable[tuple[Any, ...]]) -> Metric:
    """Return a family of one kind; each sample is the values of its labels, and what such a family takes of it."""
    family: Metric = kind(f"lengthwise_{name}", text, labels=labels.split())
    for sample in samples:
        family.add_metric(*sample)  # type: ignore[attr-defined]  # of each kind, with other parameters
    return family


_count, _show = partial(_make, CounterMetricFamily), partial(_make, GaugeMetricFamily)


def _distribute(name: str, text: str, labels: str, seen: Iterable[tuple[tuple[str, ...], Histogram]]) -> Metric:
    samples = [(values, histogram.buckets(), histogram.sum) for values, histogram in seen]
    return _make(HistogramMetricFamily, name, text, labels, samples)
