//! The plot: CPU time per request, a group of bars for each load. Loads differ by two orders of magnitude, so every group
//! has its own scale, and every bar its number.

use anyhow::anyhow;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::{
    contender::{Contender, Found},
    load::Load,
    report::number,
    run::Run,
    summary,
};

const WIDTH: i32 = 840;
const MARGIN: i32 = 16;
/// Where bars begin, and how long the longest is: names are left of them, numbers right.
const BAR_LEFT: i32 = 160;
const BAR_LENGTH: i32 = WIDTH - BAR_LEFT - 80;
const BAR_HEIGHT: i32 = 14;
const BAR_PITCH: i32 = 18;
const TITLE_HEIGHT: i32 = 30;
const GROUP_GAP: i32 = 12;

const INK: RGBColor = RGBColor(0x22, 0x22, 0x22);
const FLOOR: RGBColor = RGBColor(0xb0, 0xb0, 0xb0);
const OURS: RGBColor = RGBColor(0xd1, 0x49, 0x2e);
const THEIRS: RGBColor = RGBColor(0x5b, 0x7f, 0xa6);

/// The plot as SVG. Text stays text: which font it has is the reader's affair, and none is needed here.
pub(super) fn svg(runs: &[Run], loads: &[Load], found: &[Found]) -> anyhow::Result<String> {
    let bars = i32::try_from(found.len())?;
    let group_height = TITLE_HEIGHT + bars * BAR_PITCH + GROUP_GAP;
    let height = 2 * MARGIN + TITLE_HEIGHT + i32::try_from(loads.len())? * group_height;
    let mut text = String::new();
    let area = SVGBackend::with_string(&mut text, (u32::try_from(WIDTH)?, u32::try_from(height)?))
        .into_drawing_area();
    let failed = |error| anyhow!("cannot draw: {error}");
    area.fill(&WHITE).map_err(failed)?;
    let label = |x, y, text: String, size: i32, position| {
        let style = ("sans-serif", size).into_font().color(&INK).pos(position);
        area.draw(&Text::new(text, (x, y), style)).map_err(failed)
    };
    let (left, right) = (Pos::new(HPos::Left, VPos::Center), Pos::new(HPos::Right, VPos::Center));
    let heading = "CPU time of the proxy, µs per request; each group has its own scale";
    label(MARGIN, MARGIN + BAR_PITCH / 2, heading.to_owned(), 20, left)?;
    let mut y = MARGIN + TITLE_HEIGHT;
    for &load in loads {
        label(MARGIN, y + TITLE_HEIGHT / 2, load.shape().title.to_owned(), 18, left)?;
        y += TITLE_HEIGHT;
        let value = |found: &Found| summary::over_rounds(runs, load, found.contender, Run::cpu_us);
        let most = found.iter().filter_map(value).fold(0.0, f64::max);
        for found in found {
            let middle = y + BAR_HEIGHT / 2;
            label(BAR_LEFT - 8, middle, found.title(), 15, right)?;
            if let Some(value) = value(found) {
                #[expect(clippy::cast_possible_truncation, reason = "at most the length of the longest bar")]
                let end = BAR_LEFT + (f64::from(BAR_LENGTH) * value / most).round() as i32;
                let bar = [(BAR_LEFT, y), (end, y + BAR_HEIGHT)];
                area.draw(&Rectangle::new(bar, colour(found.contender).filled())).map_err(failed)?;
                label(end + 6, middle, number(value), 15, left)?;
            }
            y += BAR_PITCH;
        }
        y += GROUP_GAP;
    }
    area.present().map_err(failed)?;
    drop(area);
    Ok(text)
}

fn colour(contender: Contender) -> RGBColor {
    match contender {
        Contender::Relay => FLOOR,
        Contender::Concertina => OURS,
        _ => THEIRS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::run::tests::run;

    #[test]
    fn every_load_has_its_bars_and_numbers() {
        let runs = [
            run(1, Load::Small, Contender::Relay, 10),
            run(1, Load::Small, Contender::Nginx, 20),
            run(1, Load::Get1m, Contender::Relay, 400),
        ];
        let found = [Contender::Relay, Contender::Nginx].map(|contender| Found {
            contender,
            executable: "x".into(),
            version: "nginx/1.22.1".into(),
        });
        let svg = svg(&runs, &[Load::Small, Load::Get1m], &found).unwrap();
        for text in ["<svg", "nginx 1.22.1", "10.0", "20.0", "400", "1 MiB response", "</svg>"] {
            assert!(svg.contains(text), "{text}: {svg}");
        }
        // The background and three bars: nginx was not measured under the second load.
        assert_eq!(svg.matches("<rect").count(), 4);
        assert!(svg.contains(&format!("width=\"{BAR_LENGTH}\"")));
    }
}
