//! Draws by weight, each in the same time however many there are: an alias table (Walker, Vose).
//!
//! The total weight is laid out in as many columns of one height as there are positions, and each column holds parts of at most two.
//! A column and a height are drawn. All numbers are whole, so that the probabilities are exactly those of the weights.

use super::dice::Dice;

/// Positions with a weight each.
#[derive(Debug, Default)]
pub(crate) struct AliasTable {
    columns: Box<[Column]>,
    /// Their height: the total weight.
    height: u32,
}

#[derive(Debug, Clone, Copy)]
struct Column {
    /// Who has it up to `split`, and who has the rest.
    lower: u32,
    upper: u32,
    split: u32,
}

/// What a position has not been laid out of yet.
struct Rest {
    position: u32,
    weight: u64,
}

impl AliasTable {
    /// A table of positions and their weights; those without weight are not in it.
    pub(crate) fn new(weighted: impl Iterator<Item = (usize, u16)>) -> Self {
        let index = |position| u32::try_from(position).expect("fewer than 2^32");
        let weighted: Vec<(u32, u64)> =
            weighted.filter(|(_, w)| *w > 0).map(|(i, w)| (index(i), u64::from(w))).collect();
        let height = weighted.iter().map(|(_, weight)| weight).sum::<u64>();
        let count = weighted.len() as u64;
        // Each scaled up by the number of columns, so that a column's height is the total weight.
        let scaled = weighted.into_iter().map(|(position, weight)| Rest { position, weight: weight * count });
        let (mut low, mut high): (Vec<_>, Vec<_>) = scaled.partition(|rest| rest.weight < height);
        let mut columns = Vec::with_capacity(low.len() + high.len());
        let height_32 = u32::try_from(height).expect("16-bit weights of fewer than 2^16");
        while let Some(mut upper) = high.pop() {
            let Some(lower) = low.pop() else {
                // Exactly a column each: the sums are exact.
                columns.push(Column { lower: upper.position, upper: upper.position, split: height_32 });
                continue;
            };
            let split = u32::try_from(lower.weight).expect("below the height");
            columns.push(Column { lower: lower.position, upper: upper.position, split });
            upper.weight -= height - lower.weight;
            if upper.weight < height { low.push(upper) } else { high.push(upper) }
        }
        debug_assert!(low.is_empty(), "what is lower than a column has somebody to fill it up");
        Self { columns: columns.into(), height: height_32 }
    }

    /// How many positions have a weight.
    pub(crate) fn len(&self) -> usize {
        self.columns.len()
    }

    /// Draws one; none if nobody has a weight.
    #[inline]
    pub(crate) fn draw(&self, dice: &mut Dice) -> Option<usize> {
        let column = self.columns.get(usize::try_from(dice.below(self.columns.len() as u64)).ok()?)?;
        let is_lower = dice.below(self.height.into()) < u64::from(column.split);
        Some(if is_lower { column.lower } else { column.upper } as usize)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What each position has of the table's area.
    fn areas(table: &AliasTable, positions: usize) -> Vec<u64> {
        let mut areas = vec![0; positions];
        for column in &table.columns {
            areas[column.lower as usize] += u64::from(column.split);
            areas[column.upper as usize] += u64::from(table.height - column.split);
        }
        areas
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn the_areas_are_exactly_those_of_the_weights(weights in proptest::collection::vec(any::<u16>(), 0..60)) {
            let table = AliasTable::new(weights.iter().copied().enumerate());
            let wanted: Vec<_> = weights.iter().map(|w| u64::from(*w) * table.len() as u64).collect();
            prop_assert_eq!(areas(&table, weights.len()), wanted);
        }
    }

    #[test]
    fn as_many_endpoints_as_a_table_holds_have_the_greatest_weight() {
        let count = feed::table::ENDPOINTS_MAX;
        let table = AliasTable::new((0..count).map(|position| (position, u16::MAX)));
        assert_eq!((table.len(), table.height), (count, u32::from(u16::MAX) * 10_000));
    }

    #[test]
    fn draws_follow_the_areas_and_nobody_is_drawn_from_nobody() {
        let (table, mut dice) = (AliasTable::new([(3, 10), (5, 0), (7, 30)].into_iter()), Dice::new(1));
        let drawn = (0..10_000).filter(|_| table.draw(&mut dice).unwrap() == 3).count();
        assert!((2400..2600).contains(&drawn), "{drawn}");
        assert_eq!(AliasTable::new([(5, 0)].into_iter()).draw(&mut dice), None);
    }
}
