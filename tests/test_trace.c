/* What watches a program, on the CPU: observers are told of every node and sum, in order; a watched
 * step has the bits of one that is not; a trace's nodes add up to its steps; sums and events of a
 * trace made by hand are right; the first value that is not finite is found, and an overflow under
 * loss scaling is not taken for one. And the FLOPs of GPT-2 are those of the papers. */
#include "base/clock.h"
#include "ops/ops.h"
#include "tests/tap.h"
#include "trace/anomaly.h"
#include "trace/trace.h"
#include "train/session.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { LEAVES = 4, SHARD = 1000, STEPS = 3 };

/* ---- a model that trains on the CPU ---------------------------------------------------------- */

static const lk_model model = {.text = {.layers = 4,
                                        .width = 64,
                                        .context = 32,
                                        .heads = 4,
                                        .kv_heads = 4,
                                        .position = "alibi",
                                        .norm = "layernorm",
                                        .ffn = "gelu",
                                        .bias = true,
                                        .tied = true,
                                        .rope_theta = 10000,
                                        .norm_eps = 1e-5f,
                                        .vocabulary = 37}};
static const lk_source source = {.batch = 4,
                                 .context = 32,
                                 .type = LK_U8,
                                 .resident = true,
                                 .shard_rows = SHARD,
                                 .purpose = LK_PURPOSE_ORDER,
                                 .local_leaves = LEAVES};

typedef struct rig {
    lk_device *device;
    lk_params *params;
    lk_loss_graph graph;
    lk_store *store;
    lk_program *program;
    void *tokens;
    int nodes, leaf_nodes;
} rig;

static lk_status make(rig *r, lk_dtype type, bool apart)
{
    lk_optimizer hyper = {.lr = 1e-3f,
                          .steps = 10,
                          .beta1 = 0.9f,
                          .beta2 = 0.99f,
                          .eps = 1e-8f,
                          .clip = 1,
                          .leaves = LEAVES,
                          .scaling = type == LK_F16,
                          .growth = 2,
                          .backoff = 0.5f,
                          .growth_interval = 100,
                          .max_scale = 65536};
    lk_passes passes = {.compute = type, .training = true};
    lk_program_options o = {.seed = 1, .local_leaves = LEAVES};
    *r = (rig){.params = lk_params_create()};
    LK_TRY(lk_backend_cpu.open(1, &r->device));
    LK_TRY(lk_session_loss_graph(r->params, &model, &source, &passes, &r->graph));
    lk_params_layout(r->params);
    LK_TRY(lk_optimize(r->graph.graph, &hyper));
    r->graph.graph->apart = apart;
    LK_TRY(lk_store_create(
        r->device, r->params,
        &(lk_store_options){.compute = type, .training = true, .local_leaves = LEAVES}, &r->store));
    LK_TRY(lk_program_create(r->graph.graph, r->store, &o, &r->program));
    LK_TRY(lk_backend_cpu.alloc(r->device, LEAVES * SHARD, &r->tokens));
    for (int i = 0; i < LEAVES * SHARD; i++) ((uint8_t *)r->tokens)[i] = (uint8_t)(i * 7 % 37);
    for (int i = 0; i < LEAVES; i++)
        lk_program_bind(r->program, r->graph.field[0], i, r->tokens);
    for (const lk_node *n = r->graph.graph->first; n; n = n->next) {
        r->nodes++;
        r->leaf_nodes += n->section == LK_LEAF;
    }
    return LK_OK;
}

static void destroy(rig *r)
{
    lk_program_destroy(r->program);
    if (r->tokens) r->device->backend->release(r->device, r->tokens);
    lk_store_destroy(r->store);
    lk_graph_destroy(r->graph.graph);
    lk_params_destroy(r->params);
    if (r->device) r->device->backend->close(r->device);
}

/* The initial values, but for element `at` of `name` if that is given. */
static lk_status begin(rig *r, const char *name, int64_t at, float value, float scale)
{
    float *host = calloc((size_t)r->params->total, 2 * sizeof *host);
    float *zeros = host + r->params->total;
    lk_params_initialise(r->params, 3, host);
    if (name) host[lk_params_find(r->params, name)->offset + at] = value;
    lk_status status =
        lk_store_set(r->store, &(lk_flat){.param = host, .moment1 = zeros, .moment2 = zeros});
    free(host);
    if (status != LK_OK) return status;
    return lk_store_set_state(r->store, &(lk_step_state){.loss_scale = scale});
}

/* ---- observers ------------------------------------------------------------------------------- */

typedef struct counter {
    lk_observer observer; /* first */
    int begun, ended, sums, runs, run_ends, disorder;
    const lk_node *inside;
    const char *fail_at; /* scope of the node at whose end to fail */
} counter;

static lk_status count_begin(lk_observer *o, const lk_exec *x, const lk_node *n)
{
    counter *c = (counter *)o;
    (void)x;
    if (c->inside) c->disorder++;
    c->inside = n;
    c->begun++;
    c->sums += n == NULL;
    return LK_OK;
}

static lk_status count_end(lk_observer *o, const lk_exec *x, const lk_node *n)
{
    counter *c = (counter *)o;
    (void)x;
    if (c->inside != n) c->disorder++;
    c->inside = NULL;
    c->ended++;
    if (n && c->fail_at && strcmp(n->scope, c->fail_at) == 0)
        return lk_fail(LK_E_INTERNAL, "stopped at %s", n->scope);
    return LK_OK;
}

static lk_status count_run(lk_observer *o)
{
    ((counter *)o)->runs++;
    return LK_OK;
}

static lk_status count_run_end(lk_observer *o)
{
    ((counter *)o)->run_ends++;
    return LK_OK;
}

static const lk_observer_calls counting = {count_begin, count_end, count_run, count_run_end};

static void test_observers(void)
{
    rig r;
    counter a = {.observer.calls = &counting}, b = {.observer.calls = &counting};
    const lk_observer_calls nothing = {NULL, NULL, NULL, NULL};
    lk_observer idle = {.calls = &nothing};
    lk_status status = make(&r, LK_F32, false);
    if (status == LK_OK) status = begin(&r, NULL, 0, 0, 1);
    lk_program_observe(r.program, &a.observer);
    lk_program_observe(r.program, &idle);
    lk_program_observe(r.program, &b.observer);
    if (status == LK_OK) status = lk_program_run(r.program);
    int expected = r.leaf_nodes * LEAVES + (r.nodes - r.leaf_nodes) + LEAVES - 1;
    tap_ok(status == LK_OK && a.begun == expected && a.ended == expected && b.ended == expected,
           "both observers are told of %d of %d nodes %s", a.begun, expected, lk_error_text());
    tap_ok(a.sums == LEAVES - 1 && a.disorder == 0 && a.runs == 1 && a.run_ends == 1,
           "of the sums over leaves too, each end after its begin, of the run once");
    lk_program_unobserve(r.program, &a.observer);
    lk_program_unobserve(r.program, &a.observer);
    status = lk_program_run(r.program);
    tap_ok(status == LK_OK && a.begun == expected && b.begun == 2 * expected,
           "one that was removed is told nothing, the other goes on");
    b.fail_at = "blocks.2.attn.qkv";
    status = lk_program_run(r.program);
    tap_ok(status == LK_E_INTERNAL &&
               strcmp(lk_error_text(), "stopped at blocks.2.attn.qkv") == 0 && b.runs == 3 &&
               b.run_ends == 2,
           "an error of an observer ends the run: %s", lk_error_text());
    lk_error_clear();
    destroy(&r);
}

/* ---- a recorded trace ------------------------------------------------------------------------ */

static lk_status train(rig *r, int steps)
{
    LK_TRY(begin(r, NULL, 0, 0, 1));
    for (int i = 0; i < steps; i++) LK_TRY(lk_program_run(r->program));
    return LK_OK;
}

static lk_status take_trace(rig *r, int skip, int steps, lk_trace *t)
{
    lk_recorder *recorder;
    LK_TRY(
        lk_recorder_start(r->program, r->graph.graph, r->device, LEAVES, skip, steps, &recorder));
    lk_status status = train(r, skip + steps);
    if (status == LK_OK) status = lk_recorder_finish(recorder, 3, 8, t);
    lk_recorder_destroy(recorder);
    return status;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* Share of a step that its nodes cover: of the middle one, for a rank may be kept waiting between
 * two nodes by whatever else the machine does. */
static double middle_share(const lk_trace *t)
{
    double share[64] = {0};
    for (int64_t i = 0; i < t->spans; i++)
        share[t->span[i].step] += t->span[i].seconds / t->step[t->span[i].step].seconds;
    qsort(share, (size_t)t->steps, sizeof *share, by_value);
    return share[t->steps / 2];
}

static void check_spans(const lk_trace *t, const rig *r)
{
    int64_t expected = r->leaf_nodes * LEAVES + (r->nodes - r->leaf_nodes) + LEAVES - 1;
    int wrong = 0;
    double end = 0;
    for (int64_t i = 0; i < t->spans; i++) {
        const lk_trace_span *s = &t->span[i];
        bool step = t->node[s->node].section == LK_STEP;
        bool good = s->rank == 3 && s->step >= 0 && s->step < t->steps && s->begin >= end &&
                    (step ? s->leaf == -1 : s->leaf >= 8 && s->leaf < 8 + LEAVES);
        wrong += !good;
        end = s->begin + s->seconds;
    }
    tap_ok(t->spans == expected * t->steps && t->lost == 0 && wrong == 0,
           "%lld spans of %d steps, one after the other, %d wrong", (long long)t->spans, t->steps,
           wrong);
}

static lk_status get_params(const rig *r, float *host)
{
    lk_device *d = r->store->device;
    LK_TRY(d->backend->download(d, host, r->store->buffer[LK_REGION_PARAM],
                                (size_t)r->params->total * sizeof *host));
    return d->backend->sync(d);
}

static void test_recorder(void)
{
    rig r;
    lk_trace t = {.ranks = 0};
    lk_status status = make(&r, LK_F32, false);
    size_t bytes = (size_t)r.params->total * sizeof(float);
    float *plain = malloc(bytes), *watched = malloc(bytes);
    if (status == LK_OK) status = train(&r, 1 + 9);
    if (status == LK_OK) status = get_params(&r, plain);
    if (status == LK_OK) status = take_trace(&r, 1, 9, &t);
    if (status == LK_OK) status = get_params(&r, watched);
    tap_ok(status == LK_OK && memcmp(plain, watched, bytes) == 0,
           "10 steps have the same bits, traced or not %s", lk_error_text());
    if (status == LK_OK) {
        check_spans(&t, &r);
        double share = middle_share(&t);
        tap_ok(share > 0.98 && share <= 1.0, "nodes add up to %.2f %% of their step", 100 * share);
        lk_trace_node *last = &t.node[t.nodes - 1];
        double floats = (double)(LEAVES - 1) * (double)(r.params->total + LK_METRIC_FLOATS);
        tap_ok(t.nodes == r.nodes + 1 && strcmp(last->op, "leaf_sums") == 0 &&
                   last->flops == floats,
               "the sums over leaves are a node of their own");
    }
    lk_trace_clear(&t);
    free(plain);
    free(watched);
    destroy(&r);
}

/* The shortest of 20 steps, traced or not. */
static double shortest(rig *r, bool traced, lk_status *status)
{
    enum { TAKEN = 20 };
    lk_recorder *recorder = NULL;
    double least = INFINITY;
    if (traced)
        *status =
            lk_recorder_start(r->program, r->graph.graph, r->device, LEAVES, 0, TAKEN, &recorder);
    for (int i = 0; i < TAKEN && *status == LK_OK; i++) {
        double start = lk_clock_seconds();
        *status = lk_program_run(r->program);
        double seconds = lk_clock_seconds() - start;
        if (seconds < least) least = seconds;
    }
    lk_recorder_destroy(recorder);
    return least;
}

/* Below 5 %, by the shortest step of each: the machine may do other things meanwhile. */
static void test_cost(void)
{
    rig r;
    double plain = INFINITY, traced = INFINITY;
    lk_status status = make(&r, LK_F32, false);
    if (status == LK_OK) status = begin(&r, NULL, 0, 0, 1);
    for (int i = 0; i < 12 && (i < 3 || traced > 1.05 * plain) && status == LK_OK; i++) {
        plain = fmin(plain, shortest(&r, false, &status));
        traced = fmin(traced, shortest(&r, true, &status));
    }
    tap_ok(status == LK_OK && traced < 1.05 * plain, "a step takes %.3f ms, traced %.3f",
           1e3 * plain, 1e3 * traced);
    destroy(&r);
}

static void test_live(void)
{
    rig r;
    lk_status status = make(&r, LK_F16, false);
    double *live = calloc((size_t)r.nodes, sizeof *live), most = 0;
    if (status == LK_OK) status = lk_plan_live(r.graph.graph, live);
    for (int i = 0; i < r.nodes; i++) most = live[i] > most ? live[i] : most;
    double arena = (double)lk_program_arena_bytes(r.program);
    tap_ok(status == LK_OK && most > 0.8 * arena && most <= arena,
           "at the peak %.0f bytes are alive of an arena of %.0f", most, arena);
    free(live);
    destroy(&r);
}

/* ---- a trace made by hand -------------------------------------------------------------------- */

/* Two ranks, two steps. Rank 0: a step of 11 s, in which nodes run for 4 s and 3 s, a reduction for
 * 4 s of which 2 s lie beside the second; rank 1: 10 s, 8 s of the first node alone. */
static lk_trace_node hand_nodes[] = {
    {.scope = (char *)"blocks.0.attn.qkv",
     .op = (char *)"linear",
     .flops = 100,
     .bytes = 10,
     .live = 2e6},
    {.scope = (char *)"blocks.0.ffn.up",
     .op = (char *)"linear",
     .flops = 50,
     .bytes = 400,
     .live = 3e6,
     .scratch = 7},
    {.scope = (char *)"reduce.0", .op = (char *)"reduce", .section = LK_LAST, .bytes = 40},
    {.scope = (char *)"leaf_sums", .op = (char *)"leaf_sums", .section = LK_LAST},
};
static lk_trace_span hand_spans[] = {
    {0, 0, 0, 0, 0, 1, 4},  {0, 0, 1, 0, 0, 6, 3},  {0, 0, 2, 0, 1, 7, 4}, {0, 1, 0, 0, 0, 21, 4},
    {0, 1, 1, 0, 0, 26, 3}, {0, 1, 2, 0, 1, 27, 4}, {1, 0, 0, 1, 0, 1, 8}, {1, 1, 0, 1, 0, 21, 8},
};
static lk_trace_step hand_steps[] = {{0, 11}, {20, 11}, {0, 10}, {20, 10}};
static lk_trace_memory hand_memory[] = {{(char *)"activations", 4e6}};
static char *hand_hosts[] = {(char *)"one", (char *)"two \"quoted\""};
static const lk_trace by_hand = {.device = (char *)"a device",
                                 .version = (char *)"v",
                                 .host = hand_hosts,
                                 .ranks = 2,
                                 .leaves = 2,
                                 .first_step = 100,
                                 .steps = 2,
                                 .ceiling = {.rate = 50, .bandwidth = 100},
                                 .nodes = 4,
                                 .node = hand_nodes,
                                 .memories = 1,
                                 .memory = hand_memory,
                                 .step = hand_steps,
                                 .spans = 8,
                                 .span = hand_spans};

static bool near(double a, double b) { return fabs(a - b) < 1e-9 * (fabs(a) + fabs(b) + 1e-9); }

static void test_summary(void)
{
    lk_trace_summary s;
    lk_status status = lk_trace_summarise(&by_hand, 2, &s);
    tap_ok(status == LK_OK, "a trace is summed up %s", lk_error_text());
    if (status != LK_OK) return;
    /* means over two ranks and two steps: of rank 0 once and of rank 1 once a step */
    tap_ok(near(s.step, 10.5) && near(s.total.seconds, (11 + 8) / 2.0) &&
               near(s.covered, (9 + 8) / 2.0) && near(s.uncovered, 10.5 - 8.5),
           "step %g, nodes %g, covered %g", s.step, s.total.seconds, s.covered);
    tap_ok(near(s.reduction, 2) && near(s.overlap, 1),
           "reduction %g, of which %g beside other work", s.reduction, s.overlap);
    tap_ok(s.slowest.rank == 1 && near(s.slowest.own, 10) && near(s.slowest.step, 10) &&
               s.fastest.rank == 0 && near(s.fastest.own, 11 - 2) && near(s.fastest.step, 11),
           "the slowest rank is %d, by its own work: %g s of a step of %g, the other's %g of %g",
           s.slowest.rank, s.slowest.own, s.slowest.step, s.fastest.own, s.fastest.step);
    tap_ok(s.live == 1 && s.scratch == 1, "memory peaks at node %d and %d", s.live, s.scratch);
    tap_ok(s.ops == 2 && strcmp(s.op[0].name, "linear") == 0 && s.op[0].nodes == 2 &&
               near(s.op[0].seconds, 7.5) && near(s.op[0].flops, 150) && near(s.op[0].least, 2 + 4),
           "linear: %d nodes, %g s, %g FLOP, %g s at least", s.op[0].nodes, s.op[0].seconds,
           s.op[0].flops, s.op[0].least);
    tap_ok(s.scopes == 2 && strcmp(s.scope[0].name, "blocks.0") == 0, "scopes of two parts: %s",
           s.scope[0].name);
    tap_ok(s.node_lines == 3 && strcmp(s.node[0].name, "blocks.0.attn.qkv linear") == 0 &&
               near(s.node[0].seconds, 6),
           "nodes with scope and op: %s", s.node[0].name);
    lk_trace other = by_hand;
    const char *small, *large;
    other.ceiling.rate = 8e14;
    double unit = lk_trace_unit(&by_hand, &small), above = lk_trace_unit(&other, &large);
    tap_ok(unit == 1e9 && strcmp(small, "GFLOP/s") == 0 && above == 1e12 &&
               strcmp(large, "TFLOP/s") == 0,
           "rates of a small device are told in %s, of a large one in %s", small, large);
    lk_roofline steady = {50, 100, 41, 81}, product = {50, 100, 39, 81}, sum = {50, 100, 41, 79};
    tap_ok(!lk_roofline_busy(&steady) && lk_roofline_busy(&product) && lk_roofline_busy(&sum),
           "a device is busy when either ceiling falls by more than a fifth");
    lk_trace_summary_clear(&s);
}

/* An event has what the format wants of its phase. */
static bool event_is_good(const json_t *e)
{
    const char *phase = json_string_value(json_object_get(e, "ph"));
    const json_t *ts = json_object_get(e, "ts"), *duration = json_object_get(e, "dur");
    if (!phase || !json_is_string(json_object_get(e, "name")) ||
        !json_is_integer(json_object_get(e, "pid")))
        return false;
    if (strcmp(phase, "M") == 0)
        return json_is_string(json_object_get(json_object_get(e, "args"), "name"));
    if (!json_is_number(ts) || json_number_value(ts) < 0) return false;
    if (strcmp(phase, "C") == 0) return json_is_object(json_object_get(e, "args"));
    return strcmp(phase, "X") == 0 && json_is_integer(json_object_get(e, "tid")) &&
           json_is_number(duration) && json_number_value(duration) >= 0;
}

static void test_perfetto(void)
{
    char *text = NULL;
    size_t size = 0, i;
    json_error_t error;
    json_t *event;
    int bad = 0, spans = 0, counters = 0, names = 0;
    bool found = false;
    FILE *out = open_memstream(&text, &size);
    lk_status status = lk_trace_perfetto(&by_hand, out);
    fclose(out);
    json_t *root = json_loadb(text, size, JSON_REJECT_DUPLICATES, &error);
    json_t *events = json_object_get(root, "traceEvents");
    tap_ok(status == LK_OK && json_is_array(events), "the export is JSON: %s",
           root ? "" : error.text);
    json_array_foreach(events, i, event)
    {
        const char *phase = json_string_value(json_object_get(event, "ph"));
        const char *name = json_string_value(json_object_get(event, "name"));
        bad += !event_is_good(event);
        spans += phase && *phase == 'X';
        counters += phase && *phase == 'C';
        names += phase && *phase == 'M';
        found |= name && strcmp(name, "reduce.0") == 0 &&
                 json_number_value(json_object_get(event, "ts")) == 7e6 &&
                 json_number_value(json_object_get(event, "dur")) == 4e6;
    }
    tap_ok(bad == 0 && spans == 8 + 4 && counters == 6 && names == 4 + 3,
           "%d spans, %d counters, %d names, %d events are not as the format wants them", spans,
           counters, names, bad);
    tap_ok(found, "a span is where it was, in microseconds");
    json_decref(root);
    free(text);
    out = fopen("/dev/full", "w");
    if (!out) return;
    tap_ok(lk_trace_perfetto(&by_hand, out) == LK_E_SYSTEM, "a full disk is an error: %s",
           lk_error_text());
    lk_error_clear();
    fclose(out);
}

/* ---- anomalies ------------------------------------------------------------------------------- */

typedef struct finding {
    char scope[64], op[32];
    lk_range range, in[LK_MAX_INPUTS];
    int leaf, count;
    uint64_t step;
} finding;

static lk_status note(void *context, const lk_anomaly *a)
{
    finding *f = context;
    snprintf(f->scope, sizeof f->scope, "%s", a->node->scope);
    snprintf(f->op, sizeof f->op, "%s", lk_op_name(a->node->op));
    f->range = a->range;
    memcpy(f->in, a->in, sizeof f->in);
    f->leaf = a->leaf;
    f->step = a->step;
    f->count++;
    return lk_fail(LK_E_INTERNAL, "found");
}

/* Run steps until something is found, at most STEPS; status of the last. */
static lk_status search(lk_dtype type, const char *name, int64_t at, float value, float scale,
                        finding *f, lk_step_state *state)
{
    rig r;
    lk_anomaly_search *s = NULL;
    *f = (finding){.count = 0};
    lk_status status = make(&r, type, true);
    if (status == LK_OK) status = begin(&r, name, at, value, scale);
    lk_anomaly_options o = {.program = r.program,
                            .graph = r.graph.graph,
                            .store = r.store,
                            .scaling = type == LK_F16,
                            .found = note,
                            .context = f};
    if (status == LK_OK) status = lk_anomaly_open(&o, &s);
    for (int i = 0; i < STEPS && status == LK_OK; i++) status = lk_program_run(r.program);
    lk_store_get_state(r.store, state);
    lk_anomaly_close(s);
    destroy(&r);
    return status;
}

static void test_anomaly(void)
{
    finding f;
    lk_step_state state;
    lk_dtype types[] = {LK_F32, LK_F16};
    for (int i = 0; i < 2; i++) {
        lk_error_clear();
        lk_status status =
            search(types[i], "blocks.3.attn.qkv.weight", 64 * 5 + 9, INFINITY, 1024, &f, &state);
        tap_ok(status == LK_E_INTERNAL && f.count == 1 && f.step == 1 && f.leaf == 0 &&
                   strcmp(f.scope, "blocks.3.attn.qkv") == 0 && strcmp(f.op, "linear") == 0,
               "%s: Inf in block 3's attention is found in %s (%s), leaf %d of step %d",
               lk_dtype_name(types[i]), f.scope, f.op, f.leaf, (int)f.step);
        tap_ok(f.in[1].bad == 64 * 5 + 9 && f.in[1].bads == 1 && f.in[0].bad == -1 &&
                   f.in[0].low < 0 && f.in[0].high > 0 && f.range.bad == 5,
               "and where in the weight it is; the other input is finite, %g to %g",
               (double)f.in[0].low, (double)f.in[0].high);
    }
    lk_error_clear();
    lk_status status = search(LK_F32, NULL, 0, 0, 1, &f, &state);
    tap_ok(status == LK_OK && f.count == 0 && state.step == STEPS && state.skipped == 0,
           "f32: nothing is found in a sound run %s", lk_error_text());
    status = search(LK_F16, NULL, 0, 0, 1e9f, &f, &state);
    tap_ok(status == LK_OK && f.count == 0 && state.step == STEPS && state.skipped == STEPS,
           "f16: overflows of scaled gradients are not, %d steps are skipped", (int)state.skipped);
    status = search(LK_F32, NULL, 0, 0, 3e38f, &f, &state);
    tap_ok(status == LK_E_INTERNAL && f.count == 1 && f.leaf >= -1,
           "f32: a gradient that overflows is found, in %s (%s)", f.scope, f.op);
    lk_error_clear();
}

static void test_measure(void)
{
    lk_device *d = NULL;
    enum { N = 100001 };
    float *x = malloc(N * sizeof *x);
    lk_range r;
    for (int i = 0; i < N; i++) x[i] = (float)(i % 1000) - 200.5f;
    lk_status status = lk_backend_cpu.open(1, &d);
    if (status == LK_OK) status = d->backend->measure(d, LK_F32, x, N, &r);
    tap_ok(status == LK_OK && r.bad == -1 && r.bads == 0 && r.low == -200.5f && r.high == 798.5f,
           "a finite range, %g to %g", (double)r.low, (double)r.high);
    x[70007] = NAN;
    x[70003] = -INFINITY;
    x[99999] = INFINITY;
    status = d->backend->measure(d, LK_F32, x, N, &r);
    tap_ok(status == LK_OK && r.bad == 70003 && r.bads == 3 && r.low == -200.5f && r.high == 798.5f,
           "the first of %d that are not, %d", (int)r.bads, (int)r.bad);
    status = d->backend->measure(d, LK_F32, x + 70003, 1, &r);
    tap_ok(status == LK_OK && r.bad == 0 && r.low > r.high, "none is finite");
    d->backend->close(d);
    free(x);
}

/* ---- the FLOPs of GPT-2 ---------------------------------------------------------------------- */

/* A token costs 6 N for the products with the N parameters that are in products (J. Kaplan et al.,
 * "Scaling laws for neural language models", 2020), and for attention 12 L C T (A. Chowdhery et
 * al., "PaLM", 2022, appendix B), of which a causal mask leaves half; the gradient computes the
 * scores once more, 1/6 of that (T. Dao et al., "FlashAttention", 2022). */
static void test_gpt2(const char *srcdir)
{
    char path[4096];
    lk_run run;
    lk_comm comm = {.size = 1};
    lk_loss_graph graph = {.graph = NULL};
    snprintf(path, sizeof path, "%s/bench/gpt2.yaml", srcdir);
    lk_status status = lk_run_load(path, 0, NULL, &run);
    tap_ok(status == LK_OK, "%s is read %s", path, lk_error_text());
    if (status != LK_OK) return;
    lk_model m = lk_session_model(&run, 50304, NULL);
    lk_source s = {.batch = run.train.batch,
                   .context = run.model.context,
                   .type = LK_U16,
                   .resident = true,
                   .shard_rows = 1 << 20,
                   .purpose = LK_PURPOSE_ORDER,
                   .local_leaves = 1};
    lk_params *params = lk_params_create();
    lk_passes passes = lk_session_passes(&run);
    status = lk_session_train_graph(&comm, &run, 1, &m, &s, &passes, params, &graph);
    double flops = 0, n = 0, f, b;
    for (const lk_node *x = graph.graph ? graph.graph->first : NULL; x; x = x->next) {
        lk_op_cost(x, &f, &b);
        flops += f;
    }
    for (int i = 0; i < params->count; i++)
        if (params->item[i]->dims == 2 && !strstr(params->item[i]->name, "position"))
            n += (double)params->item[i]->count;
    double tokens = (double)(run.train.batch * run.model.context);
    double attention = 12.0 * (double)(run.model.layers * run.model.width * run.model.context) / 2;
    double expected = tokens * (6 * n + attention * 7 / 6);
    tap_ok(status == LK_OK && n > 123e6 && n < 124e6, "%.1f M parameters in products", 1e-6 * n);
    tap_ok(fabs(flops / expected - 1) < 0.01,
           "a step of gpt2 is %.3f TFLOP, by the papers %.3f: %.2f %% apart", 1e-12 * flops,
           1e-12 * expected, 100 * (flops / expected - 1));
    lk_graph_destroy(graph.graph);
    lk_params_destroy(params);
    lk_run_clear(&run);
}

int main(void)
{
    const char *srcdir = getenv("srcdir");
    test_observers();
    test_recorder();
    test_cost();
    test_live();
    test_summary();
    test_perfetto();
    test_measure();
    test_anomaly();
    test_gpt2(srcdir ? srcdir : ".");
    return tap_done();
}
