#include "metric/information.h"

#include <math.h>

enum { LARGE = 20, TERMS = 16 + 4 * LARGE }; /* from LARGE on a series is exact to 1e-4 */
#define CHANCE 0.9 /* of the entropy: where chance tells more, nothing can be said */

double lk_entropy(const int64_t *count, int64_t kinds)
{
    double n = 0, sum = 0;
    for (int64_t i = 0; i < kinds; i++) n += (double)count[i];
    for (int64_t i = 0; i < kinds; i++)
        if (count[i] > 0) sum -= (double)count[i] / n * log2((double)count[i] / n);
    return sum > 0 ? sum : 0;
}

/* E[k ln(k / mean)] of a Poisson k: what a cell of a table adds to the information by chance. */
static double cell_by_chance(double mean, const double logarithm[TERMS + 1])
{
    if (mean > LARGE) return 0.5 + 1 / (12 * mean) + 1 / (12 * mean * mean);
    double chance = exp(-mean), sum = 0;
    for (int k = 1; k < 16 + 4 * mean; k++) { /* E[k f(k)] = mean E[f(k + 1)] */
        sum += chance * logarithm[k];
        chance *= mean / k;
    }
    return mean * (sum - log(mean));
}

/* Information, bits, that a table of these sums has on average when rows and columns are
 * independent. */
static double by_chance(const int64_t *row, int64_t rows, const int64_t *column, int64_t columns,
                        double n)
{
    double nats = 0, logarithm[TERMS + 1];
    for (int k = 1; k <= TERMS; k++) logarithm[k] = log(k);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < columns && row[r] > 0; c++) {
            double a = (double)row[r] / n, b = (double)column[c] / n;
            if (b > 0) nats += cell_by_chance(a * b * n, logarithm) * (1 - a) * (1 - b);
        }
    return nats / n / M_LN2;
}

double lk_uncertainty(const int64_t *table, int64_t rows, int64_t columns)
{
    int64_t sum[LK_UNCERTAINTY_KINDS] = {0}, of_column[LK_UNCERTAINTY_KINDS] = {0}, n = 0;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < columns; c++) {
            sum[r] += table[r * columns + c];
            of_column[c] += table[r * columns + c];
            n += table[r * columns + c];
        }
    if (n == 0) return 0;
    double all = lk_entropy(of_column, columns);
    double told = lk_entropy(sum, rows) + all - lk_entropy(table, rows * columns);
    double chance = by_chance(sum, rows, of_column, columns, (double)n);
    if (!(chance < CHANCE * all)) return 0;
    double share = (told - chance) / (all - chance);
    return share < 0 ? 0 : share > 1 ? 1 : share;
}

double lk_chi_square(double degrees, double z)
{
    double v = 2 / (9 * degrees), root = 1 - v + z * sqrt(v);
    return root > 0 ? degrees * root * root * root : 0;
}
