//! How evenly a load is spread, in the numbers people compare: max/mean, the coefficient of variation,
//! and the chance of so uneven a spread if keys fell at random. And families of keys to measure with.
//!
//! For tests, reports and pictures; nothing routes by it, so floating point is welcome here.

/// How even counts are against what weights ask for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The largest count against its due, 1 or more: how much hotter the hottest member is.
    pub max_over_mean: f64,
    /// The smallest count against its due, from 0 to 1.
    pub min_over_mean: f64,
    /// The coefficient of variation: standard deviation of count/due, 0 when all is even.
    pub cv: f64,
    /// Pearson's chi-square against the dues.
    pub chi2: f64,
    /// The chance of a chi-square at least this large when keys fall at random by weight, 0 to 1.
    pub p: f64,
}

impl Spread {
    /// Of a count for each member and its weight. Members without weight are left out. `None` when
    /// nobody has weight, nothing was counted, or there is not one weight for each count.
    ///
    /// ```
    /// let spread = carp::spread::Spread::of(&[30, 10], &[1, 1]).unwrap();
    /// assert_eq!((spread.max_over_mean, spread.chi2), (1.5, 10.0));
    /// ```
    pub fn of(counts: &[u64], weights: &[u64]) -> Option<Spread> {
        let pairs: Vec<(f64, f64)> = counts
            .iter()
            .zip(weights)
            .filter(|(_, weight)| 0 < **weight)
            .map(|(count, weight)| (*count as f64, *weight as f64))
            .collect();
        let total: f64 = pairs.iter().map(|(count, _)| count).sum();
        if counts.len() != weights.len() || total == 0.0 {
            return None;
        }
        let weight: f64 = pairs.iter().map(|(_, weight)| weight).sum();
        let due = |share: f64| total * share / weight;
        let ratios: Vec<f64> = pairs.iter().map(|(count, share)| count / due(*share)).collect();
        let chi2 =
            pairs.iter().map(|(count, share)| (count - due(*share)).powi(2) / due(*share)).sum();
        let variance = ratios.iter().map(|ratio| (ratio - 1.0).powi(2)).sum::<f64>();
        Some(Spread {
            max_over_mean: ratios.iter().copied().fold(0.0, f64::max),
            min_over_mean: ratios.iter().copied().fold(f64::INFINITY, f64::min),
            cv: (variance / ratios.len() as f64).sqrt(),
            chi2,
            p: chi2_tail(chi2, pairs.len() as u32 - 1),
        })
    }
}

/// The chance that a chi-square of `degrees` degrees of freedom is at least `chi2`; 1 without degrees.
pub fn chi2_tail(chi2: f64, degrees: u32) -> f64 {
    if degrees == 0 || chi2 <= 0.0 {
        return 1.0;
    }
    upper_gamma(f64::from(degrees) / 2.0, chi2 / 2.0)
}

/// A way in which people name keys. The number of a key is all that varies, so the same keys come out
/// everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `user:0000001`: a counter in decimal.
    Counter,
    /// `http://www.example.com/shop/17/item-523.html`: a path, as in a URL.
    Url,
    /// 32 hexadecimal digits without order, as of a digest.
    Random,
    /// `6e789e6a-a1b9-4656-88f3-8f21a2b2d9a0`: a random UUID.
    Uuid,
    /// `grace.hopper17@example.org`: an address.
    Email,
    /// `sensor/042/2026-03-17T08:15`: names that share long beginnings and differ late.
    Dated,
    /// 8 bytes, big-endian, counting up.
    Binary,
}

impl Family {
    /// Every family.
    pub const ALL: [Family; 7] = [
        Family::Counter,
        Family::Url,
        Family::Random,
        Family::Uuid,
        Family::Email,
        Family::Dated,
        Family::Binary,
    ];

    /// The name, for reports.
    pub fn name(self) -> &'static str {
        match self {
            Family::Counter => "counter",
            Family::Url => "url",
            Family::Random => "random",
            Family::Uuid => "uuid",
            Family::Email => "email",
            Family::Dated => "dated",
            Family::Binary => "binary",
        }
    }

    /// The key of a number. Different numbers below 100,000,000 give different keys.
    pub fn key(self, number: u32) -> Vec<u8> {
        let n = number;
        match self {
            Family::Counter => format!("user:{n:07}").into_bytes(),
            Family::Url => {
                format!("http://www.example.com/shop/{}/item-{}.html", n % 97, n / 97).into_bytes()
            }
            Family::Random => {
                let (high, low) = random_bits(n);
                format!("{high:016x}{low:016x}").into_bytes()
            }
            Family::Uuid => {
                let (high, low) = random_bits(n);
                let (a, b, c) = (high >> 32, high >> 16 & 0xffff, high & 0xfff);
                // Version 4, variant 10.
                let (d, e) = (low >> 48 & 0x3fff | 0x8000, low & 0xffff_ffff_ffff);
                format!("{a:08x}-{b:04x}-4{c:03x}-{d:04x}-{e:012x}").into_bytes()
            }
            Family::Email => {
                const FIRST: [&str; 8] =
                    ["ada", "alan", "barbara", "edsger", "grace", "jim", "leslie", "nancy"];
                const LAST: [&str; 8] = [
                    "lovelace", "turing", "liskov", "dijkstra", "hopper", "gray", "lamport",
                    "lynch",
                ];
                const AT: [&str; 3] = ["example.com", "example.org", "mail.example"];
                let pick = |from: &'static [&str], number: u32| from[number as usize % from.len()];
                let (first, last) = (pick(&FIRST, n), pick(&LAST, n / 8));
                format!("{first}.{last}{}@{}", n / 64, pick(&AT, n / 7)).into_bytes()
            }
            Family::Dated => {
                let (minute, hour, day, month) =
                    (n % 60, n / 60 % 24, n / 1440 % 28, n / 40_320 % 12);
                let sensor = n / 483_840;
                format!(
                    "sensor/{sensor:03}/2026-{:02}-{:02}T{hour:02}:{minute:02}",
                    month + 1,
                    day + 1
                )
                .into_bytes()
            }
            Family::Binary => u64::from(n).to_be_bytes().to_vec(),
        }
    }
}

/// Splitmix64, twice: a known sequence without order.
fn random_bits(number: u32) -> (u64, u64) {
    (splitmix64(2 * u64::from(number)), splitmix64(2 * u64::from(number) + 1))
}

fn splitmix64(number: u64) -> u64 {
    let mut x = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

/// The regularized upper incomplete gamma function Q(a, x) for 0 < a, 0 < x: by its series below a + 1
/// and by its continued fraction (Lentz) above, where each converges quickly.
fn upper_gamma(a: f64, x: f64) -> f64 {
    // Enough for a of a few thousand; both loops end much earlier.
    const STEPS_MAX: u32 = 10_000;
    let scale = (a * x.ln() - x - ln_gamma(a)).exp();
    if x < a + 1.0 {
        let (mut term, mut sum) = (1.0 / a, 1.0 / a);
        for step in 1..STEPS_MAX {
            term *= x / (a + f64::from(step));
            sum += term;
            if term < sum * f64::EPSILON {
                break;
            }
        }
        return (1.0 - scale * sum).clamp(0.0, 1.0);
    }
    let tiny = f64::MIN_POSITIVE / f64::EPSILON;
    let mut b = x + 1.0 - a;
    let (mut c, mut d) = (1.0 / tiny, 1.0 / b);
    let mut fraction = d;
    for step in 1..STEPS_MAX {
        let step = f64::from(step);
        let factor = -step * (step - a);
        b += 2.0;
        let guard = |value: f64| if value.abs() < tiny { tiny } else { value };
        d = 1.0 / guard(factor * d + b);
        c = guard(b + factor / c);
        fraction *= d * c;
        if (d * c - 1.0).abs() < f64::EPSILON {
            break;
        }
    }
    (scale * fraction).clamp(0.0, 1.0)
}

/// ln of the gamma function for 0 < x, by Stirling's series after moving x up to where it is exact to
/// 14 digits.
fn ln_gamma(x: f64) -> f64 {
    let (mut x, mut shift) = (x, 0.0);
    while x < 10.0 {
        shift += x.ln();
        x += 1.0;
    }
    let inverse = 1.0 / (x * x);
    let series = (1.0 / 12.0
        - inverse
            * (1.0 / 360.0
                - inverse * (1.0 / 1260.0 - inverse * (1.0 / 1680.0 - inverse / 1188.0))))
        / x;
    (x - 0.5) * x.ln() - x + 0.5 * (2.0 * std::f64::consts::PI).ln() + series - shift
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_of_chi_square_agrees_with_printed_tables() {
        // Critical values as statistics books print them: (degrees, chi-square, chance).
        for (degrees, chi2, p) in [
            (1, 3.841, 0.05),
            (1, 6.635, 0.01),
            (2, 5.991, 0.05),
            (5, 11.070, 0.05),
            (10, 23.209, 0.01),
            (30, 43.773, 0.05),
            (63, 92.010, 0.01),
            (100, 77.929, 0.95),
            (100, 149.449, 0.001),
        ] {
            let ours = chi2_tail(chi2, degrees);
            assert!((ours / p - 1.0).abs() < 2e-3, "{degrees} {chi2}: {ours}, not {p}");
        }
        // Two degrees have a closed form, on both sides of where the method changes.
        for chi2 in [0.01f64, 1.0, 3.9, 4.1, 20.0, 200.0] {
            assert!((chi2_tail(chi2, 2) / (-chi2 / 2.0).exp() - 1.0).abs() < 1e-11, "{chi2}");
        }
        assert_eq!(chi2_tail(0.0, 5), 1.0);
        assert_eq!(chi2_tail(5.0, 0), 1.0);
        assert!(chi2_tail(1e6, 3) < 1e-300);
        assert!(chi2_tail(0.5, 2000) > 0.999_999);
    }

    #[test]
    fn weights_are_what_counts_are_measured_against() {
        let even = Spread::of(&[10, 20, 70, 0], &[1, 2, 7, 0]).unwrap();
        assert!(
            (even.max_over_mean - 1.0).abs() < 1e-12 && (even.min_over_mean - 1.0).abs() < 1e-12
        );
        assert!(even.cv < 1e-12 && even.chi2 < 1e-12 && even.p > 1.0 - 1e-12);
        let uneven = Spread::of(&[100, 0], &[1, 1]).unwrap();
        assert_eq!((uneven.max_over_mean, uneven.min_over_mean, uneven.cv), (2.0, 0.0, 1.0));
        assert!(uneven.p < 1e-20);
    }

    #[test]
    fn nothing_to_measure_is_said() {
        for (counts, weights) in
            [(&[][..], &[][..]), (&[0, 0], &[1, 1]), (&[5], &[0]), (&[1, 2], &[1])]
        {
            assert_eq!(Spread::of(counts, weights), None);
        }
    }

    #[test]
    fn keys_of_a_family_differ() {
        for family in Family::ALL {
            let mut keys: Vec<Vec<u8>> = (0..600_000).map(|n| family.key(n)).collect();
            keys.sort_unstable();
            assert!(keys.windows(2).all(|pair| pair[0] != pair[1]), "{}", family.name());
        }
    }
}
