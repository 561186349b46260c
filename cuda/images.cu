/* images: choose this leaf's samples, crop, flip, erase and mix them, and write x, targets, labels.
 *
 * Block (sample, part of the image). Which image is read and what is drawn for it is found once by
 * a block, on the device from state.step, so that a captured step reads new data at every replay.
 * A thread then makes one pixel at a time with all its channels: the stored bytes around its point,
 * interpolated, normalised, mixed. Where no interpolation happens (an image that is only shifted)
 * one byte is read instead of four, at a place in whole numbers. A warp's pixels pass through
 * shared memory, so that rows of 3 channels are written in whole vectors.
 *
 * data u8 [.., Hs,Ws,C], labels u16, x X [B,H,W,C], targets f32 [B,K], classes i32 [B]. */
#include "cuda/device.cuh"
#include "cuda/divide.cuh"

enum {
    THREADS = 256,
    PART = 64 * THREADS, /* pixels of a block */
    STAGED = 4           /* most channels that pass through shared memory */
};

typedef struct request {
    const uint8_t *data;
    const uint16_t *labels;
    const float *scale; /* [2,C] */
    const lk_step_state *state;
    int batch, stored_h, stored_w, h, w, c, classes;
    int resident;
    uint32_t purpose;
    uint64_t seed;
    int leaf;
    int64_t shard, shard_rows; /* number of the leaf's shard in data */
    lk_augment augment;
    lk_divisor width;
} request;

/* One image of a mixture. */
typedef struct source {
    lk_augment_sample draw;
    int64_t row; /* of data and labels */
    const uint8_t *image; /* [Hs,Ws,C] */
    float share; /* in the mixture */
    bool exact;  /* every point is a stored pixel, or black: */
    int top, left; /* that of the output's first */
} source;

/* Image `sample` of the batch; `share` is left alone. */
static __device__ __noinline__ void look_up(const request &q, int sample, source *s)
{
    uint64_t step = q.state->step;
    s->row = sample;
    if (q.resident)
        s->row = q.shard * q.shard_rows +
                 lk_sample_row(step, q.batch, sample, q.shard_rows, q.seed, q.purpose, q.leaf);
    s->image = q.data + s->row * q.stored_h * q.stored_w * q.c;
    s->draw = lk_augment_draw(&q.augment, q.stored_h, q.stored_w, q.h, q.w, q.seed, step, q.leaf,
                              sample);
    s->exact = s->draw.rows == (float)q.h && s->draw.columns == (float)q.w;
    s->top = (int)s->draw.top; /* whole numbers, without interpolation */
    s->left = (int)s->draw.left;
}

/* A point on one axis: the two pixels around it, and the share of the second. false: black. */
static __device__ __forceinline__ bool around(float at, int size, int *low, int *high, float *share)
{
    if (at < -0.5f || at > (float)size - 0.5f) return false;
    at = fminf(fmaxf(at, 0.0f), (float)(size - 1));
    *low = (int)at;
    *high = min(*low + 1, size - 1);
    *share = at - (float)*low;
    return true;
}

/* How c channels from `first` on are normalised. */
template <int C> struct normal {
    float mean[C], factor[C];

    __device__ __forceinline__ normal(const request &q, int first)
    {
#pragma unroll
        for (int k = 0; k < C; k++) {
            mean[k] = __ldg(q.scale + first + k);
            factor[k] = __ldg(q.scale + q.c + first + k);
        }
    }
};

/* p [C] = the stored pixel at (y, x), its channels from `first` on. */
template <int C>
static __device__ __forceinline__ void load_pixel(const request &q, const source &s, int y, int x,
                                                  int first, float *p)
{
    const uint8_t *from = s.image + (int64_t)(y * q.stored_w + x) * q.c + first;
#pragma unroll
    for (int k = 0; k < C; k++) p[k] = (float)__ldg(from + k);
}

/* The same at the point of output pixel (i, column), of the four pixels around. false: black. */
template <int C>
static __device__ __forceinline__ bool interpolate(const request &q, const source &s, int i,
                                                   int column, int first, float *p)
{
    const lk_augment_sample &d = s.draw;
    int y0, y1, x0, x1;
    float fy, fx, b[C], c[C], e[C];
    float y = d.top + ((float)i + 0.5f) * d.rows / (float)q.h - 0.5f;
    float x = d.left + ((float)column + 0.5f) * d.columns / (float)q.w - 0.5f;
    if (!around(y, q.stored_h, &y0, &y1, &fy) || !around(x, q.stored_w, &x0, &x1, &fx))
        return false;
    load_pixel<C>(q, s, y0, x0, first, p);
    load_pixel<C>(q, s, y0, x1, first, b);
    load_pixel<C>(q, s, y1, x0, first, c);
    load_pixel<C>(q, s, y1, x1, first, e);
#pragma unroll
    for (int k = 0; k < C; k++) {
        p[k] += fx * (b[k] - p[k]);
        c[k] += fx * (e[k] - c[k]);
        p[k] += fy * (c[k] - p[k]);
    }
    return true;
}

/* v [C] += share of the pixel (i, j) of source s: its channels from `first` on. */
template <int C>
static __device__ __forceinline__ void add_pixel(const request &q, const source &s, int i, int j,
                                                 int first, const normal<C> &by, float *v)
{
    const lk_augment_sample &d = s.draw;
    if ((unsigned)(i - d.erase_top) < (unsigned)d.erase_rows &&
        (unsigned)(j - d.erase_left) < (unsigned)d.erase_columns)
        return;
    int column = d.flip ? q.w - 1 - j : j;
    bool seen;
    float p[C];
    if (s.exact) {
        int y = s.top + i, x = s.left + column;
        seen = (unsigned)y < (unsigned)q.stored_h && (unsigned)x < (unsigned)q.stored_w;
        if (seen) load_pixel<C>(q, s, y, x, first, p);
    } else {
        seen = interpolate<C>(q, s, i, column, first, p);
    }
#pragma unroll
    for (int k = 0; k < C; k++)
        v[k] += s.share * (((seen ? p[k] : 0) * (1.0f / 255) - by.mean[k]) * by.factor[k]);
}

/* Row b of targets f32 [B,K] and classes i32 [B]. */
static __device__ void put_targets(const request &q, int b, const source *s, int sources,
                                   float *targets, int32_t *classes)
{
    float smoothing = q.augment.smoothing, even = smoothing / (float)q.classes;
    for (int k = threadIdx.x; k < q.classes; k += THREADS) {
        float t = 0;
        for (int m = 0; m < sources; m++)
            t += s[m].share * ((k == q.labels[s[m].row] ? 1.0f - smoothing : 0.0f) + even);
        targets[(int64_t)b * q.classes + k] = t;
    }
    if (threadIdx.x == 0) classes[b] = q.labels[s[0].row];
}

/* The sources of sample b into s [2]; returns their number. Two warps draw at the same time. */
static __device__ __forceinline__ int look_up_all(const request &q, int b, source *s)
{
    int sources = q.augment.mixup > 0 ? 2 : 1;
    if (threadIdx.x % 32 == 0 && threadIdx.x / 32 < sources)
        look_up(q, threadIdx.x ? q.batch - 1 - b : b, &s[threadIdx.x / 32]);
    __syncthreads();
    if (threadIdx.x == 0) {
        s[0].share = sources > 1 ? s[0].draw.lambda : 1.0f;
        s[1].share = 1.0f - s[0].share;
    }
    __syncthreads();
    return sources;
}

/* Images of C channels, whose rows of B fill vectors: H W C % 8 == 0. */
template <typename E, int C>
static __global__ void __launch_bounds__(THREADS)
    k_images(const __grid_constant__ request q, E *x, float *targets, int32_t *classes)
{
    constexpr int V = 16 / sizeof(E), VECTORS = 32 * C / V; /* of a warp */
    __shared__ source s[2];
    __shared__ __align__(16) E staged[THREADS * C];
    int b = blockIdx.x, sources = look_up_all(q, b, s);
    int lane = threadIdx.x % 32, pixels = q.h * q.w;
    const normal<C> by(q, 0);
    if (blockIdx.y == 0) put_targets(q, b, s, sources, targets, classes);
    E *own = staged + (threadIdx.x - lane) * C;
    E *image = x + (int64_t)b * pixels * C;
    int end = min((int)(blockIdx.y + 1) * PART, pixels);
    for (int p = blockIdx.y * PART + threadIdx.x; p - lane < end; p += THREADS) {
        float v[C] = {};
        int j, i = lk_divide(p, q.width, &j);
        if (p < end)
            for (int m = 0; m < sources; m++) add_pixel<C>(q, s[m], i, j, 0, by, v);
        __syncwarp();
#pragma unroll
        for (int k = 0; k < C; k++) own[lane * C + k] = lk_store<E>(v[k]);
        __syncwarp();
        int first = (p - lane) * C; /* element of the warp's first pixel */
        for (int k = lane; k < VECTORS; k += 32)
            if (first + k * V < end * C)
                *(lk_vec<E, V> *)(image + first + k * V) = *(const lk_vec<E, V> *)(own + k * V);
    }
}

/* The same for any number of channels, one at a time. */
template <typename E>
static __global__ void __launch_bounds__(THREADS)
    k_images_plain(const __grid_constant__ request q, E *x, float *targets, int32_t *classes)
{
    __shared__ source s[2];
    int b = blockIdx.x, sources = look_up_all(q, b, s), pixels = q.h * q.w;
    if (blockIdx.y == 0) put_targets(q, b, s, sources, targets, classes);
    int end = min((int)(blockIdx.y + 1) * PART, pixels);
    for (int p = blockIdx.y * PART + threadIdx.x; p < end; p += THREADS) {
        int j, i = lk_divide(p, q.width, &j);
        for (int k = 0; k < q.c; k++) {
            float v = 0;
            for (int m = 0; m < sources; m++) add_pixel<1>(q, s[m], i, j, k, normal<1>(q, k), &v);
            x[((int64_t)b * pixels + p) * q.c + k] = lk_store<E>(v);
        }
    }
}

static request request_of(const lk_exec *x, const lk_node *n)
{
    const lk_tensor *data = n->in[0], *y = n->out[0];
    request q = {};
    q.data = (const uint8_t *)lk_data(x, data);
    q.labels = (const uint16_t *)lk_data(x, n->in[1]);
    q.scale = (const float *)lk_data(x, n->in[2]);
    q.state = (const lk_step_state *)lk_data(x, n->in[3]);
    q.batch = (int)y->dim[0];
    q.stored_h = (int)data->dim[1];
    q.stored_w = (int)data->dim[2];
    q.h = (int)y->dim[1];
    q.w = (int)y->dim[2];
    q.c = (int)y->dim[3];
    q.classes = (int)lk_cols(n->out[1]);
    q.resident = n->attr.images.resident;
    q.purpose = n->attr.images.purpose;
    q.seed = x->seed;
    q.leaf = x->leaf;
    q.shard = (int64_t)x->leaf - n->attr.images.first_leaf;
    q.shard_rows = n->attr.images.shard_rows;
    q.augment = n->attr.images.augment;
    q.width = lk_divisor_of(q.w);
    return q;
}

extern "C" lk_status lk_cuda_images(lk_exec *x, const lk_node *n)
{
    request q = request_of(x, n);
    float *targets = (float *)lk_data(x, n->out[1]);
    int32_t *classes = (int32_t *)lk_data(x, n->out[2]);
    dim3 grid((unsigned)q.batch, lk_blocks((int64_t)q.h * q.w, PART));
    cudaStream_t stream = lk_cuda_stream_of(x);
    bool vectors = (int64_t)q.h * q.w * q.c % 8 == 0;
    LK_FLOAT_SWITCH(n->out[0]->dtype, E, {
        auto kernel = vectors && q.c == 1   ? k_images<E, 1>
                      : vectors && q.c == 3 ? k_images<E, 3>
                      : vectors && q.c == 4 ? k_images<E, 4>
                                            : k_images_plain<E>;
        kernel<<<grid, THREADS, 0, stream>>>(q, (E *)lk_data(x, n->out[0]), targets, classes);
    });
    return lk_cuda_launched(n);
}
