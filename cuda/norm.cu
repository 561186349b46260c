/* norm and its gradient, alone and beside a residual.
 *
 * Forward: a warp per row holding the row in registers for C <= 1024, else a block per row that
 * reads it again (from L1), which beside a residual is the sum that it has stored. Backward for
 * C % 8 == 0 up to 4096 (f32: 2048): one block per chunk of rows, in teams of warps with a row
 * each; a thread has few columns, whose weights and sums over its rows stay in registers, and a
 * team's warps exchange the two sums of a row. Rows are copied to shared memory ahead. The block
 * adds its teams in order and stores partials [chunks, C], which lk_cuda_sum_chunks adds. Other C:
 * the column partials, and dx with dropout of the branch, by two kernels; the sums of the branch
 * read once more what was stored. Where C is no multiple of 8 the parts of residual_norm and of
 * its gradient run one by one.
 *
 * x, y, dy, dx X [N,C]; w, b, dw, db f32 [C]; mean, rstd f32 [N]. */
#include "cuda/dropout.cuh"
#include "cuda/mma.cuh"

enum { WARPS = 8, THREADS = 32 * WARPS, HELD_COLS = 1024 };

/* Sum over the W threads of a row: a warp, or the block. */
template <int W> static __device__ __forceinline__ float row_sum(float x, float *shared)
{
    if constexpr (W == 32) return lk_warp_sum(x);
    else return lk_block_sum(x, shared);
}

/* What residual_norm does before the norm, with x = sum: sum [N,C] = stream + dropout(branch). */
template <typename E> struct joined {
    const E *stream, *branch; /* [N,C] */
    E *sum;                   /* [N,C]; may be branch */
    const lk_step_state *state;
    mask m;
};

/* sum[i .. i+7] of a joined residual, as stored, to v. */
template <typename E, bool DROP>
static __device__ __forceinline__ void join(const joined<E> &r, int64_t i, float *v)
{
    float a[8];
    lk_get<8>(v, r.branch + i);
    lk_get<8>(a, r.stream + i);
    if constexpr (DROP) drop(v, &r.m, r.state->step, i);
    lk_vec<E, 8> out;
#pragma unroll
    for (int k = 0; k < 8; k++) {
        out.v[k] = lk_store<E>(a[k] + v[k]);
        v[k] = lk_float(out.v[k]);
    }
    *(lk_vec<E, 8> *)(r.sum + i) = out;
}

/* Piece k of a row: V elements at column (k W + lane) V; from registers when the row is held.
 * JOIN: 0 reads x, else residual_norm with (2) or without (1) dropout; then V = 8 and x is sum. */
template <typename E, int V, int W, int JOIN>
static __global__ void __launch_bounds__(THREADS)
k_norm(const E *x /* [N,C] */, const float *w /* [C] */, const float *b /* [C] or NULL */,
       E *y /* [N,C] */, float *mean /* [N] or NULL: RMS norm */, float *rstd /* [N] */,
       int64_t rows, int cols, float eps, joined<E> residual)
{
    constexpr bool HELD = W == 32;
    constexpr int K = HELD ? HELD_COLS / (32 * V) : 1;
    __shared__ float shared[32];
    float held[K][V];
    int lane = threadIdx.x % W;
    int64_t row = (int64_t)blockIdx.x * (THREADS / W) + threadIdx.x / W;
    if (row >= rows) return; /* whole warps; never happens with W = THREADS */
    int pieces = HELD ? K : (cols + W * V - 1) / (W * V);
    x += row * cols;
    y += row * cols;

    float sum = 0;
#pragma unroll
    for (int k = 0; k < pieces; k++) {
        int c = (k * W + lane) * V;
        if (c < cols) {
            float *v = held[HELD ? k : 0];
            if constexpr (JOIN) join<E, JOIN == 2>(residual, row * cols + c, v);
            else lk_get<V>(v, x + c);
#pragma unroll
            for (int j = 0; j < V; j++) sum += mean ? v[j] : v[j] * v[j];
        }
    }
    sum = row_sum<W>(sum, shared) / (float)cols;
    float m = 0, variance = sum;
    if (mean) {
        m = sum;
        float square = 0;
#pragma unroll
        for (int k = 0; k < pieces; k++) {
            int c = (k * W + lane) * V;
            if (c < cols) {
                float *v = held[HELD ? k : 0];
                if constexpr (!HELD) lk_get<V>(v, x + c);
#pragma unroll
                for (int j = 0; j < V; j++) square += (v[j] - m) * (v[j] - m);
            }
        }
        variance = row_sum<W>(square, shared) / (float)cols;
    }
    float r = 1.0f / sqrtf(variance + eps);
#pragma unroll
    for (int k = 0; k < pieces; k++) {
        int c = (k * W + lane) * V;
        if (c < cols) {
            float *v = held[HELD ? k : 0], scale[V], shift[V], out[V];
            if constexpr (!HELD) lk_get<V>(v, x + c);
            lk_get<V>(scale, w + c);
            if (b) lk_get<V>(shift, b + c);
#pragma unroll
            for (int j = 0; j < V; j++) {
                out[j] = (v[j] - m) * r * scale[j];
                if (b) out[j] += shift[j];
            }
            lk_put<V>(y + c, out);
        }
    }
    if (lane == 0) {
        if (mean) mean[row] = m;
        rstd[row] = r;
    }
}

extern "C" lk_status lk_cuda_norm(lk_exec *x, const lk_node *n)
{
    const lk_tensor *in = n->in[0];
    int64_t rows = lk_rows(in);
    int cols = (int)lk_cols(in);
    const float *w = (const float *)lk_data(x, n->in[1]), *b = (const float *)lk_data(x, n->in[2]);
    float *mean = (float *)lk_data(x, n->out[1]), *rstd = (float *)lk_data(x, n->out[2]);
    if (n->attr.norm.kind == LK_RMSNORM) mean = NULL;
    float eps = n->attr.norm.eps;
    cudaStream_t stream = lk_cuda_stream_of(x);
    if (rows == 0) return LK_OK;
    LK_FLOAT_SWITCH(in->dtype, E, LK_VECTOR_SWITCH(cols, V, {
        const E *from = (const E *)lk_data(x, in);
        E *y = (E *)lk_data(x, n->out[0]);
        if (cols <= HELD_COLS)
            k_norm<E, V, 32, 0><<<lk_blocks(rows, WARPS), THREADS, 0, stream>>>(
                from, w, b, y, mean, rstd, rows, cols, eps, joined<E>());
        else
            k_norm<E, V, THREADS, 0><<<(unsigned)rows, THREADS, 0, stream>>>(
                from, w, b, y, mean, rstd, rows, cols, eps, joined<E>());
    }));
    return lk_cuda_launched(n);
}

/* Rows without vectors: the two ops one after the other. */
static lk_status residual_then_norm(lk_exec *x, const lk_node *n)
{
    lk_node residual = *n, norm = *n;
    residual.op = LK_OP_RESIDUAL;
    residual.attr.dropout.p = n->attr.residual_norm.p;
    residual.attr.dropout.site = n->attr.residual_norm.site;
    residual.attr.dropout.group = 1;
    LK_TRY(lk_cuda_residual(x, &residual));
    norm.op = LK_OP_NORM;
    norm.attr.norm.kind = n->attr.residual_norm.kind;
    norm.attr.norm.eps = n->attr.residual_norm.eps;
    norm.in[0] = n->out[0];
    for (int i = 1; i < 3; i++) norm.in[i] = n->in[i + 2];
    for (int i = 0; i < 3; i++) norm.out[i] = n->out[i + 1];
    return lk_cuda_norm(x, &norm);
}

extern "C" lk_status lk_cuda_residual_norm(lk_exec *x, const lk_node *n)
{
    const lk_tensor *sum = n->out[0];
    int64_t rows = lk_rows(sum);
    int cols = (int)lk_cols(sum);
    if (cols % 8) return residual_then_norm(x, n);
    const float *w = (const float *)lk_data(x, n->in[3]), *b = (const float *)lk_data(x, n->in[4]);
    float *mean = (float *)lk_data(x, n->out[2]), *rstd = (float *)lk_data(x, n->out[3]);
    float p = n->attr.residual_norm.p;
    if (n->attr.residual_norm.kind == LK_RMSNORM) mean = NULL;
    LK_FLOAT_SWITCH(sum->dtype, E, {
        joined<E> r = {(const E *)lk_data(x, n->in[0]), (const E *)lk_data(x, n->in[1]),
                       (E *)lk_data(x, sum), (const lk_step_state *)lk_data(x, n->in[2]),
                       mask_of(x, p, n->attr.residual_norm.site, 1)};
        bool held = cols <= HELD_COLS;
        auto kernel = held    ? (p > 0 ? k_norm<E, 8, 32, 2> : k_norm<E, 8, 32, 1>)
                      : p > 0 ? k_norm<E, 8, THREADS, 2>
                              : k_norm<E, 8, THREADS, 1>;
        kernel<<<lk_blocks(rows, held ? WARPS : 1), THREADS, 0, lk_cuda_stream_of(x)>>>(
            r.sum, w, b, (E *)lk_data(x, n->out[1]), mean, rstd, rows, cols,
            n->attr.residual_norm.eps, r);
    });
    return lk_cuda_launched(n);
}

/* ---- gradient ----------------------------------------------------------------------------------
 * With h = (x - mean) rstd and g = dy w:
 *   dx = rstd (g - avg(g) - h avg(g h)) + more, without avg(g) for RMS norm;
 *   dw = sum of dy h and db = sum of dy over the rows.
 * Beside a residual also the cotangent of its branch, and the column sums of that. */

/* What residual_norm_grad makes besides: of the branch without dropout only the sums. */
enum { NO_BRANCH, SUMMED, DROPPED };
template <typename E> struct branch {
    E *dx;       /* [N,C], with dropout */
    float *sums; /* [chunks,C] or NULL */
    const lk_step_state *state;
    mask m;
};

/* All `threads` threads of a team. */
static __device__ __forceinline__ void team_sync(int team, int threads)
{
    asm volatile("bar.sync %0, %1;" ::"r"(1 + team), "r"(threads) : "memory");
}

/* How rows are spread over a block of k_norm_grad: a run of neighbouring rows at a time to each of
 * `teams` teams of `width` warps, of which a thread has K vectors of V columns. */
enum { GRAD_WARPS = 8, GRAD_THREADS = 32 * GRAD_WARPS, GRAD_V = 8 };
typedef struct row_teams {
    int width, teams;
    int places; /* of a team's sums: width, and even */
} row_teams;

static row_teams row_teams_of(int cols, int K)
{
    row_teams t;
    t.width = (int)lk_ceil(cols, 32 * GRAD_V * K);
    t.teams = GRAD_WARPS / t.width;
    t.places = t.width + t.width % 2;
    return t;
}

/* Runs of rows that are on their way to shared memory or worked on: [stage][row][x, dy, more][K]
 * [thread], each a vector; at most 96 KiB. */
template <typename E, int K> struct grad_stage {
    static constexpr bool light = sizeof(E) == 2 && K == 1;
    static constexpr int run = light ? 2 : 1, stages = light ? 3 : 4;
    static constexpr int vector = GRAD_V * sizeof(E), piece = GRAD_THREADS * vector;
    static constexpr int bytes = run * 3 * K * piece, all = stages * bytes;
    static __device__ constexpr int at(int q, int i, int k)
    {
        return ((q * 3 + i) * K + k) * piece;
    }
};

static __device__ __forceinline__ uint4 shared_get(uint32_t at)
{
    uint4 v;
    asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "r"(at));
    return v;
}

/* v rounded to E, to p. */
template <typename E> static __device__ __forceinline__ void put_rounded(E *p, float (&v)[GRAD_V])
{
    lk_vec<E, GRAD_V> x;
#pragma unroll
    for (int j = 0; j < GRAD_V; j++) {
        x.v[j] = lk_store<E>(v[j]);
        v[j] = lk_float(x.v[j]);
    }
    *(lk_vec<E, GRAD_V> *)p = x;
}

/* Element lane / (32 / N) of v, summed over the warp. */
template <int N> static __device__ __forceinline__ float warp_sums(float (&v)[N])
{
    int lane = threadIdx.x & 31, k = 16;
#pragma unroll
    for (int n = N / 2; n > 0; n /= 2, k /= 2) {
        bool upper = lane & k;
#pragma unroll
        for (int i = 0; i < n; i++) {
            float keep = upper ? v[n + i] : v[i], other = upper ? v[i] : v[n + i];
            v[i] = keep + __shfl_xor_sync(0xFFFFFFFFu, other, k);
        }
    }
#pragma unroll
    for (; k > 0; k >>= 1) v[0] += __shfl_xor_sync(0xFFFFFFFFu, v[0], k);
    return v[0];
}

/* v = the sums over a team's `places` vectors, in order, from `at` on in shared memory. */
template <int N>
static __device__ __forceinline__ void team_sums(float (&v)[N], uint32_t at, int places)
{
#pragma unroll
    for (int i = 0; i < N; i++) v[i] = 0;
#pragma unroll 1
    for (uint32_t from = at; from < at + places * 4 * N; from += 8 * N) {
#pragma unroll
        for (int u = 0; u < N / 2; u++) {
            uint4 w = shared_get(from + 16 * u);
            v[(4 * u) % N] += __uint_as_float(w.x);
            v[(4 * u + 1) % N] += __uint_as_float(w.y);
            v[(4 * u + 2) % N] += __uint_as_float(w.z);
            v[(4 * u + 3) % N] += __uint_as_float(w.w);
        }
    }
}

/* out[c] = sum over the teams, in order, of what each has of column c, through `shared`. */
template <int K>
static __device__ __forceinline__ void add_teams(const float (&mine)[K][GRAD_V], float *shared,
                                                 float *out, row_teams t, int cols)
{
    int lanes = 32 * t.width, team = threadIdx.x / lanes, first = threadIdx.x % lanes * GRAD_V;
    __syncthreads();
#pragma unroll
    for (int k = 0; k < K; k++) {
        int c = k * lanes * GRAD_V + first;
        if (c < cols) lk_put<GRAD_V>(shared + team * cols + c, mine[k]);
    }
    __syncthreads();
    for (int c = threadIdx.x; c < cols; c += blockDim.x) {
        float total = 0;
#pragma unroll 4
        for (int i = 0; i < t.teams; i++) total += shared[i * cols + c];
        out[c] = total;
    }
}

/* Block i: rows [i per, (i+1) per), which its teams take in turns; C <= 256 K width, C % 8 == 0. */
template <typename E, int K, int BRANCH>
static __global__ void __launch_bounds__(GRAD_THREADS, 2)
k_norm_grad(const E *x /* [N,C] */, const float *w /* [C] */, const float *mean /* [N] or NULL */,
            const float *rstd /* [N] */, const E *dy /* [N,C] */,
            const E *more /* [N,C] or NULL; may be dx */, E *dx /* [N,C] */,
            float *dw /* [chunks,C] */, float *db /* [chunks,C] or NULL */, int64_t rows,
            int64_t per, int cols, row_teams t, branch<E> also)
{
    typedef grad_stage<E, K> stage;
    constexpr int V = GRAD_V, RUN = stage::run, STAGES = stage::stages;
    extern __shared__ __align__(16) unsigned char stages[];
    __shared__ __align__(16) float part[2][2 * GRAD_WARPS][2 * RUN]; /* sums of g, of g h */
    int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, lanes = 32 * t.width;
    int team = warp / t.width, first = (threadIdx.x - team * lanes) * V;
    int64_t begin = blockIdx.x * per;
    int count = (int)(min(begin + per, rows) - begin); /* rows of the block */
    float scale[K][V] = {}, sum_w[K][V] = {}, sum_b[K][V] = {}, sum_x[K][V] = {};
    uint32_t mine = lk_shared_address(stages) + threadIdx.x * stage::vector;
#pragma unroll
    for (int k = 0; k < K; k++) {
        bool real = first + k * lanes * V < cols;
        if (real) lk_get<V>(scale[k], w + first + k * lanes * V);
        if (real) continue;
        /* zeros where nothing is copied to */
        for (int i = stage::at(0, 0, k); i < stage::all; i += stage::at(0, 1, 0))
            for (int h = 0; h < stage::vector; h += 16)
                *(uint4 *)(stages + threadIdx.x * stage::vector + i + h) = make_uint4(0, 0, 0, 0);
    }
    for (int i = threadIdx.x; i < (int)(sizeof part / sizeof(float)); i += blockDim.x)
        part[0][0][i] = 0;
    __syncthreads();

    int step = t.teams * RUN;
    int64_t at = (begin + team * RUN) * cols + first;
    auto fetch = [&](int row, int slot) { /* this thread's columns of the run from that row on */
        uint32_t to = mine + slot * stage::bytes;
        if (row < count) {
            int64_t from = (begin + row) * cols + first;
#pragma unroll
            for (int i = 0; i < 3; i++) {
                const E *source = (i == 0 ? x : i == 1 ? dy : more) + from;
                if (i == 2 && !more) continue;
#pragma unroll
                for (int q = 0; q < RUN; q++)
#pragma unroll
                    for (int k = 0; k < K; k++) {
                        int c = k * lanes * V;
                        const char *p = (const char *)(source + q * cols + c);
                        if (first + c >= cols) continue;
#pragma unroll
                        for (int h = 0; h < stage::vector; h += 16)
                            lk_copy16(to + stage::at(q, i, k) + h, p + h, row + q < count);
                    }
            }
        }
        lk_copies_commit();
    };
    auto piece = [&](float *v, uint32_t from) {
#pragma unroll
        for (int h = 0; h < stage::vector; h += 16) {
            uint4 u = shared_get(from + h);
            lk_get<16 / sizeof(E)>(v + h / sizeof(E), (const E *)&u);
        }
    };

#pragma unroll
    for (int s = 0; s < STAGES - 1; s++) fetch(team * RUN + s * step, s);
    int slot = 0, last = STAGES - 1; /* of the run before */
    /* Where this lane puts its warp's sum, and where those of the team are. */
    uint32_t sums = lk_shared_address(part[0][team * t.places]);
    uint32_t give = sums + ((warp - team * t.width) * 2 * RUN + lane / (16 / RUN)) * sizeof(float);
    uint32_t turn = sizeof part[0];
    float each = 1.0f / (float)cols, means = 0, rstds = 0;
    uint64_t now = BRANCH == DROPPED ? also.state->step : 0;
    int next = 0; /* of the lane whose moments are next */
    for (int row = team * RUN; row < count; row += step) {
        if (next == 0) { /* moments of 32 / RUN runs */
            int own = row + lane / RUN * step + lane % RUN;
            means = mean && own < count ? mean[begin + own] : 0;
            rstds = own < count ? rstd[begin + own] : 0;
        }
        float r[RUN], g[RUN][K][V], h[RUN][K][V], pair[2 * RUN];
        uint32_t here = mine + slot * stage::bytes;
        lk_copies_wait<STAGES - 2>();
        fetch(row + (STAGES - 1) * step, last);
#pragma unroll
        for (int q = 0; q < RUN; q++) {
            float centre = __shfl_sync(0xFFFFFFFFu, means, next + q), sum_g = 0, sum_gh = 0;
            r[q] = __shfl_sync(0xFFFFFFFFu, rstds, next + q);
#pragma unroll
            for (int k = 0; k < K; k++) {
                float d[V];
                piece(h[q][k], here + stage::at(q, 0, k));
                piece(d, here + stage::at(q, 1, k));
#pragma unroll
                for (int j = 0; j < V; j++) { /* halves carry larger errors than fmaf here */
                    float &H = h[q][k][j], &G = g[q][k][j];
                    H = sizeof(E) == 4 ? (H - centre) * r[q] : fmaf(H, r[q], -centre * r[q]);
                    G = d[j] * scale[k][j];
                    sum_w[k][j] += d[j] * H;
                    sum_b[k][j] += d[j];
                    sum_g += G;
                    sum_gh += G * H;
                }
            }
            pair[2 * q] = sum_g;
            pair[2 * q + 1] = sum_gh;
        }
        float sum = warp_sums(pair);
        if (lane % (16 / RUN) == 0)
            asm volatile("st.shared.f32 [%0], %1;" ::"r"(give), "f"(sum) : "memory");
        team_sync(team, lanes); /* the sums of its warps are there */
        team_sums(pair, sums, t.places);
#pragma unroll
        for (int q = 0; q < RUN; q++) {
            /* dx = r g + a h + b */
            float scaled = -r[q] * each;
            float a = scaled * pair[2 * q + 1], b = mean ? scaled * pair[2 * q] : 0;
#pragma unroll
            for (int k = 0; k < K; k++) {
                float out[V];
#pragma unroll
                for (int j = 0; j < V; j++)
                    out[j] = fmaf(r[q], g[q][k][j], fmaf(a, h[q][k][j], b));
                if (more) {
                    float plus[V];
                    piece(plus, here + stage::at(q, 2, k));
#pragma unroll
                    for (int j = 0; j < V; j++) out[j] += plus[j];
                }
                int64_t to = at + q * cols + k * lanes * V;
                if (row + q < count && first + k * lanes * V < cols) {
                    put_rounded(dx + to, out);
                    if constexpr (BRANCH == DROPPED) {
                        drop(out, &also.m, now, to);
                        put_rounded(also.dx + to, out);
                    }
                    if constexpr (BRANCH) {
#pragma unroll
                        for (int j = 0; j < V; j++) sum_x[k][j] += out[j];
                    }
                }
            }
        }
        at += (int64_t)step * cols;
        last = slot;
        if (++slot == STAGES) slot = 0;
        give += turn;
        sums += turn;
        turn = -turn;
        next = (next + RUN) & 31;
    }

    int64_t chunk = (int64_t)blockIdx.x * cols;
    float *shared = (float *)stages; /* all that was copied has been read */
    if constexpr (BRANCH)
        if (also.sums) add_teams<K>(sum_x, shared, also.sums + chunk, t, cols);
    add_teams<K>(sum_w, shared, dw + chunk, t, cols);
    if (db) add_teams<K>(sum_b, shared, db + chunk, t, cols);
}

/* dx, and where DROP (V = 8) that of the branch, a block per row. */
template <typename E, int V, bool DROP>
static __global__ void __launch_bounds__(THREADS)
k_norm_dx(const E *x /* [N,C] */, const float *w /* [C] */, const float *mean /* [N] or NULL */,
          const float *rstd /* [N] */, const E *dy /* [N,C] */,
          const E *more /* [N,C] or NULL; may be dx */, E *dx /* [N,C] */, int cols, branch<E> also)
{
    __shared__ float shared[32];
    int64_t row = blockIdx.x, at = row * cols;
    float m = mean ? mean[row] : 0, r = rstd[row], sum_g = 0, sum_gh = 0;
    for (int c = threadIdx.x * V; c < cols; c += THREADS * V) {
        float xs[V], ds[V], scale[V];
        lk_get<V>(xs, x + at + c);
        lk_get<V>(ds, dy + at + c);
        lk_get<V>(scale, w + c);
#pragma unroll
        for (int j = 0; j < V; j++) {
            float g = ds[j] * scale[j];
            sum_g += g;
            sum_gh += g * ((xs[j] - m) * r);
        }
    }
    sum_g = lk_block_sum(sum_g, shared) / (float)cols;
    if (!mean) sum_g = 0;
    sum_gh = lk_block_sum(sum_gh, shared) / (float)cols;
    for (int c = threadIdx.x * V; c < cols; c += THREADS * V) {
        float xs[V], ds[V], scale[V], out[V];
        lk_get<V>(xs, x + at + c);
        lk_get<V>(ds, dy + at + c);
        lk_get<V>(scale, w + c);
#pragma unroll
        for (int j = 0; j < V; j++)
            out[j] = r * (ds[j] * scale[j] - sum_g - (xs[j] - m) * r * sum_gh);
        if (more) {
            lk_get<V>(xs, more + at + c);
#pragma unroll
            for (int j = 0; j < V; j++) out[j] += xs[j];
        }
        lk_put<V>(dx + at + c, out);
        if constexpr (DROP) { /* of dx as stored */
#pragma unroll
            for (int j = 0; j < V; j++) out[j] = lk_float(lk_store<E>(out[j]));
            drop(out, &also.m, also.state->step, at + c);
            lk_put<V>(also.dx + at + c, out);
        }
    }
}

/* Column partials of rows [y per, (y+1) per): a thread per V columns. */
template <typename E, int V>
static __global__ void
k_norm_columns(const E *x /* [N,C] */, const float *mean /* [N] or NULL */,
               const float *rstd /* [N] */, const E *dy /* [N,C] */, float *dw /* [chunks,C] */,
               float *db /* [chunks,C] or NULL */, int64_t rows, int64_t per, int cols)
{
    int c = (blockIdx.x * blockDim.x + threadIdx.x) * V;
    if (c >= cols) return;
    int64_t begin = blockIdx.y * per, end = begin + per < rows ? begin + per : rows;
    float sum_w[V] = {}, sum_b[V] = {};
#pragma unroll 4
    for (int64_t row = begin; row < end; row++) {
        float xs[V], ds[V], m = mean ? mean[row] : 0, r = rstd[row];
        lk_get<V>(xs, x + row * cols + c);
        lk_get<V>(ds, dy + row * cols + c);
#pragma unroll
        for (int j = 0; j < V; j++) {
            sum_w[j] += ds[j] * ((xs[j] - m) * r);
            sum_b[j] += ds[j];
        }
    }
    lk_put<V>(dw + (int64_t)blockIdx.y * cols + c, sum_w);
    if (db) lk_put<V>(db + (int64_t)blockIdx.y * cols + c, sum_b);
}

/* dw, db and the sums of the branch: f32 [chunks,C] each. */
size_t lk_cuda_norm_grad_scratch(const lk_cuda *, const lk_node *n)
{
    size_t chunks = (size_t)lk_column_chunks(lk_rows(n->in[0]));
    return 3 * chunks * (size_t)lk_cols(n->in[0]) * sizeof(float);
}

size_t lk_cuda_residual_norm_grad_scratch(const lk_cuda *d, const lk_node *n)
{
    return lk_cuda_norm_grad_scratch(d, n);
}

/* Columns of a row that a team of all warps holds with one vector a thread, or two. */
enum { ONE_VECTOR = GRAD_WARPS * 32 * GRAD_V, TWO_VECTORS = 2 * ONE_VECTOR };

static bool fits_teams(const lk_node *n)
{
    int64_t cols = lk_cols(n->in[0]);
    return cols % GRAD_V == 0 && cols <= (n->in[0]->dtype == LK_F32 ? ONE_VECTOR : TWO_VECTORS);
}

template <typename E, int K> static auto teams_kernel(const branch<E> &b)
{
    return b.dx     ? k_norm_grad<E, K, DROPPED>
           : b.sums ? k_norm_grad<E, K, SUMMED>
                    : k_norm_grad<E, K, NO_BRANCH>;
}

template <typename E, int K>
static lk_status by_teams(lk_exec *x, const lk_node *n, const float *mean, float *dw, float *db,
                          branch<E> b)
{
    int64_t rows = lk_rows(n->in[0]);
    int cols = (int)lk_cols(n->in[0]), chunks = lk_column_chunks(rows);
    row_teams t = row_teams_of(cols, K);
    constexpr int bytes = grad_stage<E, K>::all;
    auto kernel = teams_kernel<E, K>(b);
    LK_CUDA_AT(n, cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
    kernel<<<chunks, 32 * t.width * t.teams, bytes, lk_cuda_stream_of(x)>>>(
        (const E *)lk_data(x, n->in[0]), (const float *)lk_data(x, n->in[1]), mean,
        (const float *)lk_data(x, n->in[3]), (const E *)lk_data(x, n->in[4]),
        n->inputs > 5 ? (const E *)lk_data(x, n->in[5]) : NULL, (E *)lk_data(x, n->out[0]), dw, db,
        rows, lk_ceil(rows, chunks), cols, t, b);
    return lk_cuda_launched(n);
}

/* NORM_GRAD, and of RESIDUAL_NORM_GRAD all where teams hold the rows, else all but the sums of the
 * branch, and where C % 8 its dropout. */
static lk_status gradient(lk_exec *x, const lk_node *n, bool centred)
{
    const lk_tensor *in = n->in[0];
    int64_t rows = lk_rows(in);
    int cols = (int)lk_cols(in), chunks = lk_column_chunks(rows);
    int64_t per = lk_ceil(rows, chunks), size = (int64_t)chunks * cols;
    const float *w = (const float *)lk_data(x, n->in[1]);
    const float *mean = centred ? (const float *)lk_data(x, n->in[2]) : NULL;
    const float *rstd = (const float *)lk_data(x, n->in[3]);
    float *dw = (float *)x->base[LK_REGION_SCRATCH], *db = n->out[2] ? dw + size : NULL;
    float *sums = n->outputs > 4 ? dw + 2 * size : NULL;
    lk_chunk_sum sum[LK_CHUNK_SUMS] = {
        {dw, (float *)lk_data(x, n->out[1]), (n->accumulate & 2u) != 0},
        {db, (float *)lk_data(x, n->out[2]), (n->accumulate & 4u) != 0},
        {sums, sums ? (float *)lk_data(x, n->out[4]) : NULL, (n->accumulate & 16u) != 0}};
    cudaStream_t s = lk_cuda_stream_of(x);
    if (rows == 0) return LK_OK;
    LK_FLOAT_SWITCH(in->dtype, E, {
        const E *from = (const E *)lk_data(x, in), *dy = (const E *)lk_data(x, n->in[4]);
        const E *more = n->inputs > 5 ? (const E *)lk_data(x, n->in[5]) : NULL;
        E *dx = (E *)lk_data(x, n->out[0]);
        branch<E> b = {};
        b.sums = sums;
        if (n->outputs > 3 && n->out[3]) {
            b.dx = (E *)lk_data(x, n->out[3]);
            b.state = (const lk_step_state *)lk_data(x, n->in[6]);
            b.m = mask_of(x, n->attr.residual_norm.p, n->attr.residual_norm.site, 1);
        }
        if (fits_teams(n)) {
            if (cols <= ONE_VECTOR) LK_TRY((by_teams<E, 1>(x, n, mean, dw, db, b)));
            else if constexpr (sizeof(E) == 2) LK_TRY((by_teams<E, 2>(x, n, mean, dw, db, b)));
        } else {
            LK_VECTOR_SWITCH(cols, V, {
                dim3 grid(lk_blocks(cols, 64 * V), chunks); /* first: dx may lie where dy does */
                k_norm_columns<E, V><<<grid, 64, 0, s>>>(from, mean, rstd, dy, dw, db, rows, per,
                                                         cols);
                auto kernel = V == 8 && b.dx ? k_norm_dx<E, V, V == 8> : k_norm_dx<E, V, false>;
                kernel<<<(unsigned)rows, THREADS, 0, s>>>(from, w, mean, rstd, dy, more, dx, cols,
                                                          b);
            });
        }
    });
    LK_CUDA_AT(n, cudaPeekAtLastError());
    lk_cuda_sum_chunks(s, sum, sums ? 3 : db ? 2 : 1, chunks, cols);
    return lk_cuda_launched(n);
}

extern "C" lk_status lk_cuda_norm_grad(lk_exec *x, const lk_node *n)
{
    return gradient(x, n, n->attr.norm.kind != LK_RMSNORM);
}

extern "C" lk_status lk_cuda_residual_norm_grad(lk_exec *x, const lk_node *n)
{
    bool centred = n->attr.residual_norm.kind != LK_RMSNORM;
    if (fits_teams(n)) return gradient(x, n, centred);
    const lk_tensor *last = n->out[3] ? n->out[3] : n->out[0];
    lk_node most = *n, dropout = *n;
    bool vectors = lk_cols(n->in[0]) % 8 == 0;
    most.outputs = vectors ? 4 : 3;
    LK_TRY(gradient(x, &most, centred));
    if (n->out[3] && !vectors) {
        dropout.op = LK_OP_DROPOUT;
        dropout.attr.dropout.p = n->attr.residual_norm.p;
        dropout.attr.dropout.site = n->attr.residual_norm.site;
        dropout.attr.dropout.group = 1;
        dropout.in[0] = n->out[0];
        dropout.in[1] = n->in[6];
        dropout.out[0] = n->out[3];
        LK_TRY(lk_cuda_dropout(x, &dropout));
    }
    if (n->outputs > 4)
        lk_cuda_column_sums(x, last, (float *)x->base[LK_REGION_SCRATCH],
                            (n->accumulate & 16u) != 0, (float *)lk_data(x, n->out[4]));
    return lk_cuda_launched(n);
}
