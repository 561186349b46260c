/* rope: rotary positions on the q and k heads of qkv X [B,T,(H+2K)D]; the v heads are copied, or
 * where y lies in the place of x left alone.
 *
 * A block takes one position t of up to SAMPLES samples. Its angles t theta^(-2i/D) depend on t
 * only: they are computed once, in double, and reduced to a turn before the f32 sine and cosine. */
#include "cuda/device.cuh"

enum { THREADS = 256, SAMPLES = 8 };

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

/* x, y [batch, t, width], y may be x, width = (turned + copied) 2 half; heads < turned are rotated.
 * log_theta: base-2 logarithm; sign: -1 for the inverse; V: elements per access. Dynamic shared
 * memory: cosine [half], sine [half]. */
template <typename E, int V>
static __global__ void __launch_bounds__(THREADS)
    k_rope(const E *x, E *y, int64_t batch, int64_t t, int turned, int copied, int half,
           double log_theta, float sign)
{
    extern __shared__ __align__(16) float table[];
    float *cosine = table, *sine = table + half;
    int64_t pos = blockIdx.x % t, b0 = blockIdx.x / t * SAMPLES;
    for (int i = threadIdx.x; i < half; i += THREADS) {
        double turns = (double)pos * exp2(-log_theta * i / half) * 0.15915494309189533577;
        float angle = (float)((turns - rint(turns)) * 6.283185307179586477);
        float s, c;
        sincosf(angle, &s, &c);
        cosine[i] = c;
        sine[i] = sign * s;
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

extern "C" lk_status lk_cuda_rope(lk_exec *x, const lk_node *n)
{
    const lk_tensor *in = n->in[0];
    int64_t batch = in->dim[0], t = in->dim[1];
    int heads = n->attr.rope.heads, kv_heads = n->attr.rope.kv_heads;
    int half = n->attr.rope.head_dim / 2;
    double log_theta = log2((double)n->attr.rope.theta);
    float sign = n->attr.rope.inverse ? -1.0f : 1.0f;
    unsigned blocks = (unsigned)(t * lk_ceil(batch, SAMPLES));
    size_t bytes = sizeof(float) * 2 * (size_t)half;
    LK_FLOAT_SWITCH(in->dtype, E, LK_VECTOR_SWITCH(half, V, {
                        k_rope<E, V><<<blocks, THREADS, bytes, lk_cuda_stream_of(x)>>>(
                            (const E *)lk_data(x, in), (E *)lk_data(x, n->out[0]), batch, t,
                            heads + kv_heads, kv_heads, half, log_theta, sign);
                    }));
    return lk_cuda_launched(n);
}
