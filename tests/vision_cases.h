/* What the files of cases on images share: vision_cases.c, excite_cases.c. */
#ifndef LK_TESTS_VISION_CASES_H
#define LK_TESTS_VISION_CASES_H

#include "tests/op_cases.h"

#include <stdlib.h>

#define IMAGE(what, b, h, w, c, ...)                                                               \
    {.kind = &what, .batch = b, .time = 1, .height = h, .width = w, .in = c, __VA_ARGS__}

static inline int64_t pixels(const op_case *c) { return c->height * c->width; }

static inline double *reserve(int64_t n)
{
    double *p = malloc((size_t)n * sizeof *p);
    if (!p) abort();
    return p;
}

/* vision_cases.c: an image; a batch norm of one, with x, w, b, mean, var, and values of these that
 * keep it from the corners of its activation. */
int image_tensors(const op_case *c, case_tensor *t);
int batch_norm_tensors(const op_case *c, case_tensor *t);
lk_tensor *batch_norm_build(lk_graph *g, const op_case *c, lk_dtype type, lk_tensor *const *in);
int64_t batch_norm_reference(const op_case *c, double *const *in, double *y);
void norm_dwconv_prepare(const op_case *c, double *const *value);

#endif
