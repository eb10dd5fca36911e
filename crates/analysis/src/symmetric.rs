//! Eigenvalues and eigenvectors of a small symmetric matrix.

/// A symmetric matrix of a few dozen rows.
pub(crate) struct Symmetric(Vec<Vec<f64>>);

impl Symmetric {
    /// The matrix with this diagonal, and these numbers beside it on both sides.
    pub fn tridiagonal(diagonal: &[f64], beside: &[f64]) -> Self {
        let mut rows = vec![vec![0.0; diagonal.len()]; diagonal.len()];
        for (index, &value) in diagonal.iter().enumerate() {
            rows[index][index] = value;
        }
        for (index, &value) in beside.iter().enumerate().take(diagonal.len().saturating_sub(1)) {
            (rows[index][index + 1], rows[index + 1][index]) = (value, value);
        }
        Self(rows)
    }

    /// All eigenvalues with their unit eigenvectors, the largest first: Jacobi's rotations, each of which makes an element
    /// off the diagonal zero, until none is left (Golub & Van Loan, Matrix Computations, section 8.5).
    pub fn eigen(self) -> Vec<(f64, Vec<f64>)> {
        let Self(mut a) = self;
        let n = a.len();
        // The rows become the eigenvectors.
        let mut vectors: Vec<Vec<f64>> =
            (0..n).map(|i| (0..n).map(|j| f64::from(u8::from(i == j))).collect()).collect();
        let size: f64 = a.iter().flatten().map(|x| x * x).sum();
        for _ in 0..100 {
            let off: f64 = (0..n).flat_map(|p| a[p][..p].iter().map(|x| x * x)).sum();
            if off <= f64::EPSILON.powi(2) * size {
                break;
            }
            for p in 0..n {
                for q in p + 1..n {
                    if a[p][q] != 0.0 {
                        rotate(&mut a, &mut vectors, p, q);
                    }
                }
            }
        }
        let mut pairs: Vec<_> =
            vectors.into_iter().enumerate().map(|(i, vector)| (a[i][i], vector)).collect();
        pairs.sort_by(|(one, _), (other, _)| other.total_cmp(one));
        pairs
    }
}

/// Turns rows and columns p and q so that their common element becomes zero.
fn rotate(a: &mut [Vec<f64>], vectors: &mut [Vec<f64>], p: usize, q: usize) {
    let ratio = (a[q][q] - a[p][p]) / (2.0 * a[p][q]);
    let tangent = ratio.signum() / (ratio.abs() + (ratio * ratio + 1.0).sqrt());
    let cosine = 1.0 / (tangent * tangent + 1.0).sqrt();
    let sine = tangent * cosine;
    let turn = |x: f64, y: f64| (cosine * x - sine * y, sine * x + cosine * y);
    for row in a.iter_mut() {
        (row[p], row[q]) = turn(row[p], row[q]);
    }
    for matrix in [a, vectors] {
        let (above, below) = matrix.split_at_mut(q);
        for (x, y) in above[p].iter_mut().zip(&mut below[0]) {
            (*x, *y) = turn(*x, *y);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The second difference on n points has the eigenvalues 2 - 2 cos(π k / (n + 1)).
    #[test]
    fn the_second_difference() {
        for n in [1, 2, 3, 7, 30] {
            let pairs = Symmetric::tridiagonal(&vec![2.0; n], &vec![-1.0; n]).eigen();
            for (index, (value, vector)) in pairs.iter().enumerate() {
                let angle = std::f64::consts::PI * (n - index) as f64 / (n as f64 + 1.0);
                assert!((value - (2.0 - 2.0 * angle.cos())).abs() < 1e-12, "{n} {index}: {value}");
                let at = |i: usize| vector.get(i).copied().unwrap_or(0.0);
                for i in 0..n {
                    let product = 2.0 * at(i) - at(i + 1) - if i > 0 { at(i - 1) } else { 0.0 };
                    assert!((product - value * at(i)).abs() < 1e-12);
                }
                let norm: f64 = vector.iter().map(|x| x * x).sum();
                assert!((norm - 1.0).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn what_is_diagonal_stays() {
        let pairs = Symmetric::tridiagonal(&[1.0, -5.0, 3.0], &[0.0, 0.0]).eigen();
        assert_eq!(pairs.iter().map(|(value, _)| *value).collect::<Vec<_>>(), [3.0, 1.0, -5.0]);
        assert!(Symmetric::tridiagonal(&[], &[]).eigen().is_empty());
    }
}
