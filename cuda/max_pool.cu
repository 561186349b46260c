/* max_pool and its gradient over windows of size x size of x [B,H,W,C].
 *
 * A thread does V neighbouring channels of one pixel; neighbouring threads do neighbouring
 * channels, then pixels of a row, so that the windows they share come from the first-level cache.
 * The gradient gathers: a pixel of dx looks through the windows that hold it, in their order, for
 * those whose largest element it was. y X and index u8 [B,Ho,Wo,C]. */
#include "cuda/device.cuh"
#include "cuda/divide.cuh"

enum { THREADS = 256 };

typedef struct shape {
    int h, w, c, ho, wo, size, stride, pad;
    lk_divisor across, width, height; /* vectors of a pixel, pixels of a row, rows of an image, of
                                         the tensor that the threads make */
    int items;                        /* vectors of that tensor */
} shape;

/* Image b, row i, column j and first channel c of a thread's vector; false: there is none. */
template <int V>
static __device__ __forceinline__ bool place(const shape &a, int *b, int *i, int *j, int *c)
{
    int64_t item = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (item >= a.items) return false;
    *b = lk_divide(lk_divide(lk_divide((int)item, a.across, c), a.width, j), a.height, i);
    *c *= V;
    return true;
}

template <typename E, int V>
static __global__ void __launch_bounds__(THREADS)
    k_max_pool(shape a, const E *x, E *y, uint8_t *index)
{
    int b, i, j, c;
    if (!place<V>(a, &b, &i, &j, &c)) return;
    int top = i * a.stride - a.pad, left = j * a.stride - a.pad;
    const E *image = x + (int64_t)b * a.h * a.w * a.c + c;
    lk_vec<uint8_t, V> at;
    float best[V], v[V];
    bool first = true;
    for (int r = 0; r < a.size; r++)
        for (int s = 0; s < a.size; s++) {
            int row = top + r, column = left + s;
            if (row < 0 || row >= a.h || column < 0 || column >= a.w) continue;
            lk_get<V>(v, image + (int64_t)(row * a.w + column) * a.c);
#pragma unroll
            for (int k = 0; k < V; k++)
                if (first || v[k] > best[k] || v[k] != v[k]) { /* a NaN wins, and stays */
                    best[k] = v[k];
                    at.v[k] = (uint8_t)(r * a.size + s);
                }
            first = false;
        }
    int64_t out = (((int64_t)b * a.ho + i) * a.wo + j) * a.c + c;
    lk_put<V>(y + out, best);
    *(lk_vec<uint8_t, V> *)(index + out) = at;
}

/* Windows first .. last of `count` that hold pixel i; last < first: none. */
static __device__ __forceinline__ void windows_of(const shape &a, int i, int count, int *first,
                                                  int *last)
{
    int low = i + a.pad - a.size + 1;
    *first = low <= 0 ? 0 : (low + a.stride - 1) / a.stride;
    *last = min((i + a.pad) / a.stride, count - 1);
}

template <typename E, int V>
static __global__ void __launch_bounds__(THREADS)
    k_max_pool_grad(shape a, const E *dy, const uint8_t *index, E *dx)
{
    int b, i, j, c;
    if (!place<V>(a, &b, &i, &j, &c)) return;
    int row0, row1, column0, column1;
    windows_of(a, i, a.ho, &row0, &row1);
    windows_of(a, j, a.wo, &column0, &column1);
    float sum[V], v[V];
#pragma unroll
    for (int k = 0; k < V; k++) sum[k] = 0;
    for (int row = row0; row <= row1; row++)
        for (int column = column0; column <= column1; column++) {
            int64_t from = (((int64_t)b * a.ho + row) * a.wo + column) * a.c + c;
            int own = (i + a.pad - row * a.stride) * a.size + j + a.pad - column * a.stride;
            lk_vec<uint8_t, V> at = *(const lk_vec<uint8_t, V> *)(index + from);
            lk_get<V>(v, dy + from);
#pragma unroll
            for (int k = 0; k < V; k++) sum[k] += at.v[k] == own ? v[k] : 0;
        }
    lk_put<V>(dx + (((int64_t)b * a.h + i) * a.w + j) * a.c + c, sum);
}

/* x [B,H,W,C], y [B,Ho,Wo,C], and which of them the threads make. */
static lk_status shape_of(const lk_node *n, const lk_tensor *x, const lk_tensor *y,
                          const lk_tensor *made, shape *a)
{
    a->h = (int)x->dim[1];
    a->w = (int)x->dim[2];
    a->c = (int)x->dim[3];
    a->ho = (int)y->dim[1];
    a->wo = (int)y->dim[2];
    a->size = n->attr.max_pool.size;
    a->stride = n->attr.max_pool.stride;
    a->pad = n->attr.max_pool.pad;
    int vector = a->c % 8 == 0 ? 8 : 1;
    a->across = lk_divisor_of(a->c / vector);
    a->width = lk_divisor_of((int)made->dim[2]);
    a->height = lk_divisor_of((int)made->dim[1]);
    if (lk_count(made) / vector > INT32_MAX)
        return lk_fail(LK_E_INPUT, "%s: %s: the tensor is too large", n->scope, lk_op_name(n->op));
    a->items = (int)(lk_count(made) / vector);
    return LK_OK;
}

extern "C" lk_status lk_cuda_max_pool(lk_exec *x, const lk_node *n)
{
    const lk_tensor *y = n->out[0];
    shape a;
    LK_TRY(shape_of(n, n->in[0], y, y, &a));
    LK_FLOAT_SWITCH(y->dtype, E, LK_VECTOR_SWITCH(a.c, V, {
                        k_max_pool<E, V>
                            <<<lk_blocks(a.items, THREADS), THREADS, 0, lk_cuda_stream_of(x)>>>(
                                a, (const E *)lk_data(x, n->in[0]), (E *)lk_data(x, y),
                                (uint8_t *)lk_data(x, n->out[1]));
                    }));
    return lk_cuda_launched(n);
}

extern "C" lk_status lk_cuda_max_pool_grad(lk_exec *x, const lk_node *n)
{
    const lk_tensor *dx = n->out[0];
    shape a;
    LK_TRY(shape_of(n, dx, n->in[0], dx, &a));
    LK_FLOAT_SWITCH(dx->dtype, E, LK_VECTOR_SWITCH(a.c, V, {
                        k_max_pool_grad<E, V>
                            <<<lk_blocks(a.items, THREADS), THREADS, 0, lk_cuda_stream_of(x)>>>(
                                a, (const E *)lk_data(x, n->in[0]),
                                (const uint8_t *)lk_data(x, n->in[1]), (E *)lk_data(x, dx));
                    }));
    return lk_cuda_launched(n);
}
