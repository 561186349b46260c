/* Entropy and mutual information of counts, in bits; chi-square quantiles. */
#ifndef LK_METRIC_INFORMATION_H
#define LK_METRIC_INFORMATION_H

#include <stdint.h>

/* Of the shares of counts. 0 for none. */
double lk_entropy(const int64_t *count, int64_t kinds);
/* How much of H(Y) the row of a table of counts [rows, columns] tells, Y the column: 0 when it
 * tells nothing about it, 1 when it tells all; 0 where H(Y) is 0. Few samples seem to tell
 * something by chance alone, E, so this is (I(X;Y) - E) / (H(Y) - E), adjusted for chance as by N.
 * Vinh, J. Epps, J. Bailey 2010, with E for cells of Poisson counts. 0 where chance tells nearly
 * all. At most LK_UNCERTAINTY_KINDS rows and columns. */
enum { LK_UNCERTAINTY_KINDS = 256 };
double lk_uncertainty(const int64_t *table, int64_t rows, int64_t columns);
/* The value that a chi-square of so many degrees exceeds with the probability of a normal above z
 * deviations (E. Wilson, M. Hilferty 1931). */
double lk_chi_square(double degrees, double z);

#endif
