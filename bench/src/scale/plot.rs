//! The plot: seconds over nodes, both logarithmic, beside memberlist's formula.

use anyhow::anyhow;
use plotters::prelude::*;

use super::Size;

const SIZE: (u32, u32) = (840, 420);

const OURS: RGBColor = RGBColor(0xd1, 0x49, 0x2e);
const THEIRS: RGBColor = RGBColor(0x5b, 0x7f, 0xa6);
const OTHER: RGBColor = RGBColor(0x8a, 0x6d, 0x1d);
const LAST: RGBColor = RGBColor(0x4f, 0x8a, 0x4f);

type Line = (&'static str, RGBColor, fn(&Size) -> f64);

const LINES: [Line; 4] = [
    ("one joins, formula of memberlist", THEIRS, |size| size.memberlist_s),
    ("all start within a second", OTHER, |size| size.churn.started.as_secs_f64()),
    ("half stop within a second", LAST, |size| size.churn.stopped.as_secs_f64()),
    ("one joins", OURS, |size| size.churn.joined.as_secs_f64()),
];

/// The plot as SVG, of two sizes or more.
pub(super) fn svg(sizes: &[Size]) -> anyhow::Result<String> {
    let failed = |error| anyhow!("cannot draw: {error}");
    let values = || LINES.iter().flat_map(|(_, _, value)| sizes.iter().map(value));
    let (least, most) = (values().fold(f64::MAX, f64::min), values().fold(0.0, f64::max));
    let nodes = || sizes.iter().map(|size| f64::from(size.nodes));
    let (fewest, largest) = (nodes().fold(f64::MAX, f64::min), nodes().fold(0.0, f64::max));
    let mut text = String::new();
    let area = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
    area.fill(&WHITE).map_err(failed)?;
    let mut chart = ChartBuilder::on(&area)
        .caption("Seconds until all tables are right", ("sans-serif", 20))
        .margin(16)
        .x_label_area_size(40)
        .y_label_area_size(60)
        .build_cartesian_2d((fewest..largest).log_scale(), (least / 2.0..most * 2.0).log_scale())
        .map_err(failed)?;
    let mesh = &mut chart.configure_mesh();
    mesh.x_desc("nodes").y_desc("seconds").x_label_formatter(&|nodes| format!("{nodes:.0}"));
    mesh.draw().map_err(failed)?;
    for (title, colour, value) in LINES {
        let points: Vec<(f64, f64)> = sizes.iter().map(|size| (f64::from(size.nodes), value(size))).collect();
        let line = PathElement::new(points.clone(), colour.stroke_width(2));
        let dots = points.into_iter().map(|point| Circle::new(point, 3, colour.filled()).into_dyn());
        let series = chart.draw_series([line.into_dyn()].into_iter().chain(dots)).map_err(failed)?;
        series
            .label(title)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    let labels = &mut chart.configure_series_labels();
    labels.position(SeriesLabelPosition::UpperLeft).background_style(WHITE.mix(0.8));
    labels.label_font(("sans-serif", 15)).draw().map_err(failed)?;
    area.present().map_err(failed)?;
    drop(chart);
    drop(area);
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::scale::sim::scenes::Churn;

    #[test]
    fn every_line_is_drawn_and_named() {
        let size = |nodes, ms| {
            let time = Duration::from_millis(ms);
            let churn = Churn { started: time, joined: time, joined_bytes: 1, stopped: time, idle_bytes: 1 };
            Size { nodes, churn, healed: None, memberlist_s: 2.0, took: time }
        };
        let svg = svg(&[size(10, 100), size(1000, 400)]).unwrap();
        for (title, ..) in LINES {
            assert!(svg.contains(title), "{title}: {svg}");
        }
        assert_eq!(svg.matches("<circle").count(), 2 * LINES.len());
    }
}
