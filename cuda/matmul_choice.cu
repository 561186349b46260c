/* How each product of matmul.cu is computed: the choices, how they are made, and their text.
 *
 * An algorithm is chosen once per key (product, type, shape, beta, bias). Algorithms add in
 * different orders, so a choice by timing alone would make the bits of a run depend on noise. The
 * heuristic's first candidate, which depends on the GPU and the library alone, therefore fixes the
 * bits: of the candidates that give exactly its output on random operands, the fastest is kept, or
 * the fastest of those that there was time to try: with any of them the bits are the same.
 * Split-K is accepted only with partial sums in f32 in the workspace, added in a fixed order; never
 * with atomics. Choices, a kernel of ours being one, can be read and set as text: a resumed run
 * uses the same ones. */
#include "base/clock.h"
#include "cuda/matmul.cuh"

enum {
    CANDIDATES = 16,
    ROUNDS = 3,    /* of timing; the best counts */
    RUNS = 5,      /* per round */
    SEEDS = 4,     /* sets of random operands on which outputs are compared */
    ENOUGH = 65536 /* elements to compare: an order of summation shows in one of thousands */
};
/* Seconds after which no other candidate is tried: for one product, and for all of a device. The
 * first of each later product still runs, 1 + RUNS times. */
static const double TIME_EACH = 2, TIME_ALL = 10;

/* ---- what was chosen ------------------------------------------------------------------------ */

choice *lk_cuda_matmul_choice(const lk_cuda_matmuls *m, const char *key)
{
    for (int i = 0; i < m->count; i++)
        if (strcmp(m->list[i].key, key) == 0) return &m->list[i];
    return NULL;
}

/* Add or replace the choice for `key`; algo NULL: by a kernel of ours. */
static lk_status keep(lk_cuda_matmuls *m, const char *key, const cublasLtMatmulAlgo_t *algo,
                      bool ready)
{
    choice *c = lk_cuda_matmul_choice(m, key);
    if (!c) {
        if (m->count == m->room) {
            int room = m->room ? 2 * m->room : 32;
            choice *list = (choice *)realloc(m->list, (size_t)room * sizeof *list);
            if (!list) return lk_fail(LK_E_SYSTEM, "out of memory");
            m->list = list;
            m->room = room;
        }
        c = &m->list[m->count++];
        snprintf(c->key, sizeof c->key, "%s", key);
    }
    c->own = !algo;
    if (algo) c->algo = *algo;
    else memset(&c->algo, 0, sizeof c->algo);
    c->ready = ready;
    return LK_OK;
}

/* ---- kernels of ours ------------------------------------------------------------------------ */

/* Whether a kernel of ours takes the node with all that belongs to it. */
static bool fits_own(const lk_cuda *d, const lk_node *n)
{
    if (n->op == LK_OP_LINEAR_MOMENTS) return lk_cuda_pointwise_fits(d, n);
    return lk_cuda_product_fits(d, n);
}

/* Whether one that can should: of what pointwise.cu takes, all. */
static bool pays_own(const lk_node *n)
{
    return n->op == LK_OP_LINEAR_MOMENTS || lk_cuda_product_pays(n);
}

/* ---- choosing an algorithm ------------------------------------------------------------------ */

/* Whether the algorithm adds in f32 and in an order of its own, run after run. */
static bool is_exact(const cublasLtMatmulAlgo_t *algo)
{
    uint32_t scheme = 0;
    size_t written = 0;
    cublasStatus_t status = cublasLtMatmulAlgoConfigGetAttribute(
        algo, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, &scheme, sizeof scheme, &written);
    return status == CUBLAS_STATUS_SUCCESS && (scheme == CUBLASLT_REDUCTION_SCHEME_NONE ||
                                               scheme == CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE);
}

/* Fill `algo` with the exact candidates, best guess of the library first; *count may be 0. */
static lk_status candidates(lk_cuda *d, const lk_node *n, product *p, cublasLtMatmulAlgo_t *algo,
                            int *count)
{
    cublasLtMatmulPreferenceOpaque_t preference;
    LK_LT(n, cublasLtMatmulPreferenceInit(&preference));
    const struct {
        cublasLtMatmulPreferenceAttributes_t name;
        uint32_t value;
    } set[] = {
        {CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, ALIGNMENT},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, ALIGNMENT},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, ALIGNMENT},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, ALIGNMENT},
    };
    for (size_t i = 0; i < sizeof set / sizeof *set; i++)
        LK_LT(n, cublasLtMatmulPreferenceSetAttribute(&preference, set[i].name, &set[i].value,
                                                      sizeof set[i].value));
    uint64_t bytes = WORKSPACE;
    LK_LT(n, cublasLtMatmulPreferenceSetAttribute(
                 &preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &bytes, sizeof bytes));

    cublasLtMatmulHeuristicResult_t result[CANDIDATES];
    int found = 0;
    cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
        d->matmuls->lt, &p->op, &p->a.layout, &p->b.layout, &p->d.layout, &p->d.layout, &preference,
        CANDIDATES, result, &found);
    if (status == CUBLAS_STATUS_NOT_SUPPORTED) found = 0;
    else LK_LT(n, status);
    *count = 0;
    for (int i = 0; i < found; i++)
        if (result[i].state == CUBLAS_STATUS_SUCCESS && result[i].workspaceSize <= WORKSPACE &&
            is_exact(&result[i].algo))
            algo[(*count)++] = result[i].algo;
    return LK_OK;
}

/* Every bit of the result depends on every bit of h: the end of MurmurHash3 (A. Appleby, 2011). */
static __device__ uint32_t mixed(uint32_t h)
{
    h = (h ^ h >> 16) * 0x85EBCA6Bu;
    h = (h ^ h >> 13) * 0xC2B2AE35u;
    return h ^ h >> 16;
}

/* p [n]: values in [-1, 1), none of them zero but by chance; another sequence for each seed. */
template <typename E> static __global__ void k_fill(E *p, int64_t n, uint32_t seed)
{
    int64_t stride = (int64_t)gridDim.x * blockDim.x;
    uint32_t key = mixed(seed + 0x9E3779B9u);
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += stride)
        p[i] = lk_store<E>(2.0f * lk_uniform(mixed(mixed((uint32_t)i + 1) ^ key)) - 1.0f);
}

/* Add to *digest what depends on every one of n 16-bit words and its place; integers, in any order.
 * Two arrays that differ have the same digest with a probability of 2^-64. */
static __global__ void k_digest(const uint16_t *a, int64_t n, unsigned long long *digest)
{
    int64_t stride = (int64_t)gridDim.x * blockDim.x;
    unsigned long long sum = 0;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += stride) {
        uint32_t low = mixed(a[i] ^ mixed((uint32_t)i + 1)), high = mixed(low ^ 0x9E3779B9u);
        sum += (unsigned long long)high << 32 | low;
    }
    for (int lanes = 16; lanes > 0; lanes /= 2) sum += __shfl_xor_sync(~0u, sum, lanes);
    if (threadIdx.x % 32 == 0) atomicAdd(digest, sum);
}

/* Operands for choosing: a, b, d as in the product, bias [M], aux as large as d. */
typedef struct operands {
    size_t bytes; /* of all of them */
    void *a, *b, *d, *bias, *aux;
    unsigned long long *digest; /* of d */
    cudaEvent_t begin, end;
} operands;

static void operands_close(operands *o)
{
    if (o->end) cudaEventDestroy(o->end);
    if (o->begin) cudaEventDestroy(o->begin);
    cudaFree(o->digest);
    cudaFree(o->aux);
    cudaFree(o->bias);
    cudaFree(o->d);
    cudaFree(o->b);
    cudaFree(o->a);
}

static void fill_random(lk_cuda *d, lk_dtype type, int64_t count, uint32_t seed, void *memory)
{
    unsigned blocks = lk_blocks(count, 256);
    if (blocks > 4096) blocks = 4096;
    LK_FLOAT_SWITCH(type, E, k_fill<E><<<blocks, 256, 0, d->stream>>>((E *)memory, count, seed));
}

static bool take_memory(operands *o, int64_t count, lk_dtype type, void **memory)
{
    size_t bytes = (size_t)count * lk_dtype_size(type);
    if (cudaMalloc(memory, bytes) == cudaSuccess) {
        o->bytes += bytes;
        return true;
    }
    *memory = NULL;
    return false;
}

/* Random a, b, bias, aux and what d holds before the product, from `seed`. */
static void operands_fill(lk_cuda *d, const product *p, uint32_t seed, const operands *o)
{
    fill_random(d, p->a.type, p->a.rows * p->a.cols, 5 * seed + 1, o->a);
    fill_random(d, p->b.type, p->b.rows * p->b.cols, 5 * seed + 2, o->b);
    fill_random(d, p->d.type, p->d.rows * p->d.cols, 5 * seed + 3, o->d);
    fill_random(d, p->d.type, p->d.rows, 5 * seed + 4, o->bias);
    if (o->aux) fill_random(d, p->d.type, p->d.rows * p->d.cols, 5 * seed + 5, o->aux);
}

/* False when the device has no room for them (or no events): then nothing is run. */
static bool operands_open(lk_cuda *d, const product *p, operands *o)
{
    memset(o, 0, sizeof *o);
    if (take_memory(o, p->a.rows * p->a.cols, p->a.type, &o->a) &&
        take_memory(o, p->b.rows * p->b.cols, p->b.type, &o->b) &&
        take_memory(o, p->d.rows * p->d.cols, p->d.type, &o->d) &&
        take_memory(o, p->d.rows, p->d.type, &o->bias) &&
        (!p->aux || take_memory(o, p->d.rows * p->d.cols, p->d.type, &o->aux)) &&
        take_memory(o, 2, LK_I32, (void **)&o->digest) &&
        cudaEventCreate(&o->begin) == cudaSuccess && cudaEventCreate(&o->end) == cudaSuccess) {
        lk_device_used(&d->device, o->bytes);
        operands_fill(d, p, 0, o);
        return cudaGetLastError() == cudaSuccess;
    }
    operands_close(o);
    cudaGetLastError(); /* being full is not an error of what follows */
    return false;
}

/* The digest of what the product makes of the operands of `seed`; false: the library refuses. */
static lk_status digest_of(lk_cuda *d, product *p, const operands *o, uint32_t seed,
                           const cublasLtMatmulAlgo_t *algo, bool *made, unsigned long long *digest)
{
    int64_t words = p->d.rows * p->d.cols * (int64_t)lk_dtype_size(p->d.type) / 2;
    unsigned blocks = lk_blocks(words, 256);
    if (blocks > 4096) blocks = 4096;
    operands_fill(d, p, seed, o);
    *made = lk_cuda_matmul_enqueue(d, p, o->a, o->b, o->d, algo) == CUBLAS_STATUS_SUCCESS;
    if (!*made) return LK_OK;
    LK_CUDA(cudaMemsetAsync(o->digest, 0, sizeof *o->digest, d->stream));
    k_digest<<<blocks, 256, 0, d->stream>>>((const uint16_t *)o->d, words, o->digest);
    LK_CUDA(cudaMemcpyAsync(digest, o->digest, sizeof *digest, cudaMemcpyDeviceToHost, d->stream));
    LK_CUDA(cudaStreamSynchronize(d->stream));
    return LK_OK;
}

/* Whether two algorithms give the same bits on SEEDS sets of operands. */
static lk_status same_bits(lk_cuda *d, product *p, const operands *o,
                           const cublasLtMatmulAlgo_t *one, const cublasLtMatmulAlgo_t *other,
                           bool *same)
{
    int64_t count = p->d.rows * p->d.cols;
    *same = count * SEEDS >= ENOUGH; /* fewer are too few to tell */
    for (uint32_t seed = 0; seed < SEEDS && *same; seed++) {
        unsigned long long a = 0, b = 0;
        LK_TRY(digest_of(d, p, o, seed, one, same, &a));
        if (*same) LK_TRY(digest_of(d, p, o, seed, other, same, &b));
        *same = *same && a == b;
        if (count >= ENOUGH) break;
    }
    return LK_OK;
}

/* Milliseconds of RUNS products, the best of ROUNDS, of fewer when `until` (lk_clock_seconds()) is
 * past; INFINITY when the library refuses. */
static lk_status measure(lk_cuda *d, product *p, const operands *o,
                         const cublasLtMatmulAlgo_t *algo, double until, float *best)
{
    *best = INFINITY;
    if (lk_cuda_matmul_enqueue(d, p, o->a, o->b, o->d, algo) != CUBLAS_STATUS_SUCCESS) return LK_OK;
    float least = INFINITY;
    for (int round = 0; round < ROUNDS && (round == 0 || lk_clock_seconds() < until); round++) {
        float ms = 0;
        LK_CUDA(cudaEventRecord(o->begin, d->stream));
        for (int i = 0; i < RUNS; i++)
            if (lk_cuda_matmul_enqueue(d, p, o->a, o->b, o->d, algo) != CUBLAS_STATUS_SUCCESS)
                return LK_OK;
        LK_CUDA(cudaEventRecord(o->end, d->stream));
        LK_CUDA(cudaEventSynchronize(o->end));
        LK_CUDA(cudaEventElapsedTime(&ms, o->begin, o->end));
        if (ms < least) least = ms;
    }
    *best = least;
    return LK_OK;
}

/* What a choice came to. */
typedef struct pick {
    int index;  /* of the algorithm */
    bool first; /* it is the first that runs */
    bool all;   /* were tried */
} pick;

/* The fastest of `count` algorithms among those that give the bits of the first that runs and that
 * are tried before `until` (lk_clock_seconds()); index 0 when there is no memory to run them. The
 * one that is picked has run, which also loads its code before anything is captured. */
static lk_status fastest(lk_cuda *d, const lk_node *n, product *p,
                         const cublasLtMatmulAlgo_t *algo, int count, double until, pick *best)
{
    operands o;
    *best = {0, true, count == 1};
    if (!operands_open(d, p, &o)) return LK_OK;
    lk_status status = lk_cuda_matmul_point(n, p, o.bias, o.aux);
    float least = INFINITY;
    int first = -1, i = 0;
    for (; i < count && status == LK_OK; i++) {
        float ms = INFINITY;
        bool same = true;
        if (first >= 0 && lk_clock_seconds() >= until) break;
        if (first >= 0) status = same_bits(d, p, &o, &algo[first], &algo[i], &same);
        if (status == LK_OK && same) status = measure(d, p, &o, &algo[i], until, &ms);
        if (first < 0 && !isinf(ms)) first = i;
        if (ms < least) {
            least = ms;
            best->index = i;
        }
    }
    best->first = best->index == first;
    best->all = i == count;
    cudaStreamSynchronize(d->stream);
    operands_close(&o);
    if (status != LK_OK) return lk_fail_prefix(status, "%s: %s", n->scope, p->key);
    if (isinf(least))
        return lk_fail(LK_E_DEVICE, "%s: %s: cuBLASLt refuses to run its own algorithms", n->scope,
                       p->key);
    return LK_OK;
}

/* Accept a kernel of ours that was set from text, or say why not. */
static lk_status admit_own(const lk_cuda *d, const lk_node *n, const product *p, choice *c)
{
    if (!fits_own(d, n))
        return lk_fail(LK_E_INPUT,
                       "%s: '%s' was computed by a kernel of lockstep's own, which this build does "
                       "not have for %s; go on with the kind of GPU and the build that the run was "
                       "started with, or start a new run",
                       n->scope, p->key, d->model);
    c->ready = true;
    return LK_OK;
}

/* The same for any choice. */
static lk_status admit(lk_cuda *d, const lk_node *n, product *p, choice *c)
{
    if (c->own) return admit_own(d, n, p, c);
    cublasLtMatmulHeuristicResult_t result;
    memset(&result, 0, sizeof result);
    cublasStatus_t status =
        cublasLtMatmulAlgoCheck(d->matmuls->lt, &p->op, &p->a.layout, &p->b.layout, &p->d.layout,
                                &p->d.layout, &c->algo, &result);
    if (status != CUBLAS_STATUS_SUCCESS || result.workspaceSize > WORKSPACE || !is_exact(&c->algo))
        return lk_fail(LK_E_INPUT,
                       "%s: the recorded cuBLASLt algorithm of '%s' cannot be used on %s: %s; go "
                       "on with the kind of GPU and the cuBLASLt that the run was started with, or "
                       "start a new run",
                       n->scope, p->key, d->model,
                       status != CUBLAS_STATUS_SUCCESS ? cublasLtGetStatusString(status)
                                                       : "workspace or order of summation");
    pick only;
    LK_TRY(fastest(d, n, p, &c->algo, 1, 0, &only));
    c->ready = true;
    d->matmuls->tuning.reused++;
    return LK_OK;
}

/* Choose among what the library proposes, within the time there is. */
static lk_status tune(lk_cuda *d, const lk_node *n, product *p, const cublasLtMatmulAlgo_t *algo,
                      int count)
{
    pick best;
    lk_tuning *t = &d->matmuls->tuning;
    double begin = lk_clock_seconds();
    LK_TRY(fastest(d, n, p, algo, count, begin + fmin(TIME_EACH, TIME_ALL - t->seconds), &best));
    t->seconds += lk_clock_seconds() - begin;
    t->tuned++;
    t->first += best.first;
    t->cut += !best.all;
    return keep(d->matmuls, p->key, &algo[best.index], true);
}

lk_status lk_cuda_matmul_prepare(lk_cuda *d, const lk_node *n)
{
    product p;
    cublasLtMatmulAlgo_t algo[CANDIDATES];
    for (int level = 0; level < FUSIONS; level++) {
        if (!lk_cuda_matmul_applies(n, (fusion)level)) continue;
        LK_TRY(lk_cuda_matmul_describe(&d->device, n, (fusion)level, &p));
        choice *c = lk_cuda_matmul_choice(d->matmuls, p.key);
        if (c) return c->ready ? LK_OK : admit(d, n, &p, c);
        /* A run that was started before our kernels were there goes on without. */
        if (level == FUSE_ALL && !d->matmuls->restored && fits_own(d, n) && pays_own(n))
            return keep(d->matmuls, p.key, NULL, true);
        if (p.own) continue;
        int count = 0;
        LK_TRY(candidates(d, n, &p, algo, &count));
        if (count > 0) return tune(d, n, &p, algo, count);
    }
    return lk_fail(LK_E_DEVICE, "%s: cuBLASLt has no exact algorithm for '%s'", n->scope, p.key);
}

void lk_cuda_matmul_tuning(lk_device *d, lk_tuning *tuning)
{
    const lk_cuda_matmuls *m = ((lk_cuda *)d)->matmuls;
    *tuning = m->tuning;
    for (int i = 0; i < m->count; i++) tuning->own += m->list[i].own && m->list[i].ready;
}

/* ---- choices as text: key TAB algorithm in hex TAB cuBLASLt version --------------------------
 *
 * or key TAB "own" TAB LK_PRODUCT_VERSION */

lk_status lk_cuda_matmul_choices_get(lk_device *d, char **text)
{
    const lk_cuda_matmuls *m = ((lk_cuda *)d)->matmuls;
    size_t line = KEY_SIZE + 2 * sizeof(cublasLtMatmulAlgo_t) + 32;
    char *out = (char *)malloc((size_t)m->count * line + 1), *at = out;
    if (!out) return lk_fail(LK_E_SYSTEM, "out of memory");
    *at = 0;
    for (int i = 0; i < m->count; i++) {
        const unsigned char *byte = (const unsigned char *)&m->list[i].algo;
        at += snprintf(at, line, "%s\t", m->list[i].key);
        if (m->list[i].own) {
            at += snprintf(at, 32, "own\t%d\n", LK_PRODUCT_VERSION);
            continue;
        }
        for (size_t k = 0; k < sizeof m->list[i].algo; k++) at += snprintf(at, 3, "%02x", byte[k]);
        at += snprintf(at, 32, "\t%zu\n", cublasLtGetVersion());
    }
    *text = out;
    return LK_OK;
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Read one line; returns where the next begins, or NULL when the line is damaged. */
static const char *read_line(const char *text, char *key, bool *own, cublasLtMatmulAlgo_t *algo,
                             size_t *version)
{
    size_t length = strcspn(text, "\t\n");
    if (length == 0 || length >= KEY_SIZE || text[length] != '\t') return NULL;
    memcpy(key, text, length);
    key[length] = 0;
    text += length + 1;
    unsigned char *byte = (unsigned char *)algo;
    *own = strncmp(text, "own\t", 4) == 0;
    if (*own) text += 3;
    for (size_t i = 0; i < sizeof *algo && !*own; i++, text += 2) {
        int high = hex_digit(text[0]), low = high < 0 ? -1 : hex_digit(text[1]);
        if (low < 0) return NULL;
        byte[i] = (unsigned char)(16 * high + low);
    }
    if (*text != '\t') return NULL;
    char *end;
    *version = strtoull(text + 1, &end, 10);
    if (end == text + 1 || (*end != '\n' && *end != 0)) return NULL;
    return *end ? end + 1 : end;
}

lk_status lk_cuda_matmul_choices_set(lk_device *d, const char *text)
{
    if (strncmp(text, "backend\t", 8) == 0)
        return lk_fail(LK_E_INPUT, "the run was made on another kind of device, and would not "
                                   "continue with the same bits on a GPU; resume it where it was "
                                   "started, or set train.reduce to fast to do without");
    /* The first pass only checks, so that nothing changes on failure. */
    for (int pass = 0; pass < 2; pass++) {
        int number = 1;
        for (const char *at = text; *at; number++) {
            char key[KEY_SIZE];
            cublasLtMatmulAlgo_t algo;
            size_t version;
            bool own;
            at = read_line(at, key, &own, &algo, &version);
            if (!at) return lk_fail(LK_E_INPUT, "algorithm choices: line %d is damaged; use "
                                                "another checkpoint", number);
            if (own && version != LK_PRODUCT_VERSION)
                return lk_fail(LK_E_INPUT,
                               "algorithm choices are of version %zu of lockstep's own products, "
                               "this is %d: the same bits cannot be had; use the lockstep that the "
                               "run was started with, or start a new run",
                               version, LK_PRODUCT_VERSION);
            if (!own && version != cublasLtGetVersion())
                return lk_fail(LK_E_INPUT,
                               "algorithm choices are of cuBLASLt version %zu, this is %zu: the "
                               "same bits cannot be had; load that version, or start a new run",
                               version, cublasLtGetVersion());
            if (pass == 1) LK_TRY(keep(((lk_cuda *)d)->matmuls, key, own ? NULL : &algo, false));
        }
    }
    if (*text) ((lk_cuda *)d)->matmuls->restored = true;
    return LK_OK;
}
