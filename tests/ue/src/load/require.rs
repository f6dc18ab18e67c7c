//! Stated objectives, and whether a run met them: `success=99.9%,p99=50ms`.

use serde::Serialize;

use crate::load::report::{Report, share};

/// One objective.
#[derive(Clone, PartialEq, Debug)]
pub enum Required {
    /// Share of attempts that succeed, at least.
    Success(f64),
    /// Quantile, by its name, and the milliseconds that it may have.
    Quantile(String, f64, f64),
    Maximum(f64),
}

/// One objective after the run.
#[derive(Clone, Debug, Serialize)]
pub struct Judged {
    pub wanted: String,
    pub found: String,
    pub is_met: bool,
}

/// Reads objectives, separated by commas.
///
/// # Errors
/// The first that is none.
pub fn parse(text: &str) -> Result<Vec<Required>, String> {
    text.split(',').map(|each| one(each.trim())).collect()
}

fn one(text: &str) -> Result<Required, String> {
    let wrong = || format!("{text:?} is none of success=99.9%, p50=, p95=, p99.9=, max=TIME");
    let (name, value) = text.split_once('=').ok_or_else(wrong)?;
    if name == "success" {
        let percent = value.strip_suffix('%').and_then(|value| value.parse::<f64>().ok());
        let percent = percent.filter(|percent| (0.0..=100.0).contains(percent));
        return percent.map(|percent| Required::Success(percent / 100.0)).ok_or_else(wrong);
    }
    let milliseconds = milliseconds(value).ok_or_else(wrong)?;
    if name == "max" {
        return Ok(Required::Maximum(milliseconds));
    }
    let quantile = name.strip_prefix('p').and_then(quantile).ok_or_else(wrong)?;
    Ok(Required::Quantile(name.to_owned(), quantile, milliseconds))
}

/// `99`, `99.9`, and `999` for the same.
fn quantile(text: &str) -> Option<f64> {
    let percent = match text.len() {
        3.. if text.starts_with('9') && text.bytes().all(|digit| digit.is_ascii_digit()) => {
            format!("{}.{}", &text[..2], &text[2..]).parse::<f64>().ok()?
        }
        _ => text.parse::<f64>().ok()?,
    };
    (percent > 0.0 && percent < 100.0).then_some(percent / 100.0)
}

/// `50ms`, `1.5s`, `200us`.
pub fn milliseconds(text: &str) -> Option<f64> {
    let (digits, factor) = [("ms", 1.0), ("us", 1e-3), ("s", 1e3)]
        .into_iter()
        .find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)))?;
    let value: f64 = digits.trim().parse().ok()?;
    (value.is_finite() && value >= 0.0).then_some(value * factor)
}

/// Judges a run.
pub fn judge(required: &[Required], report: &Report) -> Vec<Judged> {
    let latency = report.all.latency.get("complete");
    let judged = required.iter().map(|required| match required {
        Required::Success(wanted) => {
            let found = share(report.all.succeeded, report.all.offered);
            Judged {
                wanted: format!("success >= {} %", rounded(wanted * 100.0)),
                found: format!("{} %", rounded(found * 100.0)),
                is_met: found >= *wanted - 1e-12 && report.all.offered > 0,
            }
        }
        Required::Quantile(name, quantile, wanted) => {
            let found = latency.and_then(|latency| at(latency, *quantile));
            within(name, found, *wanted)
        }
        Required::Maximum(wanted) => within("max", latency.map(|latency| latency.max), *wanted),
    });
    judged.collect()
}

fn within(name: &str, found: Option<f64>, wanted: f64) -> Judged {
    Judged {
        wanted: format!("{name} <= {} ms", rounded(wanted)),
        found: found.map_or("nothing succeeded".to_owned(), |found| format!("{found:.1} ms")),
        is_met: found.is_some_and(|found| found <= wanted),
    }
}

/// Four digits behind the point, no zeros at the end.
fn rounded(value: f64) -> String {
    let text = format!("{value:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// The named quantiles exactly, others from the next point of the curve: never too low.
fn at(latency: &crate::load::report::Latency, quantile: f64) -> Option<f64> {
    let named = [
        (0.5, latency.p50),
        (0.9, latency.p90),
        (0.95, latency.p95),
        (0.99, latency.p99),
        (0.999, latency.p999),
    ];
    if let Some((_, value)) = named.iter().find(|(known, _)| (known - quantile).abs() < 1e-9) {
        return Some(*value);
    }
    let next = latency.curve.iter().find(|(known, _)| *known >= quantile);
    Some(next.map_or(latency.max, |(_, value)| *value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objectives() {
        let required = parse("success=99.9%, p99=50ms,p99.9=1.5s,p999=2s,max=300us").unwrap();
        let quantile = |name: &str, of, wanted| Required::Quantile(name.to_owned(), of, wanted);
        let Required::Success(share) = required[0] else { panic!() };
        assert!((share - 0.999).abs() < 1e-9);
        assert_eq!(required[1], quantile("p99", 0.99, 50.0));
        assert_eq!(required[4], Required::Maximum(0.3));
        for (required, name) in required[2..4].iter().zip(["p99.9", "p999"]) {
            let Required::Quantile(found, of, _) = required else { panic!() };
            assert!(found == name && (of - 0.999).abs() < 1e-9, "{required:?}");
        }
        for wrong in ["", "success=99.9", "p99", "p99=50", "p100=1s", "success=101%", "q=1s"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
