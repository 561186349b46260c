/* Models of images, and of images with texts: parameters and multiply-adds against the tables of
 * the papers, counted here by themselves; every variant is built, its gradient is the slope of its
 * loss in the direction of each parameter, and it learns a batch by heart. On the CPU and on a GPU
 * if there is one. */
#include "model/fusion.h"
#include "model/vision.h"
#include "program/program.h"
#include "tests/ops_help.h"

#include <omp.h>

/* ---- sizes ----------------------------------------------------------------------------------- */

/* What a layer adds: learned parameters, and multiply-adds of convolutions and linear layers. */
typedef struct sum {
    int64_t parameters, products;
} sum;

static int64_t made(int64_t n, int64_t stride) { return (n + stride - 1) / stride; }

/* A convolution without bias to `side` x `side` pixels, and its batch norm. */
static void add_conv(sum *s, int64_t side, int64_t size, int64_t in, int64_t out)
{
    s->parameters += size * size * in * out + 2 * out;
    s->products += side * side * size * size * in * out;
}

static void add_dense(sum *s, int64_t in, int64_t out)
{
    s->parameters += in * out + out;
    s->products += in * out;
}

/* The nearest multiple of 8, but not below 90 %; at least 8. In hundredths, to be exact. */
static int64_t wide(int64_t width, int64_t hundredths)
{
    int64_t scaled = width * hundredths, rounded = (scaled + 400) / 800 * 8;
    if (rounded < 8) rounded = 8;
    return rounded * 1000 < scaled * 9 ? rounded + 8 : rounded;
}

/* Table 1 (large) and 2 (small) of "Searching for MobileNetV3": kernel, expansion, output, SE,
 * stride. */
static const int16_t large[][5] = {
    {3, 16, 16, 0, 1},   {3, 64, 24, 0, 2},   {3, 72, 24, 0, 1},   {5, 72, 40, 1, 2},
    {5, 120, 40, 1, 1},  {5, 120, 40, 1, 1},  {3, 240, 80, 0, 2},  {3, 200, 80, 0, 1},
    {3, 184, 80, 0, 1},  {3, 184, 80, 0, 1},  {3, 480, 112, 1, 1}, {3, 672, 112, 1, 1},
    {5, 672, 160, 1, 2}, {5, 960, 160, 1, 1}, {5, 960, 160, 1, 1}, {0}};
static const int16_t small[][5] = {
    {3, 16, 16, 1, 2},  {3, 72, 24, 0, 2},  {3, 88, 24, 0, 1},  {5, 96, 40, 1, 2},
    {5, 240, 40, 1, 1}, {5, 240, 40, 1, 1}, {5, 120, 48, 1, 1}, {5, 144, 48, 1, 1},
    {5, 288, 96, 1, 2}, {5, 576, 96, 1, 1}, {5, 576, 96, 1, 1}, {0}};

/* "ECA-Net", equation 12: log2(c)/2 + 1/2 without its fraction, and one more where that is even. */
static int64_t eca_size(int64_t c)
{
    int64_t size = 1;
    while (((int64_t)1 << (2 * (size + 1))) / 2 <= c) size++; /* floor of (log2 c + 1) / 2 */
    return size % 2 ? size : size + 1;
}

static void add_attention(sum *s, const char *attention, int64_t c)
{
    int64_t squeezed = wide(c / 4, 100);
    if (strcmp(attention, "se") == 0) {
        add_dense(s, c, squeezed);
        add_dense(s, squeezed, c);
    } else if (strcmp(attention, "eca") == 0) {
        s->parameters += eca_size(c);
        s->products += eca_size(c) * c;
    }
}

static sum mobilenet(const lk_vision *m, int64_t side, int64_t channels)
{
    int64_t h = (int64_t)(m->multiplier * 100 + 0.5), in = wide(16, h), last, hidden;
    bool is_large = strcmp(m->size, "large") == 0;
    sum s = {0, 0};
    side = made(side, m->stem_stride);
    add_conv(&s, side, 3, channels, in);
    for (const int16_t(*b)[5] = is_large ? large : small; (*b)[0]; b++) {
        int64_t size = (*b)[0], e = wide((*b)[1], h), out = wide((*b)[2], h);
        if (e != in) add_conv(&s, side, 1, in, e);
        side = made(side, (*b)[4]);
        s.parameters += size * size * e + 2 * e;
        s.products += side * side * size * size * e;
        if ((*b)[3]) add_attention(&s, m->attention, e);
        add_conv(&s, side, 1, e, out);
        in = out;
    }
    last = 6 * in;
    hidden = wide(is_large ? 1280 : 1024, h);
    add_conv(&s, side, 1, in, last);
    add_dense(&s, last, hidden);
    add_dense(&s, hidden, m->classes);
    return s;
}

/* Table 1 of "Deep residual learning", 18 layers; projections where the shape changes. */
static sum resnet(const lk_vision *m, int64_t side, int64_t channels)
{
    int64_t h = (int64_t)(m->multiplier * 100 + 0.5), in = wide(64, h);
    sum s = {0, 0};
    side = made(side, m->stem_stride);
    add_conv(&s, side, m->stem_stride == 2 ? 7 : 3, channels, in);
    if (m->stem_stride == 2) side = made(side, 2);
    for (int i = 0; i < 8; i++) {
        int64_t out = wide(64 << i / 2, h), stride = i > 0 && i % 2 == 0 ? 2 : 1;
        side = made(side, stride);
        add_conv(&s, side, 3, in, out);
        add_conv(&s, side, 3, out, out);
        if (stride == 2) add_conv(&s, side, 1, in, out);
        in = out;
    }
    add_dense(&s, in, m->classes);
    return s;
}

/* What a graph has; the products by the ops' cost rules. */
static sum sum_of(const lk_params *params, const lk_graph *g)
{
    sum s = {0, 0};
    double products = 0;
    for (int i = 0; i < params->count; i++)
        if (!params->item[i]->statistic) s.parameters += params->item[i]->count;
    for (const lk_node *n = g->first; n; n = n->next) {
        double flops, bytes;
        lk_op_cost(n, &flops, &bytes);
        bool counts = n->op == LK_OP_CONV || n->op == LK_OP_DWCONV || n->op == LK_OP_LINEAR ||
                      n->op == LK_OP_CHANNEL_CONV || n->op == LK_OP_EXCITE;
        if (counts) products += flops / 2;
    }
    s.products = (int64_t)products;
    return s;
}

/* Of one image. */
static lk_status measure(const lk_vision *m, int64_t side, int64_t channels, sum *s)
{
    lk_params *params = lk_params_create();
    lk_graph *g = lk_graph_create(params, false);
    lk_tensor *x = lk_input(g, "x", LK_F32, 4, (int64_t[]){1, side, side, channels});
    lk_vision_logits(g, m, x);
    *s = sum_of(params, g);
    lk_status status = lk_graph_status(g);
    lk_graph_destroy(g);
    lk_params_destroy(params);
    return status;
}

static const lk_vision plain = {.kind = "mobilenetv3", .size = "small", .multiplier = 1,
                                .stem_stride = 2, .attention = "se", .norm = "batchnorm",
                                .norm_eps = 1e-5f, .classes = 1000};

/* `known`: parameters as published with torchvision; 0: not published. Multiply-adds must lie in
 * [low, high] million, which is what papers say. */
static void check_size(lk_vision m, int64_t side, int64_t channels, int64_t known, double low,
                       double high)
{
    bool mobile = strcmp(m.kind, "mobilenetv3") == 0;
    sum expected = mobile ? mobilenet(&m, side, channels) : resnet(&m, side, channels);
    sum found = {0, 0};
    lk_status status = measure(&m, side, channels, &found);
    double million = 1e-6 * (double)found.products;
    bool same = status == LK_OK && found.parameters == expected.parameters &&
                found.products == expected.products;
    tap_ok(same && (!known || found.parameters == known) && million >= low && million <= high,
           "%s%s%s%s%s x%g, stem %d, %lld classes, %lld x %lld x %lld: %lld parameters, %lld "
           "multiply-adds %s", m.kind, mobile ? " " : "", mobile ? m.size : "", mobile ? " " : "",
           mobile ? m.attention : "", m.multiplier, m.stem_stride, (long long)m.classes,
           (long long)side, (long long)side, (long long)channels, (long long)found.parameters,
           (long long)found.products, lk_error_text());
    if (!same)
        printf("# expected %lld and %lld\n", (long long)expected.parameters,
               (long long)expected.products);
}

static void check_sizes(void)
{
    static const char *const attention[] = {"se", "none", "eca"};
    lk_vision m = plain;
    check_size(m, 224, 3, 2542856, 56, 57);
    m.size = "large";
    check_size(m, 224, 3, 5483032, 216.5, 219);
    m.kind = "resnet18";
    check_size(m, 224, 3, 11689512, 1814, 1815);
    m.stem_stride = 1;
    m.classes = 10;
    check_size(m, 32, 3, 11173962, 555, 557); /* the form usual for CIFAR-10 */
    for (int i = 0; i < 12; i++) {
        m = plain;
        m.multiplier = (double[]){0.25, 0.35, 0.5, 0.75, 1.25, 2}[i % 6];
        m.size = i % 2 ? "large" : "small";
        m.attention = attention[i % 3];
        m.stem_stride = 1 + i / 3 % 2;
        m.classes = 2 + i;
        if (i >= 9) m.kind = "resnet18";
        check_size(m, 17 + 4 * i, 1 + i % 4, 0, 0, 1e9);
    }
}

/* ---- images with texts ----------------------------------------------------------------------- */

static const lk_fusion joined = {
    .block = {.layers = 4, .width = 384, .heads = 6, .context = 64, .position = "learned",
              .norm = "layernorm", .ffn = "gelu", .bias = true, .norm_eps = 1e-5f,
              .vocabulary = 8192, .rope_theta = 10000},
    .image_layers = 4, .cross_layers = 4, .patch = 16, .classes = 1000};

/* Of bias, layernorm, gelu of four times the width and learned positions. A block: 4 C^2 of
 * attention, 8 C^2 of the feed-forward, as many multiply-adds for each of its tokens, but for k and
 * v of cross-attention, of which there is one for each patch; biases 9 C, two norms of 2 C. */
static sum fusion_sum(const lk_fusion *m, int64_t side, int64_t channels)
{
    int64_t c = m->block.width, text = m->block.context, patches = side / m->patch;
    int64_t image = patches * patches, pixels = m->patch * m->patch * channels;
    int64_t blocks = m->block.layers + m->image_layers + m->cross_layers;
    sum s = {blocks * (12 * c * c + 13 * c), 0};
    s.parameters += m->block.vocabulary * c + text * c + image * c + pixels * c;
    s.parameters += 2 * 2 * c; /* norms after the image and before the classifier */
    s.products = 12 * c * c * (m->block.layers * text + m->image_layers * image);
    s.products += m->cross_layers * c * c * (10 * text + 2 * image) + image * pixels * c;
    add_dense(&s, c, m->classes);
    return s;
}

static void check_fusion_size(lk_fusion m, int64_t side, int64_t channels)
{
    sum expected = fusion_sum(&m, side, channels), found = {0, 0};
    lk_params *params = lk_params_create();
    lk_graph *g = lk_graph_create(params, false);
    lk_fusion_logits(g, &m, lk_input(g, "x", LK_F32, 4, (int64_t[]){1, side, side, channels}),
                     lk_input(g, "tokens", LK_I32, 2, (int64_t[]){1, m.block.context}));
    found = sum_of(params, g);
    tap_ok(lk_graph_status(g) == LK_OK && found.parameters == expected.parameters &&
               found.products == expected.products,
           "fusion, %lld + %lld + %lld blocks of %lld, %lld x %lld x %lld: %lld parameters, %lld "
           "multiply-adds, expected %lld and %lld %s", (long long)m.image_layers,
           (long long)m.block.layers, (long long)m.cross_layers, (long long)m.block.width,
           (long long)side, (long long)side, (long long)channels, (long long)found.parameters,
           (long long)found.products, (long long)expected.parameters,
           (long long)expected.products, lk_error_text());
    lk_graph_destroy(g);
    lk_params_destroy(params);
    lk_error_clear();
}

/* Images that are no whole number of patches. */
static void check_patches(void)
{
    lk_params *params = lk_params_create();
    lk_graph *g = lk_graph_create(params, false);
    lk_tensor *y = lk_fusion_logits(g, &joined,
                                    lk_input(g, "x", LK_F32, 4, (int64_t[]){1, 32, 40, 3}),
                                    lk_input(g, "tokens", LK_I32, 2, (int64_t[]){1, 64}));
    tap_ok(!y && strstr(lk_error_text(), "cannot be cut into patches of 16 x 16 pixels"),
           "images that patches do not fill: %s", lk_error_text());
    lk_graph_destroy(g);
    lk_params_destroy(params);
    lk_error_clear();
}

static void check_fusion_sizes(void)
{
    lk_fusion m = joined;
    check_fusion_size(m, 224, 3);
    m.image_layers = 1;
    m.cross_layers = 3;
    m.block.layers = 2;
    m.block.width = 48;
    m.block.context = 5;
    m.block.vocabulary = 19;
    m.patch = 4;
    check_fusion_size(m, 12, 1);
    check_patches();
}

/* ---- stochastic depth ------------------------------------------------------------------------ */

/* Probabilities grow in proportion to the block's number; the last block's is the one asked for. */
static void check_depth(lk_vision m, int blocks)
{
    m.stochastic_depth = 0.2f;
    lk_params *params = lk_params_create();
    lk_graph *g = lk_graph_create(params, true);
    lk_vision_logits(g, &m, lk_input(g, "x", LK_F32, 4, (int64_t[]){2, 32, 32, 3}));
    bool good = lk_graph_status(g) == LK_OK;
    int residuals = 0, last = -1;
    for (const lk_node *n = g->first; n; n = n->next) {
        if (n->op != LK_OP_RESIDUAL) continue;
        last = atoi(n->scope + strlen("blocks."));
        int64_t sample = lk_count(n->out[0]) / 2;
        double expected = 0.2 * (last + 1) / blocks;
        good &= fabs((double)n->attr.dropout.p - expected) < 1e-6;
        good &= n->attr.dropout.group == sample;
        residuals++;
    }
    tap_ok(good && last == blocks - 1 && residuals > 1,
           "%s, %d blocks: %d residual ones are left out, deeper ones more often", m.kind, blocks,
           residuals);
    lk_graph_destroy(g);
    lk_params_destroy(params);
}

/* ---- computation ----------------------------------------------------------------------------- */

enum { BATCH = 8, CLASSES = 5, FITTING = 40, WORDS = 13, MOST_TEXT = 7 };

typedef struct trial {
    lk_device *device;
    const lk_vision *m;
    const lk_fusion *fusion; /* NULL: m */
    int64_t side, channels;
    lk_params *params;
    lk_graph *graph;
    int inputs;
    lk_tensor *input[4]; /* images, targets, labels; of fusion tokens */
    lk_tensor *loss;
    void *memory[4];
    lk_store *store;
    lk_program *program;
    float *param, *gradient; /* on the host, params->total */
} trial;

static lk_status build(trial *t, lk_dtype type, bool optimizer)
{
    t->params = lk_params_create();
    lk_graph *g = t->graph = lk_graph_create(t->params, true);
    int64_t image[4] = {BATCH, t->side, t->side, t->channels}, share[2] = {BATCH, CLASSES};
    t->input[0] = lk_input(g, "x", LK_F32, 4, image);
    t->input[1] = lk_input(g, "targets", LK_F32, 2, share);
    t->input[2] = lk_input(g, "labels", LK_I32, 1, image);
    t->inputs = 3;
    if (t->fusion)
        t->input[t->inputs++] =
            lk_input(g, "tokens", LK_I32, 2, (int64_t[]){BATCH, t->fusion->block.context});
    lk_tensor *logits = t->fusion ? lk_fusion_logits(g, t->fusion, t->input[0], t->input[3])
                                  : lk_vision_logits(g, t->m, t->input[0]);
    t->loss = lk_soft_cross_entropy(g, logits, t->input[1], t->input[2], NULL);
    lk_graph_metric(g, t->loss, LK_METRIC_LOSS);
    LK_TRY(lk_autocast(g, type));
    LK_TRY(lk_autodiff(g, t->loss, lk_loss_scale(g), 0, NULL, NULL));
    LK_TRY(lk_fuse(g));
    lk_params_layout(t->params);
    lk_optimizer hyper = {.lr = 5e-3f, .min_lr = 5e-3f, .steps = FITTING, .beta1 = 0.9f,
                          .beta2 = 0.99f, .eps = 1e-8f, .clip = 1, .momentum = 0.1f, .leaves = 1,
                          .scaling = type == LK_F16, .growth = 2, .backoff = 0.5f,
                          .growth_interval = 1000, .max_scale = 65536};
    if (optimizer) LK_TRY(lk_optimize(g, &hyper));
    return lk_graph_status(g);
}

/* Images whose channel means tell their class, with noise. */
static lk_status bind(trial *t)
{
    const lk_backend *b = t->device->backend;
    int64_t pixels = t->side * t->side * t->channels;
    float *x = allocate((size_t)(BATCH * pixels) * sizeof *x);
    float targets[BATCH * CLASSES] = {0};
    int32_t labels[BATCH];
    for (int i = 0; i < BATCH; i++) {
        labels[i] = i % CLASSES;
        for (int k = 0; k < CLASSES; k++)
            targets[i * CLASSES + k] = (k == labels[i] ? 0.9f : 0) + 0.1f / CLASSES;
        for (int64_t k = 0; k < pixels; k++)
            x[i * pixels + k] = (float)normal(1, i * pixels + k) +
                                (k * CLASSES / pixels == labels[i] ? 2.0f : 0.0f);
    }
    int32_t tokens[BATCH * MOST_TEXT];
    for (int i = 0; i < BATCH * MOST_TEXT; i++) tokens[i] = i * i % WORDS;
    const void *host[4] = {x, targets, labels, tokens};
    lk_status status = LK_OK;
    for (int i = 0; i < t->inputs && status == LK_OK; i++) {
        size_t bytes = lk_bytes(t->input[i]);
        status = b->alloc(t->device, bytes, &t->memory[i]);
        if (status == LK_OK) status = b->upload(t->device, t->memory[i], host[i], bytes);
        lk_program_bind(t->program, t->input[i], 0, t->memory[i]);
    }
    if (status == LK_OK) status = b->sync(t->device);
    free(x);
    return status;
}

static lk_status open_trial(trial *t, lk_dtype type, bool optimizer)
{
    LK_TRY(build(t, type, optimizer));
    lk_store_options o = {.compute = type, .training = true, .local_leaves = 1};
    LK_TRY(lk_store_create(t->device, t->params, &o, &t->store));
    t->param = allocate((size_t)t->params->total * sizeof(float));
    t->gradient = allocate((size_t)t->params->total * sizeof(float));
    lk_params_initialise(t->params, 7, t->param);
    LK_TRY(lk_store_set(t->store, &(lk_flat){.param = t->param, .moment1 = t->gradient,
                                             .moment2 = t->gradient}));
    lk_step_state state = {.loss_scale = type == LK_F16 ? 1024 : 1};
    LK_TRY(lk_store_set_state(t->store, &state));
    lk_program_options options = {.seed = 9, .local_leaves = 1};
    LK_TRY(lk_program_create(t->graph, t->store, &options, &t->program));
    return bind(t);
}

static void close_trial(trial *t)
{
    lk_program_destroy(t->program);
    lk_store_destroy(t->store);
    for (int i = 0; i < t->inputs; i++)
        if (t->memory[i]) t->device->backend->release(t->device, t->memory[i]);
    lk_graph_destroy(t->graph);
    lk_params_destroy(t->params);
    free(t->param);
    free(t->gradient);
}

/* One run; its loss, and the gradient if `gradient`. */
static double run(trial *t, bool gradient)
{
    const lk_backend *b = t->device->backend;
    float loss = NAN;
    lk_status status = lk_program_run(t->program);
    if (status == LK_OK)
        status = b->download(t->device, &loss, lk_program_data(t->program, t->loss), sizeof loss);
    if (status == LK_OK && gradient)
        status = b->download(t->device, t->gradient, t->store->gradient[0],
                             (size_t)t->params->total * sizeof(float));
    if (status == LK_OK) status = b->sync(t->device);
    return status == LK_OK ? (double)loss : NAN;
}

/* Largest size of the gradient of parameter p; NAN if it is not finite. For statistics: of what was
 * measured. */
static double largest(const trial *t, const lk_param *p)
{
    double most = 0;
    for (int64_t i = 0; i < p->count; i++) {
        double v = fabs((double)t->gradient[p->offset + i]);
        if (!isfinite(v)) return NAN;
        if (v > most) most = v;
    }
    return most;
}

/* Every parameter has a gradient and every statistic is measured. */
static bool all_reached(const trial *t)
{
    bool good = true;
    for (int i = 0; i < t->params->count; i++) {
        const lk_param *p = t->params->item[i];
        if (largest(t, p) > 0) continue;
        printf("# nothing reaches %s\n", p->name);
        good = false;
    }
    return good;
}

/* The loss at a distance from parameter p's value, along its gradient. */
static double loss_beyond(trial *t, const lk_param *p, double distance, double norm)
{
    float *at = allocate((size_t)t->params->total * sizeof(float));
    memcpy(at, t->param, (size_t)t->params->total * sizeof(float));
    for (int64_t i = p->offset; i < p->offset + p->count; i++)
        at[i] += (float)(distance / norm * (double)t->gradient[i]);
    lk_status status = lk_store_set(t->store, &(lk_flat){.param = at});
    free(at);
    return status == LK_OK ? run(t, false) : NAN;
}

/* Relative error of the gradient's norm against differences of the loss along it, the least at a
 * few distances: far off the loss bends, near by it is only known to some 1e-7. NAN: too flat to
 * see. */
static double slope_error(trial *t, const lk_param *p)
{
    double norm = 0, size = 0, least = NAN;
    for (int64_t k = p->offset; k < p->offset + p->count; k++) {
        norm += (double)t->gradient[k] * (double)t->gradient[k];
        size += (double)t->param[k] * (double)t->param[k];
    }
    norm = sqrt(norm);
    double step = 1e-3 * (sqrt(size) + 0.1);
    for (int i = 0; i < 6 && 2 * step * norm > 3e-5 && !(least < 0.01); i++, step /= 3) {
        double rise = loss_beyond(t, p, step, norm) - loss_beyond(t, p, -step, norm);
        double error = fabs(rise / (2 * step) / norm - 1);
        if (!(error > least)) least = error;
    }
    return least;
}

/* The worst over all parameters; *seen: of so many. A larger classifier than at the start of
 * training lets gradients through. */
static double worst_slope(trial *t, int *seen)
{
    double worst = 0;
    const lk_param *classifier = lk_params_find(t->params, "head.classifier.weight");
    for (int64_t i = 0; i < classifier->count; i++) t->param[classifier->offset + i] *= 30;
    if (lk_store_set(t->store, &(lk_flat){.param = t->param}) != LK_OK || isnan(run(t, true)))
        return NAN;
    for (int i = 0; i < t->params->count; i++) {
        const lk_param *p = t->params->item[i];
        double error = p->statistic ? NAN : slope_error(t, p);
        if (isnan(error)) continue;
        if (error > worst) worst = error;
        if (error > 0.05) printf("# %s: %g\n", p->name, error);
        ++*seen;
    }
    return worst;
}

typedef struct variant {
    lk_vision m;
    const lk_fusion *fusion; /* NULL: m */
    int64_t side, channels;
} variant;

static void name_of(const variant *v, lk_device *d, lk_dtype type, char text[200])
{
    const lk_vision *m = &v->m;
    if (v->fusion) {
        const lk_transformer *b = &v->fusion->block;
        snprintf(text, 200, "%s %s: fusion %s, %s, %s, %d of %d heads, dropout %g",
                 d->backend->name, lk_dtype_name(type), b->position, b->norm, b->ffn, b->kv_heads,
                 b->heads, (double)b->dropout);
        return;
    }
    bool mobile = strcmp(m->kind, "mobilenetv3") == 0;
    snprintf(text, 200, "%s %s: %s%s%s x%g, %s%s%s, stem %d, dropout %g, %lld x %lld x %lld",
             d->backend->name, lk_dtype_name(type), m->kind, mobile ? " " : "",
             mobile ? m->size : "", m->multiplier, mobile ? m->attention : "",
             mobile ? ", " : "", m->norm, m->stem_stride, (double)m->dropout, (long long)v->side,
             (long long)v->side, (long long)v->channels);
}

/* At least so many parameters are not too flat to be seen. */
static void check_gradient(lk_device *d, const variant *v, int least)
{
    char what[200];
    trial t = {.device = d, .m = &v->m, .fusion = v->fusion, .side = v->side,
               .channels = v->channels};
    name_of(v, d, LK_F32, what);
    lk_status status = open_trial(&t, LK_F32, false);
    int seen = 0;
    double worst = status == LK_OK ? worst_slope(&t, &seen) : NAN;
    tap_ok(worst < 0.05 && seen >= least,
           "%s: the gradient is the slope of the loss (%d parameters, worst error %.3f) %s", what,
           seen, worst, lk_error_text());
    close_trial(&t);
}

static void check_fit(lk_device *d, const variant *v, lk_dtype type)
{
    char what[200];
    trial t = {.device = d, .m = &v->m, .fusion = v->fusion, .side = v->side,
               .channels = v->channels};
    name_of(v, d, type, what);
    lk_status status = open_trial(&t, type, true);
    double first = status == LK_OK ? run(&t, true) : NAN, last = first;
    bool near = fabs(first - log(CLASSES)) < 0.3, reached = status == LK_OK && all_reached(&t);
    for (int i = 1; i < FITTING && status == LK_OK; i++) last = run(&t, false);
    /* smoothed targets keep the loss above 0.39 */
    tap_ok(near && reached && last < 0.8, "%s: a batch is learnt, loss %.3f to %.3f %s", what,
           first, last, lk_error_text());
    close_trial(&t);
}

static void check_fusion(lk_device *d)
{
    static const char *const part[][3] = {{"learned", "layernorm", "gelu"},
                                          {"rope", "rmsnorm", "swiglu"},
                                          {"alibi", "layernorm", "swiglu"},
                                          {"sinusoidal", "rmsnorm", "gelu"}};
    for (int i = 0; i < 4; i++) {
        lk_fusion m = {.block = {.layers = 1, .width = 32, .heads = 2, .kv_heads = 1 + i % 2,
                                 .context = MOST_TEXT, .position = part[i][0], .norm = part[i][1],
                                 .ffn = part[i][2], .bias = i % 2 == 0, .norm_eps = 1e-5f,
                                 .rope_theta = 10000, .vocabulary = WORDS},
                       .image_layers = 1, .cross_layers = 2, .patch = 4, .classes = CLASSES};
        variant v = {.fusion = &m, .side = 12, .channels = 1 + 2 * (i % 2)};
        check_gradient(d, &v, 20);
        m.block.dropout = i % 2 ? 0.05f : 0;
        check_fit(d, &v, LK_F32);
        check_fit(d, &v, i % 2 ? LK_BF16 : LK_F16);
    }
}

static void check_device(lk_device *d)
{
    /* the sides leave 1 x 1 or 2 x 2 pixels before the head */
    variant v[] = {{plain, NULL, 36, 3}, {plain, NULL, 12, 1}, {plain, NULL, 9, 4},
                   {plain, NULL, 16, 3}, {plain, NULL, 12, 3}, {plain, NULL, 16, 1},
                   {plain, NULL, 12, 3}};
    enum { VARIANTS = sizeof v / sizeof *v };
    for (int i = 0; i < VARIANTS; i++) {
        v[i].m.classes = CLASSES;
        v[i].m.multiplier = i % 2 ? 0.35 : 0.25;
    }
    v[1].m.stem_stride = 1;
    v[1].m.attention = "eca";
    v[2].m.size = "large";
    v[2].m.attention = "none";
    v[3].m.norm = "layernorm";
    v[4].m.norm = "rmsnorm";
    v[4].m.attention = "eca";
    v[5].m.kind = v[6].m.kind = "resnet18";
    v[5].m.multiplier = v[6].m.multiplier = 0.125;
    v[6].m.stem_stride = 1;
    for (int i = 0; i < VARIANTS; i++) {
        check_gradient(d, &v[i], 41);
        v[i].m.dropout = v[i].m.stochastic_depth = i % 2 ? 0.1f : 0;
        check_fit(d, &v[i], LK_F32);
        check_fit(d, &v[i], i % 2 ? LK_BF16 : LK_F16);
    }
    check_fusion(d);
}

int main(void)
{
    omp_set_num_threads(1); /* at these sizes more would only wait for each other */
    check_sizes();
    check_fusion_sizes();
    lk_vision m = plain;
    check_depth(m, 11);
    m.size = "large";
    check_depth(m, 15);
    m.kind = "resnet18";
    check_depth(m, 8);
    lk_device *d = NULL;
    if (tap_ok(lk_backend_cpu.open(1, &d) == LK_OK, "the CPU opens")) check_device(d);
    if (d) d->backend->close(d);
    d = open_cuda();
    if (d) check_device(d);
    if (d) d->backend->close(d);
    return tap_done();
}
