//! Figures: on standard output as a table, in a file under `target/bench/` for programs.
#![allow(dead_code, reason = "every bench uses its own part of this")]

use serde_json::json;

/// One figure.
pub struct Row {
    name: String,
    unit: &'static str,
    ours: f64,
    baseline: Option<f64>,
    repeats: usize,
    /// Largest minus smallest measurement of ours, as a share of the median.
    spread: f64,
}

/// The middle value.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

fn spread(values: &[f64]) -> f64 {
    let (low, high) =
        values.iter().fold((f64::MAX, f64::MIN), |(low, high), &value| (low.min(value), high.max(value)));
    let median = median(values);
    if median == 0.0 { 0.0 } else { (high - low) / median }
}

impl Row {
    /// Operations per second, and the same from the baseline.
    pub fn rate(name: String, ours: &[f64], baseline: &[f64]) -> Self {
        Self {
            name,
            unit: "1/s",
            ours: median(ours),
            baseline: Some(median(baseline)),
            repeats: ours.len(),
            spread: spread(ours),
        }
    }

    /// A figure of which less is better, and the same from the baseline, if there is one.
    pub fn less(name: &str, unit: &'static str, ours: &[f64], baseline: &[f64]) -> Self {
        Self {
            name: name.into(),
            unit,
            ours: median(ours),
            baseline: (!baseline.is_empty()).then(|| median(baseline)),
            repeats: ours.len(),
            spread: spread(ours),
        }
    }

    fn ratio(&self) -> Option<f64> {
        self.baseline.map(|baseline| self.ours / baseline)
    }
}

/// Prints the table.
pub fn print(rows: &[Row]) {
    println!(
        "{:<24} {:>5} {:>10} {:>10} {:>7} {:>8} {:>7}",
        "figure", "unit", "ours", "baseline", "ratio", "repeats", "spread"
    );
    for row in rows {
        let number = |value: Option<f64>, digits: usize| {
            value.map_or_else(|| "-".into(), |value| format!("{value:.digits$}"))
        };
        println!(
            "{:<24} {:>5} {:>10} {:>10} {:>7} {:>8} {:>6.0}%",
            row.name,
            row.unit,
            number(Some(row.ours), 1),
            number(row.baseline, 1),
            number(row.ratio(), 2),
            row.repeats,
            row.spread * 100.0
        );
    }
}

/// Writes `target/bench/<name>.json`.
pub fn write(name: &str, rows: &[Row]) {
    let all: Vec<_> = rows
        .iter()
        .map(|row| {
            json!({
                "name": row.name, "unit": row.unit, "ours": row.ours, "baseline": row.baseline,
                "ratio": row.ratio(), "repeats": row.repeats, "spread": row.spread,
            })
        })
        .collect();
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench");
    std::fs::create_dir_all(&folder).expect("target/ can be written");
    let text = serde_json::to_string_pretty(&all).expect("numbers and names");
    std::fs::write(folder.join(format!("{name}.json")), text).expect("target/ can be written");
}
