/* Entropy and mutual information of counts, in bits; chi-square quantiles. */
#ifndef LK_METRIC_INFORMATION_H
#define LK_METRIC_INFORMATION_H

#include <stdint.h>

/* Of the shares of counts. 0 for none. */
double lk_entropy(const int64_t *count, int64_t kinds);
/* I(X;Y) / H(Y) of a table of counts [rows, columns], Y the column: 0 when the row tells nothing
 * about the column, 1 when it tells all. The bias of few samples, (rows-1)(columns-1) / 2N nats
 * (G. Miller 1955, over rows and columns that occur), is taken off; 0 where H(Y) is 0. */
double lk_uncertainty(const int64_t *table, int64_t rows, int64_t columns);
/* The value that a chi-square of so many degrees exceeds with the probability of a normal above z
 * deviations (E. Wilson, M. Hilferty 1931). */
double lk_chi_square(double degrees, double z);

#endif
