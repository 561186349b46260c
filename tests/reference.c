/* The reference of the op test; see reference.h. */
#include "tests/reference.h"

#include <stdlib.h>

static double gelu(double x)
{
    return 0.5 * x * (1 + tanh(sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x)));
}

void ref_linear(int64_t n, int64_t k, int64_t m, lk_activation act, const double *x,
                const double *w, const double *b, double *y)
{
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < m; j++) {
            double sum = b ? b[j] : 0;
            for (int64_t l = 0; l < k; l++) sum += x[i * k + l] * w[j * k + l];
            y[i * m + j] = act == LK_GELU ? gelu(sum) : sum;
        }
}

void ref_swiglu(int64_t n, int64_t f, const double *x, double *y)
{
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < f; j++) {
            double gate = x[i * 2 * f + j], value = x[i * 2 * f + f + j];
            y[i * f + j] = gate / (1 + exp(-gate)) * value;
        }
}

void ref_norm(int64_t n, int64_t c, lk_norm_kind kind, float eps, const double *x, const double *w,
              const double *b, double *y)
{
    for (int64_t i = 0; i < n; i++) {
        const double *row = x + i * c;
        double mean = 0, square = 0;
        for (int64_t j = 0; j < c; j++) mean += row[j] / (double)c;
        if (kind == LK_RMSNORM) mean = 0;
        for (int64_t j = 0; j < c; j++) square += (row[j] - mean) * (row[j] - mean) / (double)c;
        for (int64_t j = 0; j < c; j++)
            y[i * c + j] = (row[j] - mean) / sqrt(square + (double)eps) * w[j] + (b ? b[j] : 0);
    }
}

void ref_embed(int64_t batch, int64_t time, int64_t c, lk_embed_position kind,
               const double *tokens, const double *table, const double *positions, double *y)
{
    for (int64_t i = 0; i < batch * time; i++)
        for (int64_t j = 0; j < c; j++) {
            int64_t t = i % time;
            double v = table[(int64_t)tokens[i] * c + j];
            if (kind == LK_POSITION_SINUSOIDAL) v *= sqrt((double)c);
            if (kind == LK_POSITION_TABLE) v += positions[t * c + j];
            if (kind == LK_POSITION_SINUSOIDAL) {
                double angle = (double)t / pow(10000, (double)(j / 2 * 2) / (double)c);
                v += j % 2 ? cos(angle) : sin(angle);
            }
            y[i * c + j] = v;
        }
}

double ref_keep(ref_draw d, uint64_t index)
{
    if (d.p <= 0) return 1;
    lk_u32x4 words = lk_dropout_words(d.seed, d.site, d.leaf, d.step, index);
    return words.v[index % 4] >= lk_dropout_threshold(d.p) ? 1 / (1 - (double)d.p) : 0;
}

void ref_dropout(int64_t n, ref_draw draw, const double *x, double *y)
{
    for (int64_t i = 0; i < n; i++) y[i] = x[i] * ref_keep(draw, (uint64_t)i);
}

void ref_rope(int64_t batch, int64_t time, int heads, int kv, int dim, float theta, bool inverse,
              const double *qkv, double *y)
{
    int64_t width = (int64_t)(heads + 2 * kv) * dim;
    for (int64_t r = 0; r < batch * time; r++)
        for (int h = 0; h < heads + 2 * kv; h++) {
            const double *from = qkv + r * width + (int64_t)h * dim;
            double *to = y + r * width + (int64_t)h * dim;
            for (int i = 0; i < dim / 2; i++) {
                double angle = (double)(r % time) * pow((double)theta, -2.0 * i / dim);
                if (inverse) angle = -angle;
                if (h >= heads + kv) angle = 0;
                double a = from[i], b = from[i + dim / 2];
                to[i] = a * cos(angle) - b * sin(angle);
                to[i + dim / 2] = b * cos(angle) + a * sin(angle);
            }
        }
}

void ref_attention(int64_t batch, int64_t time, int64_t keys, int heads, int kv_heads, int dim,
                   bool causal, bool alibi, ref_draw draw, const double *q, const double *kv,
                   double *y)
{
    int64_t width = (int64_t)(heads + (kv ? 0 : 2 * kv_heads)) * dim;
    int64_t kv_width = kv ? (int64_t)2 * kv_heads * dim : width;
    const double *all_k = kv ? kv : q + (int64_t)heads * dim;
    double scale = (double)(1.0f / sqrtf((float)dim));
    double *s = malloc((size_t)keys * sizeof *s);
    for (int64_t b = 0; b < batch; b++)
        for (int h = 0; h < heads; h++)
            for (int64_t i = 0; i < time; i++) {
                int64_t at = i + keys - time, end = causal ? at + 1 : keys;
                const double *qi = q + (b * time + i) * width + (int64_t)h * dim;
                const double *k =
                    all_k + b * keys * kv_width + (int64_t)(h / (heads / kv_heads)) * dim;
                const double *v = k + (int64_t)kv_heads * dim;
                double most = -1e300, sum = 0, slope = alibi ? lk_alibi_slope(h, heads) : 0;
                for (int64_t j = 0; j < end; j++) {
                    double dot = 0;
                    for (int l = 0; l < dim; l++) dot += qi[l] * k[j * kv_width + l];
                    s[j] = scale * dot - slope * fabs((double)(at - j));
                    if (s[j] > most) most = s[j];
                }
                for (int64_t j = 0; j < end; j++) sum += s[j] = exp(s[j] - most);
                double *out = y + (b * time + i) * heads * dim + (int64_t)h * dim;
                for (int l = 0; l < dim; l++) out[l] = 0;
                for (int64_t j = 0; j < end; j++) {
                    uint64_t element = (uint64_t)(((b * heads + h) * time + i) * keys + j);
                    double weight = s[j] / sum * ref_keep(draw, element);
                    for (int l = 0; l < dim; l++) out[l] += weight * v[j * kv_width + l];
                }
            }
    free(s);
}

double ref_xent(int64_t n, int64_t v, int64_t classes, const double *logits, const double *targets)
{
    double loss = 0;
    for (int64_t i = 0; i < n; i++) {
        const double *row = logits + i * v;
        double most = row[0], sum = 0;
        for (int64_t j = 1; j < classes; j++) most = row[j] > most ? row[j] : most;
        for (int64_t j = 0; j < classes; j++) sum += exp(row[j] - most);
        loss += (most + log(sum) - row[(int64_t)targets[i]]) / (double)n;
    }
    return loss;
}

static double learning_rate(const lk_optimizer *o, uint64_t t)
{
    if (t < o->warmup) return (double)o->lr * (double)(t + 1) / (double)(o->warmup + 1);
    if (t >= o->steps) return (double)o->min_lr;
    double x = (double)(t - o->warmup) / (double)(o->steps - o->warmup);
    return (double)o->min_lr +
           ((double)o->lr - (double)o->min_lr) * (1 + cos(3.14159265358979323846 * x)) / 2;
}

static void ref_average(const ref_optimizer_state *s, const lk_optimizer *o, int64_t n,
                        const double *param, double *ema)
{
    double t = (double)s->updates, decay = fmin((1 + t) / (10 + t), (double)o->ema);
    for (int64_t i = 0; i < n; i++) ema[i] = decay * ema[i] + (1 - decay) * param[i];
}

void ref_step(ref_optimizer_state *s, const lk_optimizer *o, const lk_params *p,
              const double *grad, double loss_sum, double *param, double *moment1, double *moment2,
              double *ema)
{
    double square = 0;
    for (int64_t i = 0; i < p->learned; i++) square += grad[i] * grad[i];
    double factor = 1 / (s->loss_scale * o->leaves);
    s->loss = loss_sum / o->leaves;
    s->grad_norm = sqrt(square) * factor;
    s->lr = learning_rate(o, s->step);
    s->finite = isfinite(square);
    s->step++;
    if (!s->finite) {
        s->skipped++;
        s->good_steps = 0;
        if (o->scaling && s->loss_scale * (double)o->backoff >= 1)
            s->loss_scale *= (double)o->backoff;
        return;
    }
    if (o->clip > 0 && s->grad_norm > (double)o->clip) factor *= (double)o->clip / s->grad_norm;
    double b1 = (double)o->beta1, b2 = (double)o->beta2, t = (double)s->updates + 1;
    for (int64_t i = 0; i < p->learned; i++) {
        double g = grad[i] * factor;
        moment1[i] = b1 * moment1[i] + (1 - b1) * g;
        moment2[i] = b2 * moment2[i] + (1 - b2) * g * g;
        double update = moment1[i] / (1 - pow(b1, t)) /
                        (sqrt(moment2[i] / (1 - pow(b2, t))) + (double)o->eps);
        double decay = i < p->decayed ? (double)o->weight_decay : 0;
        param[i] -= s->lr * (update + decay * param[i]);
    }
    double momentum = (double)o->momentum;
    for (int64_t i = p->learned; i < p->total; i++)
        param[i] = (1 - momentum) * param[i] + momentum * grad[i] / o->leaves;
    if (ema) ref_average(s, o, p->total, param, ema);
    s->updates++;
    if (o->scaling && ++s->good_steps >= o->growth_interval) {
        s->good_steps = 0;
        if (s->loss_scale * (double)o->growth <= (double)o->max_scale)
            s->loss_scale *= (double)o->growth;
    }
}
