//! The report as one HTML file that needs no other: no script, no font, no picture from elsewhere.

use std::fmt::Write as _;

use crate::load::measure::Second;
use crate::load::report::{Latency, Report};

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 220.0;
/// Around the plot: left for numbers, bottom for seconds.
const LEFT: f64 = 62.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 24.0;
/// Points of one line; more seconds than that are joined.
const POINTS: usize = 900;
const COLOURS: [&str; 8] =
    ["#2166ac", "#1a9850", "#d73027", "#f28e2b", "#7b3294", "#499894", "#8c510a", "#555555"];
const STYLE: &str = "body{font:14px/1.45 system-ui,sans-serif;max-width:960px;margin:2em auto;padding:0 1em;\
    color:#222}h1{font-size:1.5em}h2{font-size:1.1em;margin-top:2em}table{border-collapse:collapse}\
    td,th{padding:.2em .7em;text-align:right;border-bottom:1px solid #ddd}td:first-child,\
    th:first-child{text-align:left}.valid{background:#e5f5e0}.invalid{background:#fde0dd}\
    .verdict{padding:.6em 1em;border-radius:4px}svg{width:100%;height:auto}text{font-size:11px;\
    fill:#444}.key span{margin-right:1.2em;white-space:nowrap}code{font-size:12px;\
    overflow-wrap:anywhere}";

struct Line<'a> {
    name: &'a str,
    colour: &'a str,
    points: Vec<(f64, Option<f64>)>,
}

/// The whole page.
pub fn page(report: &Report) -> String {
    let mut page = String::from("<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">");
    let _ = write!(page, "<title>Load on {}</title>", escaped(&report.conditions.pcscf));
    let _ = write!(page, "<style>{STYLE}</style></head><body>");
    head(report, &mut page);
    tables(report, &mut page);
    let series = joined(&report.series);
    plots(report, &series, &mut page);
    conditions(report, &mut page);
    page.push_str("</body></html>\n");
    page
}

fn head(report: &Report, page: &mut String) {
    let all = &report.all;
    let failed = all.offered.saturating_sub(all.succeeded);
    let _ = write!(page, "<h1>Load on {}</h1>", escaped(&report.conditions.pcscf));
    let (class, word) = match report.generator.is_valid {
        true => ("valid", "Valid: the generator was not the bottleneck."),
        false => ("invalid", "Invalid; the servers are not judged:"),
    };
    let _ = write!(page, "<div class=\"verdict {class}\"><b>{word}</b>");
    for reason in &report.generator.reasons {
        let _ = write!(page, "<br>{}", escaped(reason));
    }
    let _ = write!(
        page,
        "<br>{} attempts in {:.0} s, {} succeeded, {failed} failed, {} of {} UEs registered at the \
         end.",
        all.offered, report.seconds, all.succeeded, report.registered_at_end, report.conditions.ues
    );
    for judged in &report.required {
        let word = if judged.is_met { "met" } else { "<b>not met</b>" };
        let _ = write!(
            page,
            "<br>Required {}: {word} ({}).",
            escaped(&judged.wanted),
            escaped(&judged.found)
        );
    }
    page.push_str("</div>");
}

fn tables(report: &Report, page: &mut String) {
    page.push_str(
        "<h2>Operations</h2><table><tr><th>operation<th>offered<th>succeeded<th>failed\
         <th>challenged",
    );
    for (name, part) in &report.operations {
        let _ = write!(
            page,
            "<tr><td>{name}<td>{}<td>{}<td>{}<td>{}",
            part.offered, part.succeeded, part.failed, part.challenged
        );
    }
    page.push_str(
        "</table><h2>Latency from the intended start, milliseconds</h2><table><tr><th>step<th>count\
         <th>mean<th>p50<th>p90<th>p95<th>p99<th>p99.9<th>max",
    );
    for (name, part) in &report.operations {
        for (step, latency) in &part.latency {
            let Latency { count, mean, p50, p90, p95, p99, p999, max, .. } = latency;
            let _ = write!(page, "<tr><td>{name}, {step}<td>{count}");
            for value in [mean, p50, p90, p95, p99, p999, max] {
                let _ = write!(page, "<td>{value:.1}");
            }
        }
    }
    page.push_str("</table>");
    if report.stages.len() > 1 {
        page.push_str(
            "<h2>Stages</h2><table><tr><th>stage<th>from second<th>offered per second\
             <th>inadequate, %<th>p50 ms<th>p99 ms",
        );
        for stage in &report.stages {
            let _ = write!(
                page,
                "<tr><td>{}<td>{:.0}<td>{:.1}<td>{:.3}",
                escaped(&stage.stage.name),
                stage.stage.begins,
                stage.offered_per_second,
                stage.inadequate_share * 100.0
            );
            let _ = match &stage.latency {
                Some(latency) => write!(page, "<td>{:.1}<td>{:.1}", latency.p50, latency.p99),
                None => write!(page, "<td><td>"),
            };
        }
        page.push_str("</table>");
    }
    if report.all.causes.keys().any(|cause| cause != "ok") {
        page.push_str("<h2>Causes of failure</h2><table><tr><th>operation<th>cause<th>count");
        for (name, part) in &report.operations {
            for (cause, count) in part.causes.iter().filter(|(cause, _)| *cause != "ok") {
                let _ = write!(page, "<tr><td>{name}<td>{}<td>{count}", escaped(cause));
            }
        }
        page.push_str("</table>");
    }
    if !report.servers.is_empty() {
        page.push_str(
            "<h2>Servers</h2><table><tr><th>server<th>CPU seconds<th>per 1,000 successes\
             <th>peak resident MB<th>answers<th>failures",
        );
        for server in &report.servers {
            let _ = write!(page, "<tr><td>{}", escaped(&server.name));
            let _ = match server.cpu_seconds {
                Some(cpu) => {
                    let each = cpu * 1000.0 / report.all.succeeded.max(1) as f64;
                    write!(page, "<td>{cpu:.2}<td>{each:.3}")
                }
                None => write!(page, "<td><td>"),
            };
            let resident = server.peak_resident_octets.map(|octets| octets >> 20);
            let resident = resident.map_or(String::new(), |mega| mega.to_string());
            let _ = write!(page, "<td>{resident}<td>{}<td>{}", server.answers, server.failures);
        }
        page.push_str("</table>");
    }
}

fn plots(report: &Report, series: &[Second], page: &mut String) {
    let of = |get: &dyn Fn(&Second) -> Option<f64>| {
        series.iter().map(|second| (second.at, get(second))).collect::<Vec<_>>()
    };
    let line = |name, place: usize, points| Line { name, colour: COLOURS[place % 8], points };
    page.push_str("<h2>Rate, per second</h2>");
    let rates = [
        line("offered", 7, of(&|second| Some(second.offered as f64))),
        line("succeeded", 1, of(&|second| Some(second.succeeded as f64))),
        line("failed", 2, of(&|second| Some(second.failed as f64))),
    ];
    plot(&rates, page);
    page.push_str("<h2>Latency of what succeeded in each second, milliseconds</h2>");
    let latencies = [
        line("p50", 0, of(&|second| second.p50)),
        line("p95", 3, of(&|second| second.p95)),
        line("p99", 2, of(&|second| second.p99)),
    ];
    plot(&latencies, page);
    let curve: Vec<(String, &Latency)> = report
        .operations
        .iter()
        .filter_map(|(name, part)| Some(((*name).to_owned(), part.latency.get("complete")?)))
        .collect();
    if !curve.is_empty() {
        page.push_str("<h2>Latency by percentile, milliseconds</h2>");
        percentiles(&curve, page);
    }
    page.push_str("<h2>Attempts under way, UEs registered</h2>");
    let standing = [
        line("under way", 0, of(&|second| Some(second.in_flight as f64))),
        line("registered", 1, of(&|second| Some(second.registered as f64))),
    ];
    plot(&standing, page);
    let mut causes: Vec<&str> = Vec::new();
    for cause in report.all.causes.keys().filter(|cause| *cause != "ok").take(8) {
        causes.push(cause);
    }
    if !causes.is_empty() {
        page.push_str("<h2>Causes of failure, per second</h2>");
        let lines: Vec<Line<'_>> = causes
            .iter()
            .enumerate()
            .map(|(place, cause)| {
                let count = |second: &Second| second.causes.get(*cause).copied().unwrap_or(0);
                line(cause, place, of(&|second| Some(count(second) as f64)))
            })
            .collect();
        plot(&lines, page);
    }
    page.push_str("<h2>CPU, share of one</h2>");
    let mut lines = vec![line("generator", 7, of(&|second| Some(second.cpu)))];
    for (place, server) in report.servers.iter().enumerate() {
        let share = |second: &Second| second.servers.get(place).copied().flatten();
        lines.push(line(&server.name, place, of(&share)));
    }
    plot(&lines, page);
    page.push_str("<h2>Longest lateness of the generator, milliseconds</h2>");
    plot(&[line("late", 0, of(&|second| Some(second.late)))], page);
}

fn conditions(report: &Report, page: &mut String) {
    let conditions = &report.conditions;
    let generator = &report.generator;
    let _ = write!(
        page,
        "<h2>Conditions</h2><p>{} UEs, {}; P-CSCF {}; {}, {}; seed {}; {} CPUs; generator {} of \
         Tessera, {:.2} CPU seconds, arrivals late by {:.1} ms (99 %), {:.1} ms (worst), {} MB at its \
         peak, {} packets sent, {} received, {} lost on this host. Started {} s after the Unix \
         epoch.</p><p><code>{}</code></p>",
        conditions.ues,
        escaped(&conditions.access),
        escaped(&conditions.pcscf),
        conditions.transport,
        if conditions.ipsec { "IPsec" } else { "in clear" },
        conditions.seed,
        conditions.cpus,
        conditions.version,
        generator.cpu_seconds,
        generator.late_p99_milliseconds,
        generator.late_max_milliseconds,
        generator.peak_resident_octets >> 20,
        generator.packets_sent,
        generator.packets_received,
        generator.packets_lost_sending + generator.packets_lost_receiving,
        conditions.started_at,
        escaped(&conditions.command),
    );
}

/// Seconds, joined where there are more of them than points.
fn joined(series: &[Second]) -> Vec<Second> {
    let each = series.len().div_ceil(POINTS).max(1);
    series.chunks(each).filter_map(join).collect()
}

fn join(chunk: &[Second]) -> Option<Second> {
    let mut joined = chunk.first()?.clone();
    let count = chunk.len() as u64;
    let highest = |get: fn(&Second) -> Option<f64>| {
        chunk
            .iter()
            .filter_map(get)
            .fold(None, |most: Option<f64>, value| Some(most.map_or(value, |most| most.max(value))))
    };
    joined.offered = chunk.iter().map(|second| second.offered).sum::<u64>() / count;
    joined.succeeded = chunk.iter().map(|second| second.succeeded).sum::<u64>() / count;
    // A single failure must not be rounded away.
    joined.failed = chunk.iter().map(|second| second.failed).max()?;
    joined.in_flight = chunk.iter().map(|second| second.in_flight).max()?;
    joined.p50 = highest(|second| second.p50);
    joined.p95 = highest(|second| second.p95);
    joined.p99 = highest(|second| second.p99);
    joined.late = highest(|second| Some(second.late))?;
    joined.cpu = highest(|second| Some(second.cpu))?;
    for second in &chunk[1..] {
        for (cause, count) in &second.causes {
            *joined.causes.entry(cause.clone()).or_default() += count;
        }
    }
    Some(joined)
}

/// Lines over seconds.
fn plot(lines: &[Line<'_>], page: &mut String) {
    let values = || lines.iter().flat_map(|line| &line.points);
    let last = values().map(|(at, _)| *at).fold(1.0, f64::max);
    let highest = values().filter_map(|(_, value)| *value).filter(|value| value.is_finite());
    let highest = nice(highest.fold(0.0, f64::max));
    let x = |at: f64| LEFT + at / last * (WIDTH - LEFT - RIGHT);
    let y = |value: f64| HEIGHT - BOTTOM - value / highest * (HEIGHT - TOP - BOTTOM);
    begin(page);
    for part in 0..=4 {
        let value = highest * f64::from(part) / 4.0;
        grid(page, y(value), &short(value));
        let at = last * f64::from(part) / 4.0;
        label(page, x(at), &format!("{at:.0} s"), part);
    }
    for line in lines {
        let mut path = String::new();
        let mut is_joined = false;
        for (at, value) in &line.points {
            match value.filter(|value| value.is_finite()) {
                Some(value) => {
                    let letter = if is_joined { 'L' } else { 'M' };
                    let _ = write!(path, "{letter}{:.1} {:.1}", x(*at), y(value));
                    if !is_joined {
                        // A single point shows as well.
                        path.push_str("h.1");
                    }
                    is_joined = true;
                }
                None => is_joined = false,
            }
        }
        stroke(page, line.colour, &path);
    }
    end(page, lines.iter().map(|line| (line.name, line.colour)));
}

/// Milliseconds over the number of nines, both as logarithms.
fn percentiles(curves: &[(String, &Latency)], page: &mut String) {
    let points = || curves.iter().flat_map(|(_, latency)| &latency.curve);
    let nines = |quantile: f64| -(1.0 - quantile).log10();
    let most = points().map(|(quantile, _)| nines(*quantile)).fold(1.0, f64::max).ceil();
    let low = points().map(|(_, value)| value.max(0.01)).fold(f64::MAX, f64::min).log10().floor();
    let high = points().map(|(_, value)| value.max(0.01)).fold(0.01, f64::max).log10().ceil();
    let high = high.max(low + 1.0);
    let x = |quantile: f64| LEFT + nines(quantile) / most * (WIDTH - LEFT - RIGHT);
    let y = |value: f64| {
        let part = (value.max(0.01).log10() - low) / (high - low);
        HEIGHT - BOTTOM - part * (HEIGHT - TOP - BOTTOM)
    };
    begin(page);
    for power in low as i32..=high as i32 {
        let value = 10f64.powi(power);
        grid(page, y(value), &short(value));
    }
    for count in 0..=most as i32 {
        let quantile = 1.0 - 10f64.powi(-count);
        let digits = (count - 2).max(0) as usize;
        label(
            page,
            x(quantile),
            &format!("{:.digits$} %", quantile * 100.0),
            if count == 0 { 0 } else { 4 },
        );
    }
    for (place, (_, latency)) in curves.iter().enumerate() {
        let mut path = String::new();
        for (quantile, value) in &latency.curve {
            let letter = if path.is_empty() { 'M' } else { 'L' };
            let _ = write!(path, "{letter}{:.1} {:.1}", x(*quantile), y(*value));
        }
        stroke(page, COLOURS[place % 8], &path);
    }
    end(
        page,
        curves.iter().enumerate().map(|(place, (name, _))| (name.as_str(), COLOURS[place % 8])),
    );
}

fn begin(page: &mut String) {
    let _ = write!(page, "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">");
}

fn grid(page: &mut String, y: f64, text: &str) {
    let (right, at) = (WIDTH - RIGHT, LEFT - 6.0);
    let _ = write!(
        page,
        "<path d=\"M{LEFT} {y:.1}H{right}\" stroke=\"#ddd\"/><text x=\"{at}\" y=\"{:.1}\" \
         text-anchor=\"end\">{text}</text>",
        y + 4.0
    );
}

/// The first is written to the right of its place, the last to the left.
fn label(page: &mut String, x: f64, text: &str, part: i32) {
    let anchor = match part {
        0 => "start",
        4 => "end",
        _ => "middle",
    };
    let y = HEIGHT - 6.0;
    let _ = write!(page, "<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"{anchor}\">{text}</text>");
}

fn stroke(page: &mut String, colour: &str, path: &str) {
    let _ = write!(
        page,
        "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.6\" \
         stroke-linejoin=\"round\" stroke-linecap=\"round\"/>"
    );
}

fn end<'a>(page: &mut String, names: impl Iterator<Item = (&'a str, &'a str)>) {
    page.push_str("</svg><div class=\"key\">");
    for (name, colour) in names {
        let name = escaped(name);
        let _ = write!(
            page,
            "<span><span style=\"color:{colour};margin:0\">&#9632;</span> {name}</span>"
        );
    }
    page.push_str("</div>");
}

/// 1, 2 or 5 times a power of ten, not below the value.
fn nice(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let power = 10f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0];
    steps.into_iter().map(|step| step * power).find(|step| *step >= value).unwrap_or(value)
}

fn short(value: f64) -> String {
    match value {
        value if value >= 1e6 => format!("{}M", trimmed(value / 1e6)),
        value if value >= 1e4 => format!("{}k", trimmed(value / 1e3)),
        value => trimmed(value),
    }
}

fn trimmed(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales() {
        assert_eq!([0.0, 0.3, 1.0, 12.0, 480.0].map(nice), [1.0, 0.5, 1.0, 20.0, 500.0]);
        assert_eq!([0.25, 100.0, 25_000.0, 3e6].map(short), ["0.25", "100", "25k", "3M"]);
        assert_eq!(escaped("<a&\"b\">"), "&lt;a&amp;&quot;b&quot;&gt;");
    }

    /// Long runs are joined, and their failures seen.
    #[test]
    fn long_runs_are_joined() {
        let mut series = vec![Second { offered: 10, ..Second::default() }; 2_000];
        series[1_001].failed = 3;
        let joined = joined(&series);
        assert!(joined.len() <= POINTS);
        assert!(joined.iter().all(|second| second.offered == 10));
        assert_eq!(joined.iter().map(|second| second.failed).sum::<u64>(), 3);
    }
}
