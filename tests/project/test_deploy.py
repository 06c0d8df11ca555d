"""What is deployed beside the service names what the service has."""

import json
import re
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from tests.api.test_monitoring import METRICS

DASHBOARD = json.loads(Path("deploy/grafana/dashboard.json").read_text(encoding="utf-8"))
ALERTS = yaml.safe_load(Path("deploy/prometheus/alerts.yaml").read_text(encoding="utf-8"))
PAGE = Path("docs/reference/metrics.md").read_text(encoding="utf-8")

SUFFIXES = {"counter": {"_total"}, "histogram": {"_bucket", "_sum", "_count"}, "gauge": {""}}
SERIES = {f"{name}{suffix}": name for name, (kind, _) in METRICS.items() for suffix in SUFFIXES[kind]}
OTHERS = {"process_resident_memory_bytes"}

# Words of PromQL that are used; a name that is neither one of them nor a metric or a label is a mistake.
WORDS = {"sum", "rate", "increase", "histogram_quantile", "by", "on", "and", "label_values"}
SCRAPED = {"instance", "job"}  # labels that Prometheus adds


def list_expressions() -> list[tuple[str, str]]:
    """Return each expression with where it stands."""
    panels = [(panel["title"], target["expr"]) for panel in DASHBOARD["panels"] for target in panel["targets"]]
    variables = [
        (variable["name"], variable["query"]["query"])
        for variable in DASHBOARD["templating"]["list"]
        if variable["type"] == "query"
    ]
    rules = [(rule["alert"], rule["expr"]) for group in ALERTS["groups"] for rule in group["rules"]]
    return [*panels, *variables, *rules]


EXPRESSIONS = list_expressions()


def tokenize(expression: str) -> list[str]:
    """Split an expression into PromQL's tokens; what is none is left as one character.

    A range such as `[5m]` is one token, and so is a quoted string.
    """
    pattern = r'"[^"]*"|\[(?:\d+[smhd]|\$__rate_interval)\]|[a-zA-Z_][a-zA-Z0-9_]*|\d+(?:\.\d+)?|=~|!~|!=|>=|<=|==|\S'
    return re.findall(pattern, expression)


@pytest.mark.parametrize(("place", "expression"), EXPRESSIONS, ids=[place for place, _ in EXPRESSIONS])
def test_expressions_name_metrics_and_labels_that_exist(place: str, expression: str) -> None:
    """Each name in an expression is a series of the service, one of its labels, or a word of PromQL."""
    tokens = tokenize(expression)
    names = [token for token in tokens if re.fullmatch(r"[a-zA-Z_]\w*", token)]
    series = [name for name in names if name in SERIES or name in OTHERS]
    assert series, place
    others = {"model"} if place == "model" else set()  # what the variable is read from
    labels = others.union(*(METRICS[SERIES[name]][1] for name in series if name in SERIES)) | {"le"} | SCRAPED
    assert set(names) <= WORDS | set(series) | labels


@pytest.mark.parametrize(("place", "expression"), EXPRESSIONS, ids=[place for place, _ in EXPRESSIONS])
def test_expressions_are_promql(place: str, expression: str) -> None:
    """Each parses, with Grafana's variables filled in; counters are read by rate or increase, buckets by a quantile."""
    if not expression.startswith("label_values"):  # a query of Grafana's own
        promql_parser.parse(expression.replace("$__rate_interval", "5m").replace("$", ""))
    for name in re.findall(r"lengthwise_\w+(?:_total|_bucket|_sum|_count)\b", expression):
        assert re.search(rf"(rate|increase)\({name}(\{{[^}}]*\}})?\[", expression), place
    if "_bucket" in expression:
        assert re.search(r"histogram_quantile\(0\.\d+, sum by \([^)]*\ble\b[^)]*\) \(rate\(", expression), place


def test_every_metric_has_a_panel() -> None:
    """The dashboard shows all there is."""
    shown = {
        SERIES[token]
        for panel in DASHBOARD["panels"]
        for target in panel["targets"]
        for token in tokenize(target["expr"])
        if token in SERIES
    }
    assert shown == set(METRICS)


def test_the_dashboard_is_one_grafana_takes() -> None:
    """Panels have ids of their own, a place in the grid that no other has, and a datasource that can be chosen."""
    panels = DASHBOARD["panels"]
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len({panel["id"] for panel in panels}) == len(places) == len(panels)
    for panel in panels:
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
        assert [target["refId"] for target in panel["targets"]] == [*"ABCDEF"][: len(panel["targets"])]
    assert {"datasource", "model", "instance"} == {one["name"] for one in DASHBOARD["templating"]["list"]}


def test_alerts_say_how_bad_and_what_to_do() -> None:
    """Each has a name of its own, a severity, a summary and a description, whose templates name labels it has."""
    rules: list[dict[str, Any]] = [rule for group in ALERTS["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        assert set(rule["annotations"]) == {"summary", "description"}
        assert re.fullmatch(r"\d+[mh]", rule.get("for", "1m"))
        kept = re.search(r"sum by \(([^)]*)\)", rule["expr"])
        labels = {name.strip() for name in kept[1].split(",")} if kept else {"instance", "model"}
        used = re.findall(r"\{\{ \$labels\.(\w+) \}\}", "".join(rule["annotations"].values()))
        assert set(used) <= labels


def test_the_metrics_page_lists_the_metrics() -> None:
    """Its table has each metric's name, type and labels, and no other."""
    rows = re.findall(r"^\| `(lengthwise_\w+)` \| (\w+) \|([^|]*)\|", PAGE, re.MULTILINE)
    found = {name.removesuffix("_total"): (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    assert found == METRICS
