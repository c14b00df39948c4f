//! Tables that are also Markdown, and the numbers in them.

use comfy_table::{CellAlignment, Table, presets};

/// There is no such figure.
pub const NONE: &str = "-";

/// The first columns are text, the others numbers.
pub fn table(columns: &[&str], text_columns: usize) -> Table {
    let mut t = Table::new();
    t.load_style(presets::ASCII_MARKDOWN).set_header(columns);
    for c in t.column_iter_mut().skip(text_columns) {
        c.set_cell_alignment(CellAlignment::Right);
    }
    t
}

/// 12,345
pub fn whole(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut out = String::new();
    for (k, d) in digits.chars().enumerate() {
        if k > 0 && (digits.len() - k).is_multiple_of(3) && d.is_ascii_digit() && out != "-" {
            out.push(',');
        }
        out.push(d);
    }
    out
}

/// Three digits that say something.
pub fn short(value: f64) -> String {
    match value {
        v if v >= 100.0 => whole(v),
        v if v >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

pub fn optional(value: Option<f64>) -> String {
    value.map_or_else(|| NONE.into(), short)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let all = [0.0, 7.0, 999.6, 1234567.0].map(whole);
        assert_eq!(all, ["0", "7", "1,000", "1,234,567"]);
        assert_eq!([0.123, 9.5, 12.34, 123.4].map(short), ["0.12", "9.50", "12.3", "123"]);
    }
}
