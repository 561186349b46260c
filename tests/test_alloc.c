/* Every allocation failing in turn. Building, planning and compiling the graphs of a model,
 * reading a run file, saving a checkpoint on the I/O thread, and the report of a run must report
 * LK_E_SYSTEM when memory ends, whenever that is, and give back all they took. The linker sends
 * the library's allocations here (--wrap), and the texts that libc makes; those inside other
 * libraries are not touched. */
#include "io/checkpoint.h"
#include "comm/watchdog.h"
#include "cpu/machine.h"
#include "doctor/doctor.h"
#include "metric/drift_prometheus.h"
#include "program/program.h"
#include "tests/tap.h"
#include "trace/anomaly.h"
#include "trace/trace.h"
#include "train/report.h"
#include "train/session.h"
#include "train/stop.h"

#include <errno.h>
#include <ftw.h>
#include <omp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- the allocator -------------------------------------------------------------------------- */

/* Threads of OpenMP allocate too. fails_at 0: never. */
static _Atomic long calls, fails_at, live;

static bool spent(void)
{
    if (++calls != fails_at) return false;
    errno = ENOMEM;
    return true;
}

static void *given(void *p)
{
    live += p != NULL;
    return p;
}

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void *__real_aligned_alloc(size_t align, size_t n);
char *__real_strdup(const char *s);
char *__real_strndup(const char *s, size_t n);
void __real_free(void *p);

void *__wrap_malloc(size_t n) { return spent() ? NULL : given(__real_malloc(n)); }
void *__wrap_calloc(size_t n, size_t m) { return spent() ? NULL : given(__real_calloc(n, m)); }
void *__wrap_aligned_alloc(size_t a, size_t n)
{
    return spent() ? NULL : given(__real_aligned_alloc(a, n));
}
char *__wrap_strdup(const char *s) { return spent() ? NULL : given(__real_strdup(s)); }
char *__wrap_strndup(const char *s, size_t n)
{
    return spent() ? NULL : given(__real_strndup(s, n));
}
void *__wrap_realloc(void *p, size_t n)
{
    if (spent()) return NULL;
    void *q = __real_realloc(p, n);
    live += !p && q;
    return q;
}
void __wrap_free(void *p)
{
    live -= p != NULL;
    __real_free(p);
}

/* Text made by libc. */
int __real_vasprintf(char **text, const char *format, va_list args);
int __wrap_vasprintf(char **text, const char *format, va_list args)
{
    int n = spent() ? -1 : __real_vasprintf(text, format, args);
    live += n >= 0;
    return n;
}
__attribute__((format(printf, 2, 3))) int __wrap_asprintf(char **text, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int n = __wrap_vasprintf(text, format, args);
    va_end(args);
    return n;
}
/* Lines: only counted, for a line that cannot be read is the end of its file. */
ssize_t __real_getdelim(char **line, size_t *size, int end, FILE *f);
ssize_t __wrap_getdelim(char **line, size_t *size, int end, FILE *f)
{
    bool fresh = !*line;
    ssize_t n = __real_getdelim(line, size, end, f);
    live += fresh && *line;
    return n;
}
ssize_t __wrap___getdelim(char **line, size_t *size, int end, FILE *f) /* what <stdio.h> inlines */
{
    return __wrap_getdelim(line, size, end, f);
}
ssize_t __wrap_getline(char **line, size_t *size, FILE *f)
{
    return __wrap_getdelim(line, size, '\n', f);
}

/* Run `job` with no failure, then with allocation 1, 2, 3 ... failing. */
static void exhaust(const char *name, lk_status (*job)(void))
{
    lk_error_clear();
    calls = fails_at = live = 0;
    lk_status status = job();
    long needed = calls, leaked = live, wrong = 0, leaks = 0;
    tap_ok(status == LK_OK && needed > 0 && leaked == 0, "%s: %ld allocations, %ld left over %s",
           name, needed, leaked, lk_error_text());
    for (long i = 1; i <= needed; i++) {
        lk_error_clear();
        calls = live = 0;
        fails_at = i;
        status = job();
        if (status != LK_E_SYSTEM || !lk_error_text()[0]) {
            if (wrong++ < 10)
                printf("# allocation %ld: status %d, '%s'\n", i, status, lk_error_text());
        }
        if (live != 0 && leaks++ < 10) printf("# allocation %ld: %ld left over\n", i, live);
    }
    fails_at = 0;
    tap_ok(wrong == 0, "%s: LK_E_SYSTEM whichever fails, %ld not", name, wrong);
    tap_ok(leaks == 0, "%s: all is given back whichever fails, %ld not", name, leaks);
    lk_error_clear();
    tap_ok(job() == LK_OK, "%s: works again %s", name, lk_error_text());
}

/* ---- what is built -------------------------------------------------------------------------- */

static lk_model model = {.text = {.layers = 2,
                                        .width = 16,
                                        .context = 8,
                                        .heads = 2,
                                        .kv_heads = 1,
                                        .position = "learned",
                                        .norm = "layernorm",
                                        .ffn = "gelu",
                                        .bias = true,
                                        .tied = true,
                                        .dropout = 0.1f,
                                        .rope_theta = 10000,
                                        .norm_eps = 1e-5f,
                                        .vocabulary = 20,
                                        .headroom = 0.2}};
static const lk_source source = {.batch = 2,
                                 .context = 8,
                                 .type = LK_U8,
                                 .resident = true,
                                 .shard_rows = 100,
                                 .purpose = LK_PURPOSE_ORDER,
                                 .local_leaves = 2};
static const lk_optimizer hyper = {.lr = 1e-3f, .steps = 10, .beta1 = 0.9f, .beta2 = 0.99f,
                                   .eps = 1e-8f, .clip = 1, .leaves = 2, .scaling = 1,
                                   .growth = 2, .backoff = 0.5f, .growth_interval = 10,
                                   .max_scale = 65536};

static lk_status training_graph(lk_params *params, lk_loss_graph *out)
{
    lk_passes passes = {.compute = LK_F16, .training = true, .recompute = LK_RECOMPUTE_BLOCK};
    lk_status status = lk_session_loss_graph(params, &model, &source, &passes, out);
    if (status != LK_OK) return status;
    lk_params_layout(params);
    status = lk_bucket(out->graph, 64, true);
    if (status == LK_OK) status = lk_optimize(out->graph, &hyper);
    if (status != LK_OK) {
        lk_graph_destroy(out->graph);
        out->graph = NULL;
    }
    return status;
}

static lk_status graphs(void)
{
    lk_loss_graph train = {.graph = NULL}, eval = {.graph = NULL};
    lk_passes forward = {.compute = LK_F16};
    size_t arena;
    lk_params *params = lk_params_create();
    if (!params) return lk_fail(LK_E_SYSTEM, "out of memory");
    lk_status status = training_graph(params, &train);
    if (status == LK_OK) status = lk_plan(train.graph, &arena);
    if (status == LK_OK)
        status = lk_session_loss_graph(params, &model, &source, &forward, &eval);
    if (status == LK_OK) status = lk_plan(eval.graph, &arena);
    lk_graph_destroy(train.graph);
    lk_graph_destroy(eval.graph);
    lk_params_destroy(params);
    return status;
}

static lk_status compile(lk_device *d)
{
    lk_loss_graph train = {.graph = NULL};
    lk_store *store = NULL;
    lk_program *program = NULL;
    lk_program_options o = {.seed = 1, .local_leaves = 2};
    lk_params *params = lk_params_create();
    if (!params) return lk_fail(LK_E_SYSTEM, "out of memory");
    lk_status status = training_graph(params, &train);
    if (status == LK_OK)
        status = lk_store_create(
            d, params, &(lk_store_options){.compute = LK_F16, .training = true, .local_leaves = 2},
            &store);
    if (status == LK_OK) status = lk_program_create(train.graph, store, &o, &program);
    lk_program_destroy(program);
    lk_store_destroy(store);
    lk_graph_destroy(train.graph);
    lk_params_destroy(params);
    return status;
}

static lk_status programs(void)
{
    lk_device *d = NULL;
    lk_status status = lk_backend_cpu.open(1, &d);
    if (status == LK_OK) status = compile(d);
    if (d) d->backend->close(d);
    return status;
}

/* A trace of a step, summed up and exported, with a search for anomalies beside it. */
static lk_status watch(lk_device *d, lk_program *p, lk_graph *g, lk_store *store)
{
    static char file[1 << 20];
    lk_recorder *recorder = NULL;
    lk_anomaly_search *search = NULL;
    lk_trace trace = {.ranks = 0};
    lk_trace_summary summary = {.op = NULL};
    char *host = (char *)"here";
    lk_anomaly_options o = {.program = p, .graph = g, .store = store};
    lk_status status = lk_recorder_start(p, g, d, 2, 0, 1, &recorder);
    if (status == LK_OK) status = lk_anomaly_open(&o, &search);
    if (status == LK_OK) status = lk_program_run(p);
    if (status == LK_OK) status = lk_recorder_finish(recorder, 0, 0, &trace);
    lk_anomaly_close(search);
    lk_recorder_destroy(recorder);
    if (status == LK_OK) status = lk_trace_summarise(&trace, 2, &summary);
    FILE *out = status == LK_OK ? fmemopen(file, sizeof file, "w") : NULL;
    trace.host = &host;
    if (out) status = lk_trace_perfetto(&trace, out);
    if (out) fclose(out);
    trace.host = NULL;
    lk_trace_summary_clear(&summary);
    lk_trace_clear(&trace);
    return status;
}

static lk_status watch_program(lk_device *d)
{
    static char tokens[2 * 100];
    lk_loss_graph train = {.graph = NULL};
    lk_store *store = NULL;
    lk_program *program = NULL;
    lk_program_options o = {.seed = 1, .local_leaves = 2};
    lk_params *params = lk_params_create();
    if (!params) return lk_fail(LK_E_SYSTEM, "out of memory");
    lk_status status = training_graph(params, &train);
    if (status == LK_OK)
        status = lk_store_create(
            d, params, &(lk_store_options){.compute = LK_F16, .training = true, .local_leaves = 2},
            &store);
    if (status == LK_OK) status = lk_program_create(train.graph, store, &o, &program);
    for (int i = 0; i < 2 && status == LK_OK; i++)
        lk_program_bind(program, train.field[0], i, tokens);
    if (status == LK_OK) status = watch(d, program, train.graph, store);
    lk_program_destroy(program);
    lk_store_destroy(store);
    lk_graph_destroy(train.graph);
    lk_params_destroy(params);
    return status;
}

static lk_status traces(void)
{
    lk_device *d = NULL;
    lk_status status = lk_backend_cpu.open(1, &d);
    if (status == LK_OK) status = watch_program(d);
    if (d) d->backend->close(d);
    return status;
}

static lk_status run_files(void)
{
    lk_run run;
    const char *set = "train.precision=fp16";
    lk_status status = lk_run_parse("run.yaml", "directory: d\ndata:\n  file: f\nseed: 3\n", 1,
                                    &set, &run);
    if (status == LK_OK) lk_run_clear(&run);
    return status;
}

/* Two run directories of few lines, and the page about both. */
static char watched[] = "/tmp/lockstep-alloc-XXXXXX", run[2][64];

static bool make_run_directory(const char *directory)
{
    static const char *const file[][2] = {
        {"run.yaml", "directory: d\ndata:\n  file: f\n"},
        {"loss.log", "1 3 0.1 1 2 0\n2 2 0.1 1 2 0\n"},
        {"validation.log", "2 2.5\n"},
        {"run.jsonl", "{\"event\":\"start\",\"time\":1,\"step\":0,\"steps\":2,\"ranks\":1}\n"
                      "{\"event\":\"step\",\"time\":2,\"step\":1,\"samples_per_second\":3}\n"
                      "{\"event\":\"warning\",\"time\":2,\"step\":1,\"text\":\"x\"}\n"}};
    if (mkdir(directory, 0700) != 0) return false;
    for (int i = 0; i < 4; i++) {
        char path[256];
        snprintf(path, sizeof path, "%s/%s", directory, file[i][0]);
        FILE *f = fopen(path, "w");
        if (!f || fputs(file[i][1], f) == EOF || fclose(f) != 0) return false;
    }
    return true;
}

static bool make_run_directories(void)
{
    bool good = mkdtemp(watched) != NULL;
    for (int i = 0; i < 2 && good; i++) {
        snprintf(run[i], sizeof run[i], "%s/%d", watched, i);
        good = make_run_directory(run[i]);
    }
    return good;
}

static lk_status reports(void)
{
    char page[80];
    snprintf(page, sizeof page, "%s/report.html", watched);
    return lk_report_write(NULL, 2, (const char *const[]){run[0], run[1]}, page, 3);
}

/* ---- saving ---------------------------------------------------------------------------------- */

static lk_io *io;
static char directory[] = "/tmp/lockstep-alloc-XXXXXX";

static lk_status save(lk_store *store)
{
    static uint32_t letter = 'a';
    lk_checkpoint_info info = {.state = {.step = 1, .loss_scale = 1}, .leaves = 1,
                               .run_file = (char *)"", .choices = (char *)"",
                               .code_version = (char *)"", .build = (char *)"",
                               .dataset_path = (char *)"",
                               .dataset_digest = (char *)"0123456789abcdef0123456789abcdef",
                               .characters = true, .vocabulary = &letter, .vocabulary_size = 1};
    lk_checkpoint_figures f;
    lk_checkpoint_snapshot *snapshot = NULL;
    char spoilt[LK_CHECKPOINT_SPOILT];
    lk_status status = lk_checkpoint_snapshot_open(io, MPI_COMM_SELF, directory,
                                                   (lk_checkpoint_keep){0, 0}, store, &snapshot);
    if (status == LK_OK)
        status = lk_checkpoint_snapshot_begin(snapshot, &info, LK_CHECKPOINT_NONE, spoilt);
    if (status == LK_OK) status = lk_checkpoint_snapshot_wait(snapshot, &f);
    lk_checkpoint_snapshot_close(snapshot);
    return status;
}

static lk_status saves(void)
{
    lk_device *d = NULL;
    lk_store *store = NULL;
    lk_params *params = lk_params_create();
    lk_graph *g = params ? lk_graph_create(params, false) : NULL;
    lk_status status = g ? LK_OK : lk_fail(LK_E_SYSTEM, "out of memory");
    if (g) lk_parameter(g, "head.weight", 2, (int64_t[]){3, 5}, LK_INIT_ONE, 0, true);
    if (g) lk_parameter(g, "head.bias", 1, (int64_t[]){3}, LK_INIT_ZERO, 0, false);
    if (g) status = lk_graph_status(g);
    lk_graph_destroy(g);
    if (status == LK_OK) lk_params_layout(params);
    if (status == LK_OK) status = lk_backend_cpu.open(1, &d);
    if (status == LK_OK)
        status = lk_store_create(d, params, &(lk_store_options){.training = true, .ema = true,
                                                                .local_leaves = 1}, &store);
    if (status == LK_OK) status = save(store);
    lk_store_destroy(store);
    if (d) d->backend->close(d);
    lk_params_destroy(params);
    return status;
}

static int remove_one(const char *path, const struct stat *s, int type, struct FTW *walk)
{
    (void)s;
    (void)type;
    (void)walk;
    return remove(path);
}

static void check_saves(void)
{
    int provided;
    MPI_Init_thread(NULL, NULL, MPI_THREAD_MULTIPLE, &provided);
    if (!mkdtemp(directory) || lk_io_open(&io) != LK_OK) {
        printf("Bail out! cannot start in %s: %s\n", directory, lk_error_text());
        return;
    }
    exhaust("saves", saves);
    lk_io_close(io);
    nftw(directory, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    MPI_Finalize();
}

/* ---- guards --------------------------------------------------------------------------------- */

static void ignore_text(void *context, const char *text) { (void)context, (void)text; }
static void ignore_end(void *context, bool all) { (void)context, (void)all; }

/* What watches over a run, on one rank. */
static lk_status guards(void)
{
    lk_comm comm = {.size = 1, .host = "here"};
    lk_watchdog_options o = {.timeout = -1, .say = ignore_text, .end = ignore_end};
    lk_watchdog *w = NULL;
    lk_stop *stop = NULL;
    char warning[300];
    lk_status status = lk_watchdog_open(&comm, &o, &w, warning, sizeof warning);
    if (status == LK_OK) status = lk_stop_open(&comm, 0, 1e6, &stop);
    lk_stop_close(stop);
    lk_watchdog_close(w);
    return status;
}

/* ---- the doctor: jansson allocates as we do ------------------------------------------------- */

static json_t *facts;

static lk_status judged(void)
{
    lk_diagnosis report;
    char *text = NULL;
    lk_status status = lk_doctor_judge(facts, LK_PROFILE_PROD, &report);
    if (status != LK_OK) return status;
    status = lk_diagnosis_json(&report, facts, &text);
    lk_diagnosis_clear(&report);
    free(text);
    return status;
}

static lk_status machine(void)
{
    json_t *all = NULL;
    lk_status status = lk_machine_facts("", &all);
    json_decref(all);
    return status;
}

static void doctor(void)
{
    json_set_alloc_funcs(malloc, free);
    facts = json_loads("{\"lockstep\": {\"facts\": 1}, \"ranks\": [{\"host\": \"a\", "
                       "\"machine\": {\"cpu\": {\"threads\": 64, \"usable\": \"0-3\"}}, "
                       "\"environment\": {\"UCX_A\": \"1\"}}, {\"host\": \"b\"}]}", 0, NULL);
    exhaust("the doctor's judgement", judged);
    exhaust("the doctor's facts", machine);
    json_decref(facts);
}

/* The distribution of a table, as text and back, and drift from it. */
static lk_status compare(const lk_columns_plan *p, lk_columns_counts *n, const float *x,
                         int64_t rows)
{
    lk_reference r = {.samples = rows}, back = {.samples = 0};
    lk_drift_report drift = {.worst = -1};
    lk_drift_prometheus metrics = {.count = 0};
    lk_drift d;
    char *text = NULL;
    int64_t *bin = calloc((size_t)p->columns * LK_SKETCH_BINS, sizeof *bin);
    if (!bin) return lk_fail(LK_E_SYSTEM, "out of memory");
    lk_columns_block(p, x, NULL, rows, n, NULL, NULL);
    lk_columns_counts_move(p, n, bin, NULL);
    lk_status status = lk_reference_add_column(&r, "a", p->scale[0], bin);
    if (status == LK_OK) status = lk_reference_add(&r, "label", 2, bin, false);
    if (status == LK_OK) status = lk_reference_format(&r, &text);
    if (status == LK_OK) status = lk_reference_parse("file", text, &back);
    if (status == LK_OK) status = lk_drift_of(&back.feature[0], rows, r.feature[0].count, 9, &d);
    if (status == LK_OK) status = lk_drift_report_add(&drift, "a", &d);
    if (status == LK_OK) status = lk_drift_report_add(&drift, "b", &d);
    if (status == LK_OK)
        status = lk_drift_prometheus_create(&(lk_drift_part){"train", &drift}, 1, "", &metrics);
    lk_drift_prometheus_clear(&metrics);
    lk_drift_report_clear(&drift);
    lk_reference_clear(&r);
    lk_reference_clear(&back);
    if (text) __real_free(text); /* jansson's, which is not told to allocate here yet: reading JSON
                                    it takes the end of memory for bad input */
    free(bin);
    return status;
}

static lk_status distributions(void)
{
    static float x[64][3];
    lk_columns_plan plan = {.columns = 0};
    lk_columns_counts counts = {.rows = 0};
    lk_scan scan = {.columns = 0};
    for (int i = 0; i < 64; i++)
        for (int k = 0; k < 3; k++) x[i][k] = (float)(i * k % 17);
    lk_status status = lk_scan_create(3, &scan);
    if (status == LK_OK) status = lk_columns_plan_create(x[0], NULL, 64, 3, 0, &plan);
    if (status == LK_OK) status = lk_columns_counts_create(&plan, &counts);
    if (status == LK_OK) status = compare(&plan, &counts, x[0], 64);
    lk_scan_destroy(&scan);
    lk_columns_plan_destroy(&plan);
    lk_columns_counts_destroy(&counts);
    return status;
}

int main(void)
{
    omp_set_num_threads(1); /* what is counted is counted by one thread */
    exhaust("graphs of a transformer", graphs);
    model.text.position = "rope";
    model.text.norm = "rmsnorm";
    model.text.ffn = "swiglu";
    model.text.tied = false;
    exhaust("graphs of another", graphs);
    exhaust("programs on the CPU", programs);
    exhaust("distributions of data", distributions);
    exhaust("traces", traces);
    exhaust("run files", run_files);
    if (!make_run_directories()) return 99;
    exhaust("reports", reports);
    nftw(watched, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    exhaust("the watchdog and what stops a run", guards);
    check_saves();
    doctor();
    return tap_done();
}
