/* rope: rotary positions on the q and k heads of qkv X [B,T,(H+2K)D]; the v heads are copied, or
 * where y lies in the place of x left alone. A node of its own, or the end of a product or of a
 * gradient of attention whose kernel does not rotate.
 *
 * Cosines and sines depend on position, head size and theta only: a table of them is made when a
 * node is prepared, and kept as long as the device is open. A block takes one position of up to
 * SAMPLES samples. */
#include "cuda/device.cuh"

enum { THREADS = 256, SAMPLES = 8 };

/* ---- tables --------------------------------------------------------------------------------- */

struct lk_cuda_angle_table {
    int64_t time; /* positions 0 .. time - 1 */
    int head_dim;
    float theta;
    float2 *angles; /* device memory */
    lk_cuda_angle_table *next;
};

/* The table that has what node n needs, or NULL. */
static const lk_cuda_angle_table *find(const lk_cuda *d, const lk_node *n)
{
    const lk_rotation *r = lk_rotation_of(n);
    for (const lk_cuda_angle_table *t = d->angles; t; t = t->next)
        if (t->head_dim == r->head_dim && t->theta == r->theta && t->time >= n->out[0]->dim[1])
            return t;
    return NULL;
}

lk_status lk_cuda_angles(const lk_cuda *d, const lk_node *n, const float2 **angles)
{
    const lk_cuda_angle_table *t = find(d, n);
    if (!t) return lk_fail(LK_E_INTERNAL, "%s: its rotation was not prepared", n->scope);
    *angles = t->angles;
    return LK_OK;
}

/* angles [time, half]: cosine and sine of t theta^(-i/half), in double and reduced to a turn before
 * the f32 functions. log_theta: base-2 logarithm. */
static __global__ void k_angles(float2 *angles, int64_t time, int half, double log_theta)
{
    int64_t at = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= time * half) return;
    double angle = (double)(at / half) * exp2(-log_theta * (double)(at % half) / half);
    double turns = angle * 0.15915494309189533577;
    float s, c;
    sincosf((float)((turns - rint(turns)) * 6.283185307179586477), &s, &c);
    angles[at] = make_float2(c, s);
}

lk_status lk_cuda_angles_prepare(lk_cuda *d, const lk_node *n)
{
    const lk_rotation *r = lk_rotation_of(n);
    if (!r || find(d, n)) return LK_OK;
    int64_t time = n->out[0]->dim[1];
    int half = r->head_dim / 2;
    size_t bytes = (size_t)(time * half) * sizeof(float2);
    void *memory;
    LK_TRY(d->device.backend->alloc(&d->device, bytes, &memory));
    lk_cuda_angle_table *t = (lk_cuda_angle_table *)malloc(sizeof *t);
    if (!t) {
        d->device.backend->release(&d->device, memory);
        return lk_fail(LK_E_SYSTEM, "out of memory");
    }
    *t = {time, r->head_dim, r->theta, (float2 *)memory, d->angles};
    d->angles = t;
    d->device.kept += bytes;
    k_angles<<<lk_blocks(time * half, THREADS), THREADS, 0, d->stream>>>(t->angles, time, half,
                                                                         log2((double)r->theta));
    return lk_cuda_launched(n);
}

void lk_cuda_angles_close(lk_cuda *d)
{
    while (d->angles) {
        lk_cuda_angle_table *t = d->angles;
        d->angles = t->next;
        d->device.backend->release(&d->device, t->angles);
        free(t);
    }
}

/* ---- the kernel ----------------------------------------------------------------------------- */

/* lk_put by explicit 16-byte stores: in k_rope the compiler splits its vectors into elements. */
template <int V, typename E> static __device__ __forceinline__ void put(E *p, const float *in)
{
    if constexpr (V == 8 && sizeof(E) == 2) {
        uint32_t w[4];
#pragma unroll
        for (int k = 0; k < 4; k++) {
            lk_vec<E, 2> pair = {{lk_store<E>(in[2 * k]), lk_store<E>(in[2 * k + 1])}};
            memcpy(&w[k], &pair, 4);
        }
        __stcg((uint4 *)p, make_uint4(w[0], w[1], w[2], w[3]));
    } else if constexpr (V == 8) {
        __stcg((float4 *)p, make_float4(in[0], in[1], in[2], in[3]));
        __stcg((float4 *)p + 1, make_float4(in[4], in[5], in[6], in[7]));
    } else {
        lk_put<V>(p, in);
    }
}

/* x, y [batch, t, width], y may be x, width = (turned + copied) 2 half; heads < turned are rotated
 * by angles [.., half]; sign: -1 for the inverse; V: elements per access. Dynamic shared memory:
 * cosine [half], sine [half]. */
template <typename E, int V>
static __global__ void __launch_bounds__(THREADS)
    k_rope(const E *x, E *y, const float2 *angles, int64_t batch, int64_t t, int turned, int copied,
           int half, float sign)
{
    extern __shared__ __align__(16) float table[];
    float *cosine = table, *sine = table + half;
    int64_t pos = blockIdx.x % t, b0 = blockIdx.x / t * SAMPLES;
    for (int i = threadIdx.x; i < half; i += THREADS) {
        float2 angle = angles[pos * half + i];
        cosine[i] = angle.x;
        sine[i] = sign * angle.y;
    }
    __syncthreads();
    int64_t width = (int64_t)(turned + copied) * 2 * half;
    int samples = (int)min(batch - b0, (int64_t)SAMPLES), across = half / V;
    int pairs = turned * across; /* vectors of first halves in a token's rotated heads */
    int copies = copied * 2 * across, behind = turned * 2 * half; /* the rotated heads come first */
    for (int item = threadIdx.x; item < samples * pairs; item += THREADS) {
        int b = item / pairs, head = item % pairs / across, i = item % across * V;
        int64_t at = ((b0 + b) * t + pos) * width + head * 2 * half + i;
        float u[V], w[V], p[V], q[V];
        lk_get<V>(u, x + at);
        lk_get<V>(w, x + at + half);
#pragma unroll
        for (int k = 0; k < V; k++) {
            p[k] = u[k] * cosine[i + k] - w[k] * sine[i + k];
            q[k] = w[k] * cosine[i + k] + u[k] * sine[i + k];
        }
        put<V>(y + at, p);
        put<V>(y + at + half, q);
    }
    if (x == y) return;
    for (int item = threadIdx.x; item < samples * copies; item += THREADS) {
        int b = item / copies;
        int64_t at = ((b0 + b) * t + pos) * width + behind + item % copies * V;
        *(lk_vec<E, V> *)(y + at) = *(const lk_vec<E, V> *)(x + at);
    }
}

lk_status lk_cuda_rotate(lk_exec *x, const lk_node *n, const lk_tensor *in)
{
    const lk_cuda *d = (const lk_cuda *)x->device;
    const lk_rotation *r = lk_rotation_of(n);
    const float2 *angles = NULL;
    LK_TRY(lk_cuda_angles(d, n, &angles));
    int64_t batch = in->dim[0], t = in->dim[1];
    int half = r->head_dim / 2;
    float sign = r->inverse ? -1.0f : 1.0f;
    unsigned blocks = (unsigned)(t * lk_ceil(batch, SAMPLES));
    size_t bytes = sizeof(float) * 2 * (size_t)half;
    LK_FLOAT_SWITCH(in->dtype, E, LK_VECTOR_SWITCH(half, V, {
                        k_rope<E, V><<<blocks, THREADS, bytes, d->stream>>>(
                            (const E *)lk_data(x, in), (E *)lk_data(x, n->out[0]), angles, batch, t,
                            r->heads + r->kv_heads, r->kv_heads, half, sign);
                    }));
    return lk_cuda_launched(n);
}

extern "C" lk_status lk_cuda_rope(lk_exec *x, const lk_node *n)
{
    return lk_cuda_rotate(x, n, n->in[0]);
}
