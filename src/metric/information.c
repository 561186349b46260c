#include "metric/information.h"

#include <math.h>

double lk_entropy(const int64_t *count, int64_t kinds)
{
    double n = 0, sum = 0;
    for (int64_t i = 0; i < kinds; i++) n += (double)count[i];
    for (int64_t i = 0; i < kinds; i++)
        if (count[i] > 0) sum -= (double)count[i] / n * log2((double)count[i] / n);
    return sum > 0 ? sum : 0;
}

double lk_uncertainty(const int64_t *table, int64_t rows, int64_t columns)
{
    double n = 0, joint = 0, h_row = 0, h_column = 0;
    int64_t used_rows = 0, used_columns = 0;
    for (int64_t i = 0; i < rows * columns; i++) n += (double)table[i];
    if (n == 0) return 0;
    for (int64_t r = 0; r < rows; r++) {
        double sum = 0;
        for (int64_t c = 0; c < columns; c++) {
            double x = (double)table[r * columns + c];
            sum += x;
            if (x > 0) joint -= x / n * log2(x / n);
        }
        if (sum > 0) h_row -= sum / n * log2(sum / n);
        used_rows += sum > 0;
    }
    for (int64_t c = 0; c < columns; c++) {
        double sum = 0;
        for (int64_t r = 0; r < rows; r++) sum += (double)table[r * columns + c];
        if (sum > 0) h_column -= sum / n * log2(sum / n);
        used_columns += sum > 0;
    }
    if (!(h_column > 0)) return 0;
    double bias = (double)((used_rows - 1) * (used_columns - 1)) / (2 * n * M_LN2);
    double share = (h_row + h_column - joint - bias) / h_column;
    return share < 0 ? 0 : share > 1 ? 1 : share;
}

double lk_chi_square(double degrees, double z)
{
    double v = 2 / (9 * degrees), root = 1 - v + z * sqrt(v);
    return root > 0 ? degrees * root * root * root : 0;
}
