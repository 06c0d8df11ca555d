"""The service's figures as Prometheus reads them: base units, all labelled with the model."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

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

from service.telemetry import Histogram, Telemetry

Name = TypeVar("Name", bound=str)
Value = TypeVar("Value")


class Gauges(NamedTuple):
    """What is looked up when it is asked for, since nobody counts it."""

    queue_sequences: int
    queue_steps: int
    queue_drain_seconds: float
    cost_error_ratio: float
    runner_last_progress_seconds: float


class Snapshot(Collector):
    """All metrics at one moment."""

    def __init__(self, model: str, telemetry: Telemetry, gauges: Gauges, build: Mapping[str, str]) -> None:
        """Take what there is to tell.

        Args:
            model: the name of what is served.
            telemetry: what was counted.
            gauges: what was looked up.
            build: labels of `lengthwise_build_info`.
        """
        self._model = model
        self._telemetry = telemetry
        self._gauges = gauges
        self._build = dict(build)

    def collect(self) -> Iterator[Metric]:
        """Write each metric down."""
        seen, gauges = self._telemetry, self._gauges
        requests = [((route, str(code)), count) for (route, code), count in seen.requests.items()]
        yield self._count("requests", "Requests that are over.", requests, ["route", "code"])
        yield self._count(
            "rejected", "Requests answered with a problem, by its kind.", _by_name(seen.rejected), ["reason"]
        )
        yield self._count(
            "cancelled",
            "Requests whose client hung up: while their body was read, while they waited, or while they ran.",
            _by_name(seen.cancelled),
            ["where"],
        )
        yield self._count(
            "steps",
            "Steps of batches: valid ones, and all that were computed, padding included.",
            [(("valid",), seen.valid_steps), (("padded",), seen.padded_steps)],
            ["kind"],
        )
        yield self._count("nonfinite", "Sequences whose embedding was not finite.", [((), seen.nonfinite)])
        yield self._distribute(
            "request_duration_seconds",
            "From a request's arrival to the end of its answer, of those that were encoded.",
            [((), seen.request_seconds)],
        )
        yield self._distribute(
            "stage_duration_seconds",
            "Stages of the same requests: from bytes to sequences, until the first run, until the last embedding, to "
            "bytes.",
            _by_name(seen.stage_seconds),
            ["stage"],
        )
        yield self._distribute("batch_sequences", "Sequences of a batch.", [((), seen.batch_sequences)])
        yield self._distribute("batch_steps", "Padded steps of a batch.", [((), seen.batch_steps)])
        yield self._distribute(
            "event_loop_lag_seconds", "How late the event loop was for a timer.", [((), seen.loop_lag)]
        )
        yield self._show("inflight_requests", "Requests under way, this one left out.", seen.inflight - 1)
        yield self._show("queue_sequences", "Sequences that wait.", gauges.queue_sequences)
        yield self._show("queue_steps", "Steps of those.", gauges.queue_steps)
        yield self._show(
            "queue_drain_seconds", "Until all that waits should have its runner.", gauges.queue_drain_seconds
        )
        yield self._show(
            "cost_error_ratio",
            "Usual distance of a run's time from its prediction, in parts of it.",
            gauges.cost_error_ratio,
        )
        yield self._show(
            "runner_last_progress_seconds",
            "Since a run last began or ended; 0 where none is under way.",
            gauges.runner_last_progress_seconds,
        )
        info = InfoMetricFamily("lengthwise_build", "What is served, by what.", labels=["model"])
        info.add_metric([self._model], self._build)
        yield info

    def _count(
        self, name: str, text: str, counts: Iterable[tuple[Sequence[str], int]], labels: Sequence[str] = ()
    ) -> Metric:
        family = CounterMetricFamily(f"lengthwise_{name}", text, labels=["model", *labels])
        for values, count in counts:
            family.add_metric([self._model, *values], count)
        return family

    def _distribute(
        self, name: str, text: str, histograms: Iterable[tuple[Sequence[str], Histogram]], labels: Sequence[str] = ()
    ) -> Metric:
        family = HistogramMetricFamily(f"lengthwise_{name}", text, labels=["model", *labels])
        for values, histogram in histograms:
            family.add_metric([self._model, *values], histogram.buckets(), histogram.sum)
        return family

    def _show(self, name: str, text: str, value: float) -> Metric:
        family = GaugeMetricFamily(f"lengthwise_{name}", text, labels=["model"])
        family.add_metric([self._model], value)
        return family


def write(snapshot: Snapshot, accept: str) -> tuple[bytes, str]:
    """Write a snapshot, and what the kernel knows of the process.

    Args:
        snapshot: taken now.
        accept: the header by which Prometheus chooses a format.

    Returns:
        The body and its media type.
    """
    registry = CollectorRegistry()
    registry.register(snapshot)
    ProcessCollector(registry=registry)
    encode, media_type = choose_encoder(accept)
    return encode(registry), media_type


def _by_name(values: Mapping[Name, Value]) -> list[tuple[tuple[Name], Value]]:
    """Return values with their names as the values of one label."""
    return [((name,), value) for name, value in values.items()]
