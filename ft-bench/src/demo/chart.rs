//! Latency over time as an SVG.

use crate::verify::Sample;
use plotters::prelude::*;
use std::path::Path;

const SIZE: (u32, u32) = (1100, 460);
/// Columns of the chart: one shows the median and the worst of its writes.
const COLUMNS: u64 = 400;

pub struct Chart<'a> {
    pub title: &'a str,
    /// Microseconds since 1970.
    pub fault_us: u64,
    pub fault: &'a str,
    /// The survivor's first byte, ms after the fault.
    pub back_ms: Option<f64>,
    pub samples: &'a [Sample],
}

/// The writes sent within one column.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Column {
    /// Seconds since the fault.
    at: f64,
    median_ms: f64,
    worst_ms: f64,
}

fn columns(fault_us: u64, samples: &[Sample]) -> Vec<Column> {
    let mut sorted: Vec<Sample> = samples.to_vec();
    sorted.sort_unstable_by_key(|s| s.sent_us);
    let (Some(first), Some(last)) = (sorted.first(), sorted.last()) else { return Vec::new() };
    let begin = first.sent_us;
    let width = (last.sent_us - begin) / COLUMNS + 1;
    sorted
        .chunk_by(|a, b| (a.sent_us - begin) / width == (b.sent_us - begin) / width)
        .map(|c| {
            let mut latencies: Vec<u64> = c.iter().map(|s| s.latency_us).collect();
            latencies.sort_unstable();
            let middle = begin + (c[0].sent_us - begin) / width * width + width / 2;
            Column {
                at: (middle as f64 - fault_us as f64) / 1e6,
                median_ms: latencies[latencies.len() / 2] as f64 / 1e3,
                worst_ms: latencies[latencies.len() - 1] as f64 / 1e3,
            }
        })
        .collect()
}

impl Chart<'_> {
    pub fn write(&self, path: &Path) -> Result<(), String> {
        let text = self.svg().map_err(|e| e.to_string())?;
        std::fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))
    }

    fn svg(&self) -> Result<String, Box<dyn std::error::Error + '_>> {
        let columns = columns(self.fault_us, self.samples);
        let from = columns.first().map_or(-1.0, |c| c.at).min(0.0);
        let to = columns.last().map_or(1.0, |c| c.at).max(0.1);
        // A logarithmic axis has no zero.
        let least = columns.iter().map(|c| c.median_ms).fold(1.0, f64::min).max(0.01) / 2.0;
        let most = columns.iter().map(|c| c.worst_ms).fold(10.0, f64::max) * 2.0;
        let mut svg = String::new();
        {
            let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
            root.fill(&WHITE)?;
            let mut chart = ChartBuilder::on(&root)
                .caption(self.title, ("sans-serif", 18))
                .margin(14)
                .x_label_area_size(44)
                .y_label_area_size(64)
                .build_cartesian_2d(from..to, (least..most).log_scale())?;
            chart
                .configure_mesh()
                .light_line_style(WHITE)
                .x_desc("seconds since the fault, when sent")
                .y_desc("ms until answered")
                .x_label_formatter(&|x| format!("{x:.1}"))
                .y_label_formatter(&|y| format!("{y}"))
                .label_style(("sans-serif", 13))
                .draw()?;
            chart
                .draw_series(columns.iter().map(|c| Circle::new((c.at, c.worst_ms), 2, BLUE.mix(0.35).filled())))?
                .label("slowest write")
                .legend(|(x, y)| Circle::new((x + 8, y), 3, BLUE.mix(0.35).filled()));
            chart
                .draw_series(LineSeries::new(columns.iter().map(|c| (c.at, c.median_ms)), BLUE.stroke_width(2)))?
                .label("median")
                .legend(|(x, y)| PathElement::new([(x, y), (x + 16, y)], BLUE.stroke_width(2)));
            chart
                .draw_series(LineSeries::new([(0.0, least), (0.0, most)], RED.stroke_width(2)))?
                .label(self.fault)
                .legend(|(x, y)| PathElement::new([(x, y), (x + 16, y)], RED.stroke_width(2)));
            if let Some(ms) = self.back_ms {
                let (at, color) = (ms / 1e3, RGBColor(0, 130, 60));
                chart
                    .draw_series(LineSeries::new([(at, least), (at, most)], color.stroke_width(2)))?
                    .label(format!("answered again, {ms:.0} ms later"))
                    .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color.stroke_width(2)));
            }
            chart
                .configure_series_labels()
                .position(SeriesLabelPosition::UpperRight)
                .background_style(WHITE.mix(0.85))
                .border_style(BLACK.mix(0.3))
                .label_font(("sans-serif", 13))
                .draw()?;
            root.present()?;
        }
        Ok(svg)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAULT: u64 = 5_000_000;

    fn samples() -> Vec<Sample> {
        (0..10_000).map(|k| Sample { sent_us: 1_000 * k, latency_us: if k == 4_990 { 130_000 } else { 400 + k % 7 } }).collect()
    }

    #[test]
    fn a_column_has_median_and_worst() {
        let c = columns(FAULT, &samples());
        assert!(c.len() as u64 <= COLUMNS && c.len() as u64 >= COLUMNS - 1, "{}", c.len());
        let worst = c.iter().max_by(|a, b| a.worst_ms.total_cmp(&b.worst_ms)).unwrap();
        assert_eq!(worst.worst_ms, 130.0);
        assert!(worst.at.abs() < 0.03 && worst.median_ms < 1.0, "{worst:?}");
        assert!(columns(FAULT, &[]).is_empty());
    }

    #[test]
    fn the_picture_says_what_happened() {
        let samples = samples();
        let chart = |samples| Chart { title: "redis", fault_us: FAULT, fault: "kill-host alpha", back_ms: Some(121.4), samples };
        let svg = chart(&samples).svg().unwrap();
        for text in ["<svg", "redis", "kill-host alpha", "answered again, 121 ms later", "median"] {
            assert!(svg.contains(text), "no {text}");
        }
        assert!(chart(&[]).svg().unwrap().contains("</svg>"), "nobody was answered at all");
    }
}
