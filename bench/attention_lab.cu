/* bench/attention_lab: the attention kernels of cuda/ alone, on one GPU.
 *
 *   1. the three kinds of wgmma product on one tile, against the same sums on the host
 *   2. every case: error ||out - reference|| / ||reference|| of y, lse, dq, dk, dv against double
 *      precision on one (batch entry, kv head), for mma.sync and wgmma; outputs poisoned before;
 *      the same bits in a second run; the column sums that wgmma leaves against those of its dq,
 *      dk, dv, as parts of the sums of sizes
 *   3. time of shapes of real runs, TFLOP/s of 2 products forward and 5 backward, half of them when
 *      causal; launches captured in a graph, buffers rotating over more than the L2 cache.
 *      bench/peer/attention.py reads these lines, and times PyTorch's at the same shapes
 *
 * make bench/attention_lab builds it; alone, to be run anywhere:
 *   nvcc -std=c++17 -O3 -gencode arch=compute_90a,code=sm_90a -Isrc -I. -cudart static \
 *        bench/attention_lab.cu -o attention_lab
 * Arguments: check, time or nothing for both. */
#include "cuda/attention_mma.cuh"
#include "cuda/attention_wgmma_grad.cuh"

#include <algorithm>
#include <thread>
#include <vector>

#define CHECK(call)                                                                                \
    do {                                                                                           \
        cudaError_t check_ = (call);                                                               \
        if (check_ != cudaSuccess) {                                                               \
            printf("%s:%d: %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(check_));      \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

typedef struct lab_case {
    const char *name;
    int64_t batch;
    int t, s; /* s == t: q, k, v in one qkv; else q and kv */
    int heads, kv_heads, d;
    bool causal, alibi;
    float p;
    bool bf16;
    bool rope = false; /* times: wgmma rotates dq and dk back */
} lab_case;

/* ---- host side ------------------------------------------------------------------------------ */

static float uniform(uint32_t stream, uint64_t i)
{
    lk_u32x4 r = lk_philox(7, (uint32_t)i, stream, (uint32_t)(i >> 32), 0);
    return lk_uniform(r.v[0]);
}

template <typename E> static __global__ void k_fill(E *x, int64_t n, uint32_t stream, float size)
{
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    lk_u32x4 r = lk_philox(99, (uint32_t)i, stream, (uint32_t)(i >> 32), 0);
    float u = ((float)r.v[0] + 1) * 0x1p-32f, v = (float)r.v[1] * 0x1p-32f;
    x[i] = lk_store<E>(size * sqrtf(-2 * logf(u)) * cospif(2 * v));
}

static void parallel(int n, void (*body)(int, void *), void *context)
{
    int threads = (int)std::thread::hardware_concurrency();
    std::vector<std::thread> pool;
    for (int k = 0; k < threads; k++)
        pool.emplace_back([=] {
            for (int i = k; i < n; i += threads) body(i, context);
        });
    for (auto &t : pool) t.join();
}

static shape shape_of_case(const lab_case *c)
{
    shape a = {};
    a.t = c->t, a.s = c->s, a.offset = c->s - c->t;
    a.d = c->d, a.heads = c->heads, a.kv_heads = c->kv_heads;
    a.first = c->s == c->t ? c->heads : 0;
    a.kv_width = (int64_t)(a.first + 2 * c->kv_heads) * c->d;
    a.width = a.first ? a.kv_width : (int64_t)c->heads * c->d;
    a.causal = c->causal, a.alibi = c->alibi;
    a.scale = 1 / sqrtf((float)c->d);
    a.keep = 1 / (1 - c->p);
    a.threshold = lk_dropout_threshold(c->p);
    a.site = 3, a.leaf = 5, a.seed = 1234567;
    return a;
}

/* ---- device buffers of a case --------------------------------------------------------------- */

typedef struct lab {
    const lab_case *c;
    int sets;
    int64_t n_q, n_kv, n_y, n_lse; /* n_kv 0: it lies in q */
    size_t scratch;
    std::vector<attention_call> call; /* one per set of buffers */
    cudaStream_t stream;
} lab;

static void *device(size_t bytes)
{
    void *p;
    CHECK(cudaMalloc(&p, bytes));
    return p;
}

/* [T, D / 2] */
static const float2 *angles_of(const lab_case *c)
{
    std::vector<float2> host((size_t)c->t * c->d / 2);
    for (size_t i = 0; i < host.size(); i++) {
        int half = c->d / 2;
        double angle = (double)(i / half) * pow(1e4, -(double)(i % half) / half);
        host[i] = make_float2((float)cos(angle), (float)sin(angle));
    }
    void *angles = device(host.size() * sizeof(float2));
    CHECK(cudaMemcpy(angles, host.data(), host.size() * sizeof(float2), cudaMemcpyHostToDevice));
    return (const float2 *)angles;
}

template <typename E> static void lab_open(lab *l, const lab_case *c, int sets)
{
    cudaDeviceProp prop;
    CHECK(cudaGetDeviceProperties(&prop, 0));
    l->c = c;
    l->sets = sets;
    CHECK(cudaStreamCreate(&l->stream));
    shape a = shape_of_case(c);
    l->n_q = c->batch * c->t * a.width;
    l->n_kv = a.first ? 0 : c->batch * c->s * a.kv_width;
    l->n_y = c->batch * c->t * c->heads * c->d;
    l->n_lse = c->batch * c->heads * c->t;
    l->scratch = attention_scratch(c->batch * c->heads, c->t,
                                   attention_masks(c->t, c->s, a.threshold > 0));
    lk_step_state state = {};
    state.step = 11;
    for (int s = 0; s < sets; s++) {
        attention_call k = {};
        k.stream = l->stream, k.processors = prop.multiProcessorCount, k.batch = c->batch, k.a = a;
        int64_t n = l->n_q + l->n_kv; /* kv behind q */
        E *q = (E *)device(sizeof(E) * n), *dy = (E *)device(sizeof(E) * l->n_y);
        k_fill<E><<<lk_blocks(n, 256), 256, 0, l->stream>>>(q, n, 1 + s, 1);
        k_fill<E><<<lk_blocks(l->n_y, 256), 256, 0, l->stream>>>(dy, l->n_y, 50 + s, 1);
        k.q = q, k.kv = l->n_kv ? q + l->n_q : q, k.dy = dy;
        E *dq = (E *)device(sizeof(E) * n);
        k.y = device(sizeof(E) * l->n_y), k.dq = dq, k.dkv = l->n_kv ? dq + l->n_q : dq;
        k.lse = (float *)device(sizeof(float) * l->n_lse);
        k.scratch = (float *)device(l->scratch);
        lk_step_state *st = (lk_step_state *)device(sizeof *st);
        CHECK(cudaMemcpy(st, &state, sizeof state, cudaMemcpyHostToDevice));
        k.state = st;
        if (c->rope) k.angles = angles_of(c);
        l->call.push_back(k);
    }
    CHECK(cudaStreamSynchronize(l->stream));
}

static void lab_close(lab *l)
{
    for (attention_call &k : l->call) {
        cudaFree((void *)k.q), cudaFree((void *)k.dy), cudaFree(k.y), cudaFree(k.dq);
        cudaFree(k.lse), cudaFree(k.scratch), cudaFree((void *)k.state);
        cudaFree((void *)k.angles);
    }
    cudaStreamDestroy(l->stream);
}

enum part { FORWARD, BACKWARD, QUERIES, KEYS };

template <typename E, int D> static void launch(const attention_call &k, bool hopper, part what)
{
    if (what == FORWARD) CHECK((hopper ? wgmma_forward<E, D>(k) : mma_forward<E, D>(k)));
    else if (what == QUERIES) CHECK((wgmma_backward_queries<E, D>(k)));
    else if (what == KEYS) CHECK((wgmma_backward_keys<E, D>(k)));
    else CHECK((hopper ? wgmma_backward<E, D>(k) : mma_backward<E, D>(k)));
}

/* ---- 1. products ---------------------------------------------------------------------------- */

/* a, b [64, D]: rs, ss [64, 64] = a b^T; mn [64, D] = rs (rounded) b. */
template <int D>
static __global__ void __launch_bounds__(128)
    k_probe(const __grid_constant__ CUtensorMap ma, const __grid_constant__ CUtensorMap mb,
            float *rs, float *ss, float *mn)
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    extern __shared__ unsigned char dynamic[];
    __shared__ uint64_t full;
    uint32_t a = (lk_shared_address(dynamic) + 1023) & ~1023u, b = a + tile_bytes(64, D);
    if (threadIdx.x == 0) {
        barrier_init(&full, 1);
        barriers_publish();
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        barrier_expect(&full, 2 * tile_bytes(64, D));
        copy_tile<D, 64>(a, &ma, &full, 0, 0, 0);
        copy_tile<D, 64>(b, &mb, &full, 0, 0, 0);
    }
    __syncwarp();
    barrier_wait(&full, 0);
    int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, row = 16 * warp + lane / 4;
    left_operand<D, true> in_registers;
    left_operand<D, false> in_memory;
    in_registers.load(a, 16 * warp);
    in_memory.load(a, 16 * warp);
    float s[8][4] = {}, u[8][4] = {}, o[D / 8][4] = {};
    uint32_t p[4][4];
    pin(s);
    pin(u);
    pin(o);
    scores<__half, D, 64>(s, in_registers, b);
    products_wait<0>();
    pin(s);
    scores<__half, D, 64>(u, in_memory, b);
    products_wait<0>();
    pin(u);
    for (int n = 0; n < 8; n++) {
        p[n / 2][n % 2 * 2] = lk_pack<__half>(s[n][0], s[n][1]);
        p[n / 2][n % 2 * 2 + 1] = lk_pack<__half>(s[n][2], s[n][3]);
    }
    pin(p);
    accumulate<__half, D, 64>(o, p, b);
    products_wait<0>();
    pin(o);
    for (int e = 0; e < 4; e++) {
        int r = row + 8 * (e >> 1), c = 2 * (lane & 3) + (e & 1);
        for (int n = 0; n < 8; n++)
            rs[r * 64 + 8 * n + c] = s[n][e], ss[r * 64 + 8 * n + c] = u[n][e];
        for (int n = 0; n < D / 8; n++) mn[r * D + 8 * n + c] = o[n][e];
    }
#endif
}

static double relative(const double *u, const double *v, int64_t n)
{
    double difference = 0, norm = 0;
    for (int64_t i = 0; i < n; i++)
        difference += (u[i] - v[i]) * (u[i] - v[i]), norm += v[i] * v[i];
    double e = norm > 0 ? sqrt(difference / norm) : sqrt(difference);
    return isfinite(e) ? e : INFINITY;
}

static int failures;

template <int D> static void probe(void)
{
    std::vector<__half> a(64 * D), b(64 * D);
    for (int i = 0; i < 64 * D; i++) {
        a[i] = __float2half(uniform(1, i) - 0.5f);
        b[i] = __float2half(uniform(2, i) - 0.5f);
    }
    void *da = device(128 * D), *db = device(128 * D);
    float *out = (float *)device(4 * 64 * (128 + D));
    CHECK(cudaMemcpy(da, a.data(), 128 * D, cudaMemcpyHostToDevice));
    CHECK(cudaMemcpy(db, b.data(), 128 * D, cudaMemcpyHostToDevice));
    CHECK(cudaMemset(out, 0xFF, 4 * 64 * (128 + D)));
    CUtensorMap ma, mb;
    CHECK(tile_map(&ma, false, da, 1, 64, D, 64, D));
    CHECK(tile_map(&mb, false, db, 1, 64, D, 64, D));
    int bytes = 1024 + 2 * tile_bytes(64, D);
    CHECK(cudaFuncSetAttribute(k_probe<D>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
    k_probe<D><<<1, 128, bytes>>>(ma, mb, out, out + 4096, out + 8192);
    CHECK(cudaGetLastError());
    CHECK(cudaDeviceSynchronize());
    std::vector<float> got(64 * (128 + D));
    CHECK(cudaMemcpy(got.data(), out, 4 * got.size(), cudaMemcpyDeviceToHost));
    std::vector<double> x(got.begin(), got.end()), s(4096), o(64 * D);
    for (int i = 0; i < 64; i++)
        for (int j = 0; j < 64; j++)
            for (int c = 0; c < D; c++)
                s[64 * i + j] += (double)__half2float(a[i * D + c]) * __half2float(b[j * D + c]);
    for (int i = 0; i < 64; i++)
        for (int j = 0; j < 64; j++)
            for (int c = 0; c < D; c++) o[i * D + c] += s[64 * i + j] * __half2float(b[j * D + c]);
    double error[3] = {relative(x.data(), s.data(), 4096),
                       relative(x.data() + 4096, s.data(), 4096),
                       relative(x.data() + 8192, o.data(), 64 * D)};
    printf("product d %3d: registers %.1e  memory %.1e  rows summed %.1e\n", D, error[0], error[1],
           error[2]);
    /* sums in f32; in the last the first product is rounded to f16 */
    failures += !(error[0] < 1e-4 && error[1] < 1e-4 && error[2] < 2e-3);
    cudaFree(da), cudaFree(db), cudaFree(out);
}

/* ---- 2. cases against double precision ------------------------------------------------------ */

typedef struct reference {
    shape a;
    int64_t entry;
    int kv, h;                       /* the query head in work */
    std::vector<double> q, k, v, dy; /* [T, D] or [S, D] */
    std::vector<double> y, lse, dq, dk, dv, dot, scores, grads; /* the last two [T, S] */
} reference;

static bool kept(const shape *a, int64_t bh, int i, int j)
{
    if (!a->threshold) return true;
    uint64_t at = ((uint64_t)bh * a->t + i) * a->s + j;
    return lk_dropout_words(a->seed, a->site, a->leaf, 11, at).v[at & 3] >= a->threshold;
}

static void reference_row(int i, void *context)
{
    reference *r = (reference *)context;
    const shape *a = &r->a;
    int d = a->d, at = i + a->offset, end = a->causal ? at + 1 : a->s;
    int64_t bh = r->entry * a->heads + r->h;
    double slope = a->alibi ? lk_alibi_slope(r->h, a->heads) : 0, top = -INFINITY, sum = 0, dot = 0;
    double *p = &r->scores[(size_t)i * a->s], *g = &r->grads[(size_t)i * a->s];
    const double *q = &r->q[(size_t)i * d], *dy = &r->dy[(size_t)i * d];
    double *y = &r->y[(size_t)i * d], *dq = &r->dq[(size_t)i * d];
    for (int j = 0; j < a->s; j++) p[j] = g[j] = 0;
    for (int j = 0; j < end; j++) {
        const double *k = &r->k[(size_t)j * d];
        double s = 0;
        for (int c = 0; c < d; c++) s += q[c] * k[c];
        p[j] = s * a->scale - slope * abs(at - j);
        top = std::max(top, p[j]);
    }
    for (int j = 0; j < end; j++) sum += exp(p[j] - top);
    r->lse[i] = top + log(sum);
    for (int c = 0; c < d; c++) y[c] = dq[c] = 0;
    for (int j = 0; j < end; j++) {
        double w = exp(p[j] - r->lse[i]), x = 0;
        double keep = kept(a, bh, i, j) ? a->keep : 0;
        const double *v = &r->v[(size_t)j * d];
        for (int c = 0; c < d; c++) x += dy[c] * v[c], y[c] += w * keep * v[c];
        p[j] = w * keep;
        g[j] = x * keep;
        dot += p[j] * x;
    }
    for (int j = 0; j < end; j++) {
        double *k = &r->k[(size_t)j * d], s = 0;
        for (int c = 0; c < d; c++) s += q[c] * k[c];
        g[j] = exp(s * a->scale - slope * abs(at - j) - r->lse[i]) * (g[j] - dot) * a->scale;
        for (int c = 0; c < d; c++) dq[c] += g[j] * k[c];
    }
}

static void reference_key(int j, void *context)
{
    reference *r = (reference *)context;
    int d = r->a.d;
    double *dk = &r->dk[(size_t)j * d], *dv = &r->dv[(size_t)j * d];
    for (int i = 0; i < r->a.t; i++) {
        double p = r->scores[(size_t)i * r->a.s + j], g = r->grads[(size_t)i * r->a.s + j];
        if (p == 0 && g == 0) continue;
        for (int c = 0; c < d; c++)
            dk[c] += g * r->q[(size_t)i * d + c], dv[c] += p * r->dy[(size_t)i * d + c];
    }
}

template <typename E> static std::vector<double> host(const void *p, int64_t n)
{
    std::vector<E> raw(n);
    CHECK(cudaMemcpy(raw.data(), p, sizeof(E) * n, cudaMemcpyDeviceToHost));
    std::vector<double> x(n);
    for (int64_t i = 0; i < n; i++) x[i] = (double)(float)raw[i];
    return x;
}

/* [T, D] of columns c.. of [B, T, width], which begins at x + from. */
static std::vector<double> slice(const std::vector<double> &x, int64_t entry, int64_t t,
                                 int64_t width, int64_t column, int d, int64_t from = 0)
{
    std::vector<double> out(t * d);
    for (int64_t i = 0; i < t; i++)
        for (int c = 0; c < d; c++) out[i * d + c] = x[from + (entry * t + i) * width + column + c];
    return out;
}

static void worst(double *e, double x)
{
    if (!(x <= *e)) *e = x;
}

/* The largest error of the column sums partial [chunks, width] of x [.., width], as a part of the
 * sum of sizes. */
static double sums_error(const float *partial, int64_t chunks, const double *x, int64_t rows,
                         int64_t width)
{
    std::vector<double> sums = host<float>(partial, chunks * width);
    double most = 0;
    for (int64_t c = 0; c < width; c++) {
        double got = 0, sum = 0, size = 0;
        for (int64_t i = 0; i < chunks; i++) got += sums[i * width + c];
        for (int64_t i = 0; i < rows; i++) sum += x[i * width + c], size += fabs(x[i * width + c]);
        worst(&most, size > 0 ? fabs(got - sum) / size : fabs(got));
    }
    return most;
}

template <typename E, int D> static void check(const lab_case *c)
{
    lab l;
    lab_open<E>(&l, c, 1);
    attention_call &k = l.call[0];
    const shape &a = k.a;
    int t = a.t, s = a.s, share = a.heads / a.kv_heads;
    int64_t n = l.n_q + l.n_kv, from = l.n_kv ? l.n_q : 0;
    reference r;
    r.a = a, r.entry = c->batch - 1, r.kv = a.kv_heads - 1;
    std::vector<double> qkv = host<E>(k.q, n), dy = host<E>(k.dy, l.n_y);
    r.k = slice(qkv, r.entry, s, a.kv_width, (a.first + r.kv) * D, D, from);
    r.v = slice(qkv, r.entry, s, a.kv_width, (a.first + a.kv_heads + r.kv) * D, D, from);
    r.dk.assign(s * D, 0), r.dv.assign(s * D, 0);
    r.scores.resize((size_t)t * s), r.grads.resize((size_t)t * s);
    int64_t chunks = attention_chunks(c->batch, t), kv_chunks = attention_chunks(c->batch, s);
    int64_t n_sums = chunks * a.width, all_sums = n_sums + (l.n_kv ? kv_chunks * a.kv_width : 0);
    k.q_sums = (float *)device(sizeof(float) * all_sums);
    k.kv_sums = l.n_kv ? k.q_sums + n_sums : k.q_sums;
    double error[2][5] = {}, of_sums;
    std::vector<double> y[2], lse[2], dqkv[2];
    bool same = true, all = true;
    for (int path = 0; path < 2; path++) {
        std::vector<unsigned char> first, again;
        for (int run = 0; run < (path ? 2 : 1); run++) {
            CHECK(cudaMemset(k.y, 0xFF, sizeof(E) * l.n_y));
            CHECK(cudaMemset(k.dq, 0xFF, sizeof(E) * n));
            CHECK(cudaMemset(k.lse, 0xFF, sizeof(float) * l.n_lse));
            CHECK(cudaMemset(k.scratch, 0xFF, l.scratch));
            CHECK(cudaMemset(k.q_sums, 0xFF, sizeof(float) * all_sums));
            CHECK(cudaDeviceSynchronize());
            launch<E, D>(k, path, FORWARD);
            launch<E, D>(k, path, BACKWARD);
            CHECK(cudaDeviceSynchronize());
            again.resize(sizeof(E) * (l.n_y + n));
            CHECK(cudaMemcpy(again.data(), k.y, sizeof(E) * l.n_y, cudaMemcpyDeviceToHost));
            CHECK(cudaMemcpy(again.data() + sizeof(E) * l.n_y, k.dq, sizeof(E) * n,
                             cudaMemcpyDeviceToHost));
            if (run) same = first == again;
            first = again;
        }
        y[path] = host<E>(k.y, l.n_y), lse[path] = host<float>(k.lse, l.n_lse);
        dqkv[path] = host<E>(k.dq, n);
        for (double x : y[path]) all &= (bool)isfinite(x);
        for (double x : dqkv[path]) all &= (bool)isfinite(x);
    }
    for (int h = r.kv * share; h < (r.kv + 1) * share; h++) {
        r.h = h;
        r.q = slice(qkv, r.entry, t, a.width, h * D, D);
        r.dy = slice(dy, r.entry, t, (int64_t)a.heads * D, h * D, D);
        r.y.assign(t * D, 0), r.dq.assign(t * D, 0), r.lse.assign(t, 0);
        parallel(t, reference_row, &r);
        parallel(s, reference_key, &r);
        for (int path = 0; path < 2; path++) {
            std::vector<double> got = slice(y[path], r.entry, t, (int64_t)a.heads * D, h * D, D);
            worst(&error[path][0], relative(got.data(), r.y.data(), t * D));
            worst(&error[path][1],
                  relative(lse[path].data() + (r.entry * a.heads + h) * t, r.lse.data(), t));
            got = slice(dqkv[path], r.entry, t, a.width, h * D, D);
            worst(&error[path][2], relative(got.data(), r.dq.data(), t * D));
        }
    }
    for (int path = 0; path < 2; path++) {
        auto got = slice(dqkv[path], r.entry, s, a.kv_width, (a.first + r.kv) * D, D, from);
        worst(&error[path][3], relative(got.data(), r.dk.data(), s * D));
        got = slice(dqkv[path], r.entry, s, a.kv_width, (a.first + a.kv_heads + r.kv) * D, D, from);
        worst(&error[path][4], relative(got.data(), r.dv.data(), s * D));
    }
    of_sums = sums_error(k.q_sums, chunks, dqkv[1].data(), c->batch * t, a.width);
    if (l.n_kv)
        worst(&of_sums, sums_error(k.kv_sums, kv_chunks, dqkv[1].data() + from, c->batch * s,
                                   a.kv_width));
    /* the whole of both paths against each other */
    double between = std::max(relative(y[1].data(), y[0].data(), l.n_y),
                              relative(dqkv[1].data(), dqkv[0].data(), n));
    double limit = c->bf16 ? 1.5e-2 : 2e-3;
    bool good = same && all && between < 2 * limit && of_sums < 1e-6;
    for (int m = 0; m < 5; m++) good &= error[1][m] < limit;
    failures += !good;
    printf("%-4s %-9s B%lld T%-4d S%-4d H%d/%d D%-3d%s%s%s", good ? "ok" : "BAD",
           c->bf16 ? "bf16" : "f16", (long long)c->batch, t, s, a.heads, a.kv_heads, D,
           c->causal ? " causal" : "", c->alibi ? " alibi" : "", c->p > 0 ? " drop" : "");
    for (int path = 0; path < 2; path++) {
        printf(path ? " | wgmma" : ": mma");
        for (int m = 0; m < 5; m++) printf(" %.1e", error[path][m]);
    }
    printf(" | sums %.1e | %.1e%s%s\n", of_sums, between, same ? "" : " OTHER BITS",
           all ? "" : " NOT FINITE");
    fflush(stdout);
    cudaFree(k.q_sums);
    lab_close(&l);
}

/* ---- 3. time -------------------------------------------------------------------------------- */

template <typename E, int D> static double microseconds(lab *l, bool hopper, part what)
{
    int n = l->sets * ((8 + l->sets - 1) / l->sets);
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    cudaEvent_t e[2];
    CHECK(cudaEventCreate(&e[0]));
    CHECK(cudaEventCreate(&e[1]));
    CHECK(cudaStreamBeginCapture(l->stream, cudaStreamCaptureModeThreadLocal));
    for (int i = 0; i < n; i++) launch<E, D>(l->call[i % l->sets], hopper, what);
    CHECK(cudaStreamEndCapture(l->stream, &graph));
    CHECK(cudaGraphInstantiate(&exec, graph, 0));
    std::vector<float> ms;
    for (int i = 0; i < 8; i++) {
        float x;
        CHECK(cudaEventRecord(e[0], l->stream));
        CHECK(cudaGraphLaunch(exec, l->stream));
        CHECK(cudaEventRecord(e[1], l->stream));
        CHECK(cudaStreamSynchronize(l->stream));
        CHECK(cudaEventElapsedTime(&x, e[0], e[1]));
        if (i > 1) ms.push_back(x);
    }
    std::sort(ms.begin(), ms.end());
    cudaGraphExecDestroy(exec), cudaGraphDestroy(graph);
    cudaEventDestroy(e[0]), cudaEventDestroy(e[1]);
    return 1e3 * ms[ms.size() / 2] / n;
}

template <typename E, int D> static void time_case(const lab_case *c)
{
    lab l;
    shape a = shape_of_case(c);
    double bytes = 4.0 * c->batch * (c->t * (a.width + c->heads * D) +
                                     (a.first ? 0 : c->s * a.kv_width));
    lab_open<E>(&l, c, std::max(1, (int)ceil(200e6 / bytes)));
    double pairs = c->t * (c->causal ? c->s - 0.5 * c->t : c->s); /* that see each other */
    double product = 2.0 * c->batch * c->heads * pairs * D;
    double us[2][2], queries, keys;
    for (int path = 0; path < 2; path++) {
        us[path][0] = microseconds<E, D>(&l, path, FORWARD);
        us[path][1] = microseconds<E, D>(&l, path, BACKWARD);
    }
    queries = microseconds<E, D>(&l, true, QUERIES);
    keys = microseconds<E, D>(&l, true, KEYS);
    printf("%-12s B%-3lld T%-4d S%-4d H%-2d/%-2d D%-3d %s%s%s%s %s", c->name, (long long)c->batch,
           c->t, c->s, c->heads, c->kv_heads, D, c->causal ? "c" : "-", c->alibi ? "a" : "-",
           c->p > 0 ? "d" : "-", c->rope ? "r" : "-", c->bf16 ? "bf16" : "f16 ");
    for (int b = 0; b < 2; b++)
        printf(" %8.1f %4.0f | %8.1f %4.0f", us[0][b], 1e-6 * product * (b ? 5 : 2) / us[0][b],
               us[1][b], 1e-6 * product * (b ? 5 : 2) / us[1][b]);
    printf("  queries %.1f keys %.1f\n", queries, keys);
    fflush(stdout);
    lab_close(&l);
}

/* ---- main ----------------------------------------------------------------------------------- */

static const lab_case checks[] = {
    {"", 2, 37, 37, 4, 2, 64, true, false, 0, false},
    {"", 1, 1, 1, 2, 2, 64, true, false, 0, false},
    {"", 1, 133, 133, 3, 3, 64, true, true, 0, false},
    {"", 1, 260, 260, 2, 2, 64, false, false, 0, false},
    {"", 2, 256, 256, 6, 6, 64, true, true, 0, false},
    {"", 1, 1000, 1000, 2, 1, 64, true, false, 0, false},
    {"", 1, 320, 320, 4, 2, 64, false, true, 0, false},
    {"", 9, 640, 640, 8, 8, 64, true, false, 0, false},
    {"", 1, 256, 256, 2, 2, 64, true, false, 0.2f, false},
    {"", 1, 260, 260, 4, 2, 64, true, true, 0.2f, false},
    {"", 1, 133, 133, 4, 2, 64, false, false, 0.1f, false},
    {"", 1, 300, 300, 4, 2, 64, true, false, 0, true},
    {"", 1, 200, 200, 4, 2, 32, true, false, 0, false},
    {"", 2, 512, 512, 4, 4, 32, true, true, 0.2f, false},
    {"", 1, 333, 333, 2, 1, 96, true, false, 0, false},
    {"", 1, 333, 333, 2, 2, 96, false, false, 0, false},
    {"", 1, 300, 300, 4, 2, 128, true, false, 0, false},
    {"", 1, 512, 512, 2, 2, 128, true, true, 0, false},
    {"", 1, 300, 300, 4, 1, 128, false, false, 0.1f, false},
    {"", 2, 70, 197, 4, 2, 64, false, false, 0, false},
    {"", 1, 197, 70, 2, 2, 64, false, true, 0.1f, false},
    {"", 2, 1, 133, 4, 1, 64, true, true, 0, false},
    {"", 1, 64, 260, 2, 2, 64, true, false, 0.1f, false},
    {"", 1, 128, 255, 2, 1, 64, true, false, 0, true},
    {"", 1, 200, 201, 2, 2, 32, true, true, 0.1f, false},
    {"", 1, 150, 341, 2, 1, 96, true, true, 0, false},
    {"", 1, 333, 640, 4, 2, 128, true, false, 0.1f, false},
};

static const lab_case times[] = {
    {"gpt2", 32, 1024, 1024, 12, 12, 64, true, false, 0, false},
    {"gpt2 bf16", 32, 1024, 1024, 12, 12, 64, true, false, 0, true},
    {"gpt2 alibi", 32, 1024, 1024, 12, 12, 64, true, true, 0, false},
    {"gpt2 rope", 32, 1024, 1024, 12, 12, 64, true, false, 0, false, true},
    {"gpt2 2048", 16, 2048, 2048, 12, 12, 64, true, false, 0, false},
    {"gpt2 4096", 8, 4096, 4096, 12, 12, 64, true, false, 0, false},
    {"alibi10m", 64, 256, 256, 6, 6, 64, true, true, 0, false},
    {"shakespeare", 64, 256, 256, 6, 6, 64, true, false, 0.2f, false},
    {"fusion", 128, 260, 260, 6, 6, 64, false, false, 0, false},
    {"cross", 128, 64, 196, 6, 6, 64, false, false, 0, false},
    {"long", 4, 8192, 8192, 12, 12, 64, true, false, 0, false},
    {"grouped", 16, 1024, 1024, 16, 4, 64, true, false, 0, false},
    {"head 32", 32, 1024, 1024, 24, 24, 32, true, false, 0, false},
    {"head 96", 16, 1024, 1024, 8, 8, 96, true, false, 0, false},
    {"head 128", 8, 2048, 2048, 16, 16, 128, true, false, 0, false},
    {"gpt2 1000", 32, 1000, 1000, 12, 12, 64, true, false, 0, false},
};

#define EACH(list, call)                                                                           \
    for (const lab_case &c : list) {                                                               \
        if (c.d == 32) call<__half, 32>(&c);                                                       \
        else if (c.d == 64 && c.bf16) call<__nv_bfloat16, 64>(&c);                                 \
        else if (c.d == 64) call<__half, 64>(&c);                                                  \
        else if (c.d == 96) call<__half, 96>(&c);                                                  \
        else call<__half, 128>(&c);                                                                \
    }

int main(int argc, char **argv)
{
    bool only_check = argc == 2 && strcmp(argv[1], "check") == 0;
    bool only_time = argc == 2 && strcmp(argv[1], "time") == 0;
    if (argc > 1 && !only_check && !only_time) {
        fprintf(stderr, "attention_lab: expected check, time or nothing, found '%s'\n", argv[1]);
        return 2;
    }
    cudaDeviceProp prop;
    CHECK(cudaGetDeviceProperties(&prop, 0));
    printf("%s, %d processors\n", prop.name, prop.multiProcessorCount);
    if (!wgmma_compiled(k_attention_wgmma<__half, 64, false, false>)) {
        printf("this device or build has no wgmma\n");
        return 77;
    }
    if (!only_time) {
        probe<32>(), probe<64>(), probe<96>(), probe<128>();
        printf("errors of y, lse, dq, dk, dv; of the column sums; last: between the two\n");
        EACH(checks, check);
    }
    if (!only_check) {
        printf("us and TFLOP/s: forward mma | wgmma, backward mma | wgmma\n");
        EACH(times, time_case);
    }
    printf(failures ? "%d FAILURES\n" : "all good\n", failures);
    return failures > 0;
}
