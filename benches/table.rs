//! Figures: on standard output as a table, in a file under `target/bench/` for programs.
#![allow(dead_code, reason = "every bench uses its own part of this")]

use serde_json::json;

/// One figure.
pub struct Row {
    name: String,
    unit: &'static str,
    ours: f64,
    baseline: Option<f64>,
    must: Option<Must>,
    repeats: usize,
    /// Largest minus smallest measurement of ours, as a share of the median.
    spread: f64,
}

/// What a figure has to be.
#[derive(Clone, Copy)]
pub enum Must {
    /// Ours divided by the baseline.
    RatioAtLeast(f64),
    /// The same.
    RatioAtMost(f64),
    /// Ours.
    AtMost(f64),
    /// The same.
    AtLeast(f64),
    /// Ours less the baseline.
    MoreByAtMost(f64),
}

impl Must {
    /// In few words, with what it is about.
    fn text(self, unit: &str) -> String {
        let text = match self {
            Self::RatioAtLeast(limit) => format!("ratio >= {limit}"),
            Self::RatioAtMost(limit) => format!("ratio <= {limit}"),
            Self::AtMost(limit) => format!("<= {limit} {unit}"),
            Self::AtLeast(limit) => format!(">= {limit} {unit}"),
            Self::MoreByAtMost(limit) => format!("+ <= {limit} {unit}"),
        };
        text.trim_end().to_owned()
    }

    fn is_met(self, row: &Row) -> bool {
        let baseline = row.baseline.unwrap_or(f64::NAN);
        match self {
            Self::RatioAtLeast(limit) => row.ours / baseline >= limit,
            Self::RatioAtMost(limit) => row.ours / baseline <= limit,
            Self::AtMost(limit) => row.ours <= limit,
            Self::AtLeast(limit) => row.ours >= limit,
            Self::MoreByAtMost(limit) => row.ours - baseline <= limit,
        }
    }
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
    /// Operations per second, and the same from the baseline, if there is one.
    pub fn rate(name: String, ours: &[f64], baseline: &[f64]) -> Self {
        Self {
            name,
            unit: "1/s",
            ours: median(ours),
            baseline: (!baseline.is_empty()).then(|| median(baseline)),
            must: None,
            repeats: ours.len(),
            spread: spread(ours),
        }
    }

    /// Any other figure of which more is better.
    pub fn more(name: &str, unit: &'static str, ours: &[f64], baseline: &[f64]) -> Self {
        Self { unit, ..Self::rate(name.into(), ours, baseline) }
    }

    /// A figure of which less is better, and the same from the baseline, if there is one.
    pub fn less(name: &str, unit: &'static str, ours: &[f64], baseline: &[f64]) -> Self {
        Self { unit, ..Self::rate(name.into(), ours, baseline) }
    }

    /// With what it has to be.
    pub fn must(self, must: Option<Must>) -> Self {
        Self { must, ..self }
    }

    fn ratio(&self) -> Option<f64> {
        self.baseline.map(|baseline| self.ours / baseline)
    }
}

/// Whether a group of figures is measured: all are, unless `FIGURES` names some.
pub fn chosen(group: &str) -> bool {
    let figures = std::env::var("FIGURES").unwrap_or_default();
    figures.is_empty() || figures.split(',').any(|one| one == group)
}

/// Prints the table.
pub fn print(rows: &[Row]) {
    println!(
        "{:<32} {:>5} {:>10} {:>10} {:>7} {:>8} {:>7}  {:<14} met",
        "figure", "unit", "ours", "baseline", "ratio", "repeats", "spread", "must be"
    );
    for row in rows {
        let number = |value: Option<f64>, digits: usize| {
            value.map_or_else(|| "-".into(), |value| format!("{value:.digits$}"))
        };
        println!(
            "{:<32} {:>5} {:>10} {:>10} {:>7} {:>8} {:>6.0}%  {:<14} {}",
            row.name,
            row.unit,
            number(Some(row.ours), 1),
            number(row.baseline, 1),
            number(row.ratio(), 2),
            row.repeats,
            row.spread * 100.0,
            row.must.map_or_else(|| "-".into(), |must| must.text(row.unit)),
            row.must.map_or("-", |must| if must.is_met(row) { "yes" } else { "NO" })
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
                "mustBe": row.must.map(|must| must.text(row.unit)), "met": row.must.map(|must| must.is_met(row)),
            })
        })
        .collect();
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench");
    std::fs::create_dir_all(&folder).expect("target/ can be written");
    let text = serde_json::to_string_pretty(&all).expect("numbers and names");
    std::fs::write(folder.join(format!("{name}.json")), text).expect("target/ can be written");
}
