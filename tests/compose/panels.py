"""The dashboards' queries against a real Prometheus: which have no data, and what the panels look like."""

import html
import json
import math
import pathlib
import re
import time
import urllib.error
import urllib.parse
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
BOARDS = ROOT / "deploy/grafana/dashboards"
DOCUMENTS = [ROOT / "docs/metrics.md", ROOT / "docs/load.md", ROOT / "tests/lte/README.md"]
# A name of ours in a query, in text or in an exposition.
NAME = re.compile(r"\b(?:tessera|process)_[a-z0-9_]+\b")
COLORS = ["#3274d9", "#56a64b", "#e02f44", "#ff9830", "#8f3bb8", "#f2cc0c", "#37872d", "#ff7383", "#5794f2", "#b877d9"]


def boards():
    """(file's stem, dashboard) of each."""
    return [(path.stem, json.loads(path.read_text())) for path in sorted(BOARDS.glob("*.json"))]


def queries(board):
    """(panel, target) of each query of a dashboard."""
    return [(panel, target) for panel in board["panels"] for target in panel.get("targets", [])]


def family(name):
    """The metric that a name of a series belongs to."""
    return re.sub(r"_(bucket|sum|count)$", "", name) if name.endswith(("_bucket", "_sum", "_count")) else name


class Prometheus:
    def __init__(self, base):
        self.base = base

    def ask(self, path, **parameters):
        url = f"{self.base}{path}?{urllib.parse.urlencode(parameters, doseq=True)}"
        try:
            with urllib.request.urlopen(url, timeout=20) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise ValueError(f"{error.code}: {error.read().decode(errors='replace')}") from None

    def range(self, expression, seconds=120, step=5):
        """Series of a query over the last seconds: [(labels, [(time, value)])], without what is not a number."""
        expression = expression.replace("$__rate_interval", "1m")
        now = time.time()
        data = self.ask("/api/v1/query_range", query=expression, start=now - seconds, end=now, step=step)
        series = []
        for found in data["result"]:
            points = [(at, float(value)) for at, value in found["values"] if not math.isnan(float(value))]
            if points:
                series.append((found["metric"], points))
        return series

    def value(self, expression):
        """The sum of what a query gives now; None without an answer."""
        result = self.ask("/api/v1/query", query=expression)["result"]
        return sum(float(found["value"][1]) for found in result) if result else None

    def names(self):
        """Families of ours that it has scraped from anything that is up."""
        return {family(name) for name in self.ask("/api/v1/label/__name__/values") if NAME.fullmatch(name)}


def evaluate(prometheus, jobs):
    """Runs every query of every panel. Answers ({board: [(panel, [(legend, series)])]}, [what has no data])."""
    shown, empty = {}, []
    for stem, board in boards():
        if stem == "load" and "ue" not in jobs:
            continue
        panels = {}
        for panel, target in queries(board):
            try:
                series = prometheus.range(target["expr"])
            except ValueError as error:
                empty.append(f"{stem}: {panel['title']}: {target['expr']}: {error}")
                continue
            if not series:
                empty.append(f"{stem}: {panel['title']}: {target['expr']}: no data")
            legend = target["legendFormat"]
            panels.setdefault(panel["id"], (panel, []))[1].extend((name_of(legend, labels), points) for labels, points in series)
        shown[stem] = list(panels.values())
    return shown, empty


def name_of(legend, labels):
    if legend == "__auto":
        return ", ".join(f"{key}={value}" for key, value in sorted(labels.items()) if key != "__name__")
    return re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda match: labels.get(match[1], ""), legend).strip()


def undocumented(prometheus):
    """Names exposed, or asked for by panels and alerts, that the reference does not have; and the other way round."""
    reference = {family(name) for path in DOCUMENTS for name in NAME.findall(path.read_text())}
    asked = {family(name) for _, board in boards() for _, target in queries(board) for name in NAME.findall(target["expr"])}
    asked |= {family(name) for name in NAME.findall((ROOT / "deploy/prometheus/alerts.yml").read_text())}
    exposed = prometheus.names()
    return [f"{name} is exposed, and no panel and no document names it" for name in sorted(exposed - reference - asked)] + [
        f"{name} is asked for, and no document names it" for name in sorted(asked - reference)]


def quantity(value, unit):
    if unit in ("percentunit",):
        return f"{100 * value:.3g} %"
    if unit == "s":
        return f"{value:.3g} s" if value >= 1 or value == 0 else f"{1000 * value:.3g} ms"
    for limit, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g} {prefix}"
    return f"{value:.3g}"


def draw(panel, series, width=420, height=200):
    """A panel as SVG."""
    unit = panel["fieldConfig"]["defaults"]["unit"]
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" font-size="10">',
             f'<rect width="{width}" height="{height}" fill="#fff" stroke="#ccc"/>',
             f'<text x="8" y="16" font-size="12" font-weight="bold">{html.escape(panel["title"])}</text>']
    if panel["type"] == "stat":
        text = " ".join(quantity(points[-1][1], unit) for _, points in series) or "no data"
        parts.append(f'<text x="{width / 2}" y="{height / 2 + 16}" font-size="34" text-anchor="middle">{html.escape(text)}</text>')
    elif series:
        rows = min(len(series), 6)
        left, right, top, bottom = 48, width - 8, 26, height - 26 - 12 * ((rows + 1) // 2)
        times = [at for _, points in series for at, _ in points]
        values = [value for _, points in series for _, value in points]
        first, last, most = min(times), max(max(times), min(times) + 1), max(max(values), 1e-9)
        for step in range(3):
            y = bottom - (bottom - top) * step / 2
            parts.append(f'<line x1="{left}" x2="{right}" y1="{y}" y2="{y}" stroke="#eee"/>'
                         f'<text x="{left - 4}" y="{y + 3}" text-anchor="end" fill="#666">{quantity(most * step / 2, unit)}</text>')
        for number, (name, points) in enumerate(series[:40]):
            color = COLORS[number % len(COLORS)]
            line = " ".join(f"{left + (right - left) * (at - first) / (last - first):.1f},{bottom - (bottom - top) * value / most:.1f}"
                            for at, value in points)
            parts.append(f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="1.5"/>')
            if number < rows:
                x, y = left + (right - left) / 2 * (number % 2), bottom + 16 + 12 * (number // 2)
                parts.append(f'<rect x="{x}" y="{y - 7}" width="8" height="8" fill="{color}"/>'
                             f'<text x="{x + 12}" y="{y}">{html.escape((name or "value")[:32])} {quantity(points[-1][1], unit)}</text>')
        if len(series) > rows:
            parts.append(f'<text x="{right}" y="16" text-anchor="end" fill="#666">{len(series)} series</text>')
    else:
        parts.append(f'<text x="{width / 2}" y="{height / 2}" text-anchor="middle" fill="#c00">no data</text>')
    return "".join(parts) + "</svg>"


def render(shown, folder):
    """One SVG for each dashboard, drawn from the answers that were judged."""
    folder.mkdir(parents=True, exist_ok=True)
    for stem, panels in shown.items():
        columns, width, height = 4, 420, 200
        rows = math.ceil(len(panels) / columns)
        parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{columns * width}" height="{rows * height}">']
        for number, (panel, series) in enumerate(panels):
            x, y = number % columns * width, number // columns * height
            parts.append(f'<g transform="translate({x} {y})">{draw(panel, series, width, height)}</g>')
        (folder / f"{stem}.svg").write_text("".join(parts) + "</svg>")
