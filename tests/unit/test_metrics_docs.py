"""What is written about metrics, asked of them and warned about is held to what is exported."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from django_dbpool.contrib import prometheus
from django_dbpool.contrib.prometheus import PoolCollector
from django_dbpool.contrib.prometheus.families import FAMILIES, Durations
from django_dbpool.core.tally import BOUNDS
from django_dbpool.metrics_log import report_of
from tests.fixtures.readings import reading
from tests.unit.test_docs import rows

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/metrics.md").read_text()
FOLDER = Path(prometheus.__file__).parent
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "grafana.json").read_text())

GIVEN_BY_PROMETHEUS = {"job", "instance"}
EXPORTED: dict[str, set[str]] = {}
for _metric in PoolCollector(lambda: [reading(refused={"PoolExhausted": 1})]).collect():
    for _sample in _metric.samples:
        EXPORTED.setdefault(_sample.name, set()).update(_sample.labels)


@dataclass(frozen=True)
class Alert:
    name: str
    expression: str
    text: str


def alerts() -> list[Alert]:
    """As much YAML as the file has in it."""
    found = []
    for part in re.split(r"\n {6}- alert: ", (FOLDER / "alerts.yml").read_text())[1:]:
        expression = re.search(r"\n {8}expr: (?:\|\n((?: {10,}.*\n)+)|(.*)\n)", part)
        assert expression is not None, part
        text = " ".join((expression[1] or expression[2]).split())
        found.append(Alert(part.split("\n")[0], text, part))
    return found


def expressions() -> Iterator[tuple[str, str]]:
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            yield f"{panel['title']}: {target['refId']}", target["expr"]
    for alert in alerts():
        yield alert.name, alert.expression
    for block in re.findall(r"```promql\n(.*?)```", PAGE, re.DOTALL):
        yield from re.findall(r"# (.*)\n(.*)", block)


EXPRESSIONS = dict(expressions())
KNOWN = {"sum", "by", "rate", "increase", "avg_over_time", "histogram_quantile"}


def faults(expression: str) -> list[str]:
    """What in an expression names something that nobody exports."""
    selectors = re.findall(r"(django_dbpool_\w+)(?:\{([^}]*)\})?", expression)
    found = [fault for name, matchers in selectors for fault in of_selector(name, matchers)]
    labels = GIVEN_BY_PROMETHEUS.union(*(EXPORTED.get(name, set()) for name, _ in selectors))
    for group in re.findall(r"by \(([^)]*)\)", expression):
        found += [f"no label {label.strip()}" for label in group.split(",") if label.strip() not in labels]
    bare = re.sub(r"django_dbpool_\w+|\{[^}]*\}|\[[^]]*\]|by \([^)]*\)", " ", expression)
    found += [f"no function {word}" for word in re.findall(r"[a-z_]+", bare) if word not in KNOWN]
    if expression.count("(") != expression.count(")"):
        found.append("brackets")
    for name, called in ((name, re.search(rf"(\w+)\({name}", expression)) for name, _ in selectors):
        counts = name.endswith(("_total", "_bucket", "_sum", "_count"))
        if counts != (called is not None and called[1] in ("rate", "increase")):
            found.append(f"{name} is {'a counter' if counts else 'a gauge'}")
    return found


def of_selector(name: str, matchers: str) -> Iterator[str]:
    if name not in EXPORTED:
        yield f"no metric {name}"
        return
    for matcher in filter(None, (each.strip() for each in matchers.split(","))):
        match = re.fullmatch(r'(\w+)(=|!=|=~|!~)"([^"]*)"', matcher)
        if match is None:
            yield f"not a matcher: {matcher}"
        elif match[1] not in EXPORTED[name] | GIVEN_BY_PROMETHEUS:
            yield f"{name} has no label {match[1]}"
        elif "$" not in match[3]:
            wanted = match[3].split("|") if "~" in match[2] else [match[3]]
            if not set(wanted) <= values_of(name, match[1]):
                yield f"{name} never has {matcher}"


def values_of(name: str, label: str) -> set[str]:
    metrics = PoolCollector(lambda: [reading()]).collect()
    samples = (sample for metric in metrics for sample in metric.samples)
    return {sample.labels[label] for sample in samples if sample.name == name}


def test_there_are_expressions() -> None:
    assert len(DASHBOARD["panels"]) >= 12
    assert len(alerts()) >= 8
    assert len(EXPRESSIONS) >= 35


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_expressions_ask_for_what_is_exported(name: str) -> None:
    assert faults(EXPRESSIONS[name]) == []


@pytest.mark.parametrize(
    ("expression", "fault"),
    [
        ("sum by (alias) (django_dbpool_conections)", "no metric django_dbpool_conections"),
        ('django_dbpool_connections{stat="used"}', "django_dbpool_connections has no label stat"),
        ('django_dbpool_connections{state="busy"}', 'django_dbpool_connections never has state="busy"'),
        ('django_dbpool_connections{state=="used"}', 'not a matcher: state=="used"'),
        ("sum by (alias, error) (django_dbpool_waiting)", "no label error"),
        ("summ by (alias) (django_dbpool_waiting)", "no function summ"),
        ("sum by (alias) (django_dbpool_waiting", "brackets"),
        ("sum by (alias) (django_dbpool_leases_total)", "django_dbpool_leases_total is a counter"),
        ("rate(django_dbpool_waiting[5m])", "django_dbpool_waiting is a gauge"),
    ],
)
def test_faults_are_found(expression: str, fault: str) -> None:
    assert fault in faults(expression)


def test_legends_name_labels_that_are_left() -> None:
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            left = set(re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", target["expr"]))))
            assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= left, panel["title"]


def test_every_metric_is_on_the_dashboard() -> None:
    """But for what others on it say better."""
    asked = set(re.findall(r"django_dbpool_\w+", json.dumps(DASHBOARD)))
    names = {family.name for family in FAMILIES if not any(name.startswith(family.name) for name in asked)}
    assert names == {"django_dbpool_connections_min", "django_dbpool_timeouts"} - asked


def test_dashboard_can_be_imported() -> None:
    """Ids are unique, panels don't overlap, and the data source is the reader's choice."""
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    assert len({(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}) == len(panels)
    assert {panel["datasource"]["uid"] for panel in panels} == {"${datasource}"}
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert list(variables) == ["datasource", "job", "alias"]
    for name in ("job", "alias"):
        assert variables[name]["query"]["query"] == f"label_values(django_dbpool_connections_max, {name})"


def test_thresholds_are_the_ones_of_the_alerts() -> None:
    thresholds = {alert.name: float(alert.expression.rpartition(" > ")[2]) for alert in alerts()}
    assert thresholds["DatabasePoolUtilisationHigh"] == 0.75
    assert thresholds["DatabasePoolUtilisationCritical"] == 0.80
    rules = pytest.importorskip("django_dbpool.core.alerts").RULES
    same = {
        "utilisation": ("DatabasePoolUtilisationHigh", "DatabasePoolUtilisationCritical"),
        "waiters": ("DatabasePoolWaiters", "DatabasePoolWaitersMany"),
        "timeouts": (None, "DatabasePoolTimeouts"),
        "connect_failures": ("DatabaseConnectFailures", "DatabaseConnectFailuresMany"),
        "circuit": (None, "DatabaseCircuitOpen"),
        "leak": ("DatabaseLeaseOverdue", None),
    }
    for rule, (warning, critical) in same.items():
        assert (rules[rule].warning, rules[rule].critical) == (
            warning and thresholds[warning],
            critical and thresholds[critical],
        ), rule


def test_alerts_work_with_the_scrape_interval_that_prometheus_has_by_default() -> None:
    """A minute. rate() and increase() need two samples, and two minutes without one are no reason for silence."""
    for alert in alerts():
        for function, minutes in re.findall(r"(\w+)\(django_dbpool_\w+(?:\{[^}]*\})?\[(\d+)m\]", alert.expression):
            assert int(minutes) >= (2 if function == "avg_over_time" else 4), alert.name


def test_whoever_is_refused_counts_as_in_the_alerts_of_processes() -> None:
    (timeouts,) = [alert for alert in alerts() if alert.name == "DatabasePoolTimeouts"]
    assert 'error=~"PoolExhausted|PoolOverloaded"' in timeouts.expression


def test_alerts_say_how_bad_it_is_and_what_to_do() -> None:
    names = [alert.name for alert in alerts()]
    assert len(set(names)) == len(names)
    for alert in alerts():
        assert re.search(r"\n {8}labels: \{severity: (warning|critical)\}\n", alert.text), alert.name
        assert re.search(r"\n {10}summary: \".*\$labels.alias.*\"\n {10}description: \S", alert.text), alert.name


def test_table_is_the_code() -> None:
    """Every metric with its type and labels, in the order of the code."""
    documented = [(row[0].strip("`"), row[1], re.findall(r"\w+", row[2])) for row in rows(PAGE)]
    exported: list[tuple[str, str, list[str]]] = []
    for family in FAMILIES:
        if isinstance(family, Durations):
            exported.append((family.name, "histogram", []))
        else:
            suffix = "_total" if family.kind == "counter" else ""
            exported.append((family.name + suffix, family.kind, list(family.labels)))
    assert documented == exported
    assert all(row[3] for row in rows(PAGE))


def test_values_of_labels_are_named() -> None:
    for metric in PoolCollector(lambda: [reading()]).collect():
        for sample in metric.samples:
            for label, value in sample.labels.items():
                if label not in ("alias", "le", "error"):
                    assert f"`{value}`" in PAGE, (label, value)


def test_buckets_are_the_ones_of_the_code() -> None:
    assert "1, 5, 10, 50, 100, 500 ms and 1, 5, 10 s" in PAGE
    assert [bound * 1000 for bound in BOUNDS] == [1, 5, 10, 50, 100, 500, 1000, 5000, 10_000]


def test_names_in_the_log_are_named() -> None:
    section = PAGE.partition('DBPOOL["LOG_FORMAT"] = "json"')[2].partition("Django shows")[0]
    named = set(re.findall(r"`(\w+)`", section)) - {"django_dbpool"}
    assert named == {*report_of(reading(), None), "event", "at", "host", "pid", "role", "seconds"}
