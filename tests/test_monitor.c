/* The monitor by itself, on a device that does nothing: what a step of it costs, what it says of
 * steps whose times are known, and that a run outlives files that can no longer be written. */
#include "metric/run_log.h"
#include "tests/tap.h"
#include "train/monitor.h"
#include "train/steplog.h"

#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static lk_comm *comm;
static lk_device *device;
static lk_run run;
static lk_dataset data = {.path = "d.h5", .rows = {100000, 100}};
static lk_loader_options order = {.split = LK_TRAIN,
                                  .purpose = LK_PURPOSE_ORDER,
                                  .seed = 5,
                                  .leaves = 4,
                                  .local_leaves = 4,
                                  .batch = 8,
                                  .span = 33};
static int said;
static char last_said[2400];

static void line(void *context, const char *text)
{
    (void)context;
    said++;
    snprintf(last_said, sizeof last_said, "%s", text);
}

static const lk_reporter reporter = {.line = line};

static lk_monitor *start(const char *directory, const char *const *set, int sets)
{
    char text[200];
    lk_monitor *m = NULL;
    snprintf(text, sizeof text, "directory: %s\ndata:\n  file: d.h5\noptimizer:\n  warmup: 0\n",
             directory);
    lk_run_clear(&run);
    memset(&run, 0, sizeof run);
    if (lk_run_parse("test", text, sets, set, &run) != LK_OK) return NULL;
    lk_monitor_options o = {.comm = comm,
                            .run = &run,
                            .data = &data,
                            .order = &order,
                            .device = device,
                            .parameters = 1,
                            .reporter = &reporter};
    mkdir(directory, 0777);
    said = 0;
    return lk_monitor_open(&o, &m) == LK_OK ? m : NULL;
}

static void step(lk_monitor *m, uint64_t i, double loss, double seconds)
{
    lk_step_state s = {.step = i + 1,
                       .loss_scale = 1,
                       .loss = (float)loss,
                       .finite = 1,
                       .grad_norm = 0.5f + 0.01f * (float)(i % 13),
                       .lr = 1e-3f};
    lk_monitor_begin(m, i);
    lk_monitor_fed(m, i);
    if (seconds > 0) nanosleep(&(struct timespec){0, (long)(1e9 * seconds)}, NULL);
    lk_monitor_enqueued(m, i);
    lk_monitor_step(m, &s);
}

static double noise(uint64_t i) { return 2 + 0.1 * sin((double)i * 1.7) + 0.05 * cos(i * 0.9); }

static json_t *last_event(const char *path, const char *event)
{
    char *text = NULL;
    size_t size = 0;
    json_t *found = NULL;
    FILE *f = fopen(path, "r");
    while (f && getline(&text, &size, f) > 0) {
        json_t *o = json_loads(text, 0, NULL);
        const char *name = json_string_value(json_object_get(o, "event"));
        if (name && strcmp(name, event) == 0) {
            json_decref(found);
            found = json_incref(o);
        }
        json_decref(o);
    }
    if (f) fclose(f);
    free(text);
    return found;
}

static double number(const json_t *o, const char *a, const char *b)
{
    const json_t *v = json_object_get(o, a);
    if (b) v = json_object_get(v, b);
    return json_is_number(v) ? json_number_value(v) : NAN;
}

static double peak_of_step(const char *path, int64_t step)
{
    char *text = NULL, sign[64];
    size_t size = 0;
    double peak = NAN;
    FILE *f = fopen(path, "r");
    snprintf(sign, sizeof sign, "\"step\":%lld,\"loss\"", (long long)step);
    while (f && getline(&text, &size, f) > 0) {
        json_t *o = strstr(text, sign) ? json_loads(text, 0, NULL) : NULL;
        if (o) peak = number(o, "memory", "host_peak");
        json_decref(o);
    }
    if (f) fclose(f);
    free(text);
    return peak;
}

/* CPU time of this thread, so that others on the machine do not matter. */
static double cpu_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void cost(void)
{
    enum { STEPS = 20000 };
    const char *all[] = {"log.tensorboard=true", "log.prometheus=true"},
               *off[] = {"log.run_log=false", "log.outlier=0"};
    double each[2];
    for (int k = 0; k < 2; k++) {
        lk_monitor *m = k ? start("off", off, 2) : start("all", all, 2);
        if (!tap_ok(m != NULL, "a monitor opens %s", lk_error_text())) return;
        double begin = cpu_seconds();
        for (uint64_t i = 0; i < STEPS; i++) step(m, i, noise(i), 0);
        each[k] = (cpu_seconds() - begin) / STEPS;
        lk_monitor_close(m, LK_OK, NULL);
    }
    /* 0.5 % of a step of 10 ms is 50 us; what was measured without other load is in the text */
    tap_ok(each[0] < 100e-6, "all of it costs %.1f us a step, %.1f us of it clocks and counts",
           1e6 * each[0], 1e6 * each[1]);
    tap_ok(said == 0, "and has nothing to warn of");
}

static void times(void)
{
    lk_monitor *m = start("times", NULL, 0);
    if (!m) return;
    for (uint64_t i = 0; i < 60; i++) step(m, i, noise(i), i % 20 == 19 ? 20e-3 : 2e-3);
    lk_monitor_validation(m, 60, &(lk_validation){1.5, NAN, NAN, NAN}, 1.5, 0.25);
    lk_monitor_save(m, &(lk_checkpoint_figures){.step = 60, .bytes = 1000, .path = "c/60.h5"});
    lk_monitor_close(m, LK_OK, "asked to");
    json_t *s = last_event("times/run.jsonl", "step"), *e = last_event("times/run.jsonl", "end");
    json_t *v = last_event("times/run.jsonl", "validation");
    double p50 = number(s, "step_ms", "p50"), p99 = number(s, "step_ms", "p99");
    tap_ok(p50 >= 1.98 && p99 >= 19.8 && p50 < p99, "steps of 2 and 20 ms: p50 %.2f, p99 %.2f ms",
           p50, p99);
    tap_ok(number(s, "step", NULL) == 60 && number(s, "memory", "host_peak") > 1e6,
           "with the step and memory");
    tap_ok(number(v, "loss", NULL) == 1.5 && number(v, "seconds", NULL) == 0.25 &&
               !json_object_get(v, "accuracy"),
           "a validation, without what there is not");
    tap_ok(e && strcmp(json_string_value(json_object_get(e, "how")), "stopped") == 0 &&
               strcmp(json_string_value(json_object_get(e, "why")), "asked to") == 0,
           "an end with its reason");
    json_decref(s);
    json_decref(v);
    json_decref(e);
}

static char *touched(size_t bytes)
{
    volatile char *memory = malloc(bytes);
    for (size_t i = 0; memory && i < bytes; i += 512) memory[i] = 1;
    return (char *)memory;
}

/* What a trace takes counts for no step and in no peak; what the run takes later does. */
static void traced(void)
{
    enum { MUCH = 64 << 20 };
    lk_monitor *m = start("traced", NULL, 0);
    if (!m) return;
    for (uint64_t i = 0; i < 10; i++) step(m, i, noise(i), 0);
    lk_monitor_trace_begins(m);
    char *memory = touched(MUCH);
    free(memory);
    lk_monitor_trace_ended(m, &(lk_traced){.first = 8, .last = 10, .seconds = 0.5, .path = "t.h5"});
    for (uint64_t i = 10; i < 20; i++) step(m, i, noise(i), 0);
    json_t *t = last_event("traced/run.jsonl", "trace");
    memory = touched(2 * MUCH);
    step(m, 20, noise(20), 0.6); /* it is read twice a second */
    lk_monitor_close(m, LK_OK, NULL);
    free(memory);
    json_t *s = last_event("traced/run.jsonl", "step");
    double before = peak_of_step("traced/run.jsonl", 10);
    double after = peak_of_step("traced/run.jsonl", 20);
    double later = number(s, "memory", "host_peak");
    tap_ok(before > 0 && after < before + 0.5 * MUCH && later > before + MUCH,
           "a trace's memory is in no peak: %.0f MiB, %.0f after it, later %.0f", before / 0x1p20,
           after / 0x1p20, later / 0x1p20);
    tap_ok(number(t, "first", NULL) == 8 && number(t, "last", NULL) == 10 &&
               number(t, "seconds", NULL) == 0.5 && number(t, "step", NULL) == 10,
           "and it is in the log");
    json_decref(s);
    json_decref(t);
}

/* The rows of a warning are those that the loader takes. */
static void spike(void)
{
    lk_monitor *m = start("spike", NULL, 0);
    int64_t row[32];
    bool same = true;
    if (!m) return;
    for (uint64_t i = 0; i < 200; i++) step(m, i, i == 150 ? 9 : noise(i), 0);
    lk_monitor_close(m, LK_OK, NULL);
    json_t *w = last_event("spike/run.jsonl", "warning");
    const json_t *list = json_object_get(w, "samples");
    lk_loader_rows(&data, &order, 150, row);
    for (size_t i = 0; i < 32; i++)
        same &= json_integer_value(json_array_get(list, i)) == row[i] && row[i] >= 0 &&
                row[i] / 25000 == (int64_t)i / 8; /* in the shard of its leaf */
    tap_ok(said == 1 && number(w, "step", NULL) == 151 && json_array_size(list) == 32 && same,
           "a spike: %s", last_said);
    json_decref(w);
}

/* What a step says, and how many warnings of a kind the log then has. */
static void judge(lk_monitor *m, uint64_t i, float loss, bool finite)
{
    static uint64_t skipped;
    skipped = i ? skipped + !finite : !finite;
    lk_monitor_begin(m, i);
    lk_monitor_fed(m, i);
    lk_monitor_enqueued(m, i);
    lk_monitor_step(m, &(lk_step_state){.step = i + 1,
                                        .loss_scale = 1024,
                                        .loss = loss,
                                        .finite = finite,
                                        .skipped = skipped,
                                        .grad_norm = finite ? 1.5f : INFINITY});
}

static int warnings(const char *path, const char *kind, uint64_t *step)
{
    char *text = NULL;
    size_t size = 0;
    int count = 0;
    FILE *f = fopen(path, "r");
    while (f && getline(&text, &size, f) > 0) {
        json_t *o = strstr(text, "\"event\":\"warning\"") ? json_loads(text, 0, NULL) : NULL;
        const char *found = json_string_value(json_object_get(o, "kind"));
        if (found && strcmp(found, kind) == 0 && count++ == 0)
            *step = (uint64_t)number(o, "step", NULL);
        json_decref(o);
    }
    if (f) fclose(f);
    free(text);
    return count;
}

/* From the first step on: no history is needed for what is not finite. */
static void not_finite(void)
{
    const char *half[] = {"train.precision=fp16"};
    uint64_t at = 0;
    lk_monitor *m = start("nan", NULL, 0);
    for (uint64_t i = 0; i < 6; i++) judge(m, i, i == 1 || i == 2 ? NAN : 2, true);
    judge(m, 6, 2, false);
    lk_monitor_close(m, LK_OK, NULL);
    tap_ok(warnings("nan/run.jsonl", "not_finite", &at) == 2 && at == 2 && said == 2,
           "a loss of the second step and a gradient that are not finite: %s", last_said);
    json_t *w = last_event("nan/run.jsonl", "warning");
    tap_ok(json_array_size(json_object_get(w, "samples")) == 32, "with the samples");
    json_decref(w);

    m = start("once", half, 1);
    for (uint64_t i = 0; i < 300; i++) judge(m, i, 2, i % 40 != 3 && i % 40 != 4);
    lk_monitor_close(m, LK_OK, NULL);
    tap_ok(said == 0, "fp16: two skipped steps now and then are not worth a word");
    m = start("row", half, 1);
    for (uint64_t i = 0; i < 300; i++) judge(m, i, 2, i < 1 || i > 5);
    lk_monitor_close(m, LK_OK, NULL);
    tap_ok(warnings("row/run.jsonl", "skipped_steps", &at) == 1 && at == 4 && said == 1,
           "three in a row are: %s", last_said);
    m = start("often", half, 1);
    for (uint64_t i = 0; i < 300; i++) judge(m, i, 2, i % 8 != 1 || (i > 100 && i < 200));
    lk_monitor_close(m, LK_OK, NULL);
    int often = warnings("often/run.jsonl", "skipped_steps", &at);
    tap_ok(often == 2 && at == 74, "and so are many, at step %d and once more: %s", (int)at,
           last_said);
}

/* Before a window is full. */
static void early(void)
{
    uint64_t at = 0;
    lk_monitor *m = start("early", NULL, 0);
    for (uint64_t i = 0; i < 60; i++)
        step(m, i, i == 40 ? 40 : 8 * exp(-0.01 * (double)i) + noise(i), 0);
    lk_monitor_close(m, LK_OK, NULL);
    tap_ok(warnings("early/run.jsonl", "loss_spike", &at) == 1 && said == 1 && at == 41,
           "a spike within the first steps: %s", last_said);
}

static void unwritable(void)
{
    const char *set[] = {"log.tensorboard=true"};
    const struct rlimit small = {100000, 100000};
    signal(SIGXFSZ, SIG_IGN);
    lk_monitor *m = start("full", set, 1);
    if (!m || setrlimit(RLIMIT_FSIZE, &small) != 0) return;
    for (uint64_t i = 0; i < 5000; i++) step(m, i, noise(i), 0);
    lk_monitor_close(m, LK_OK, NULL);
    tap_ok(said == 2, "a disk that takes no more is said once a file, %d: %s", said, last_said);
    tap_ok(lk_error_text()[0] == '\0', "and is no error of the run");
    const struct rlimit least = {2000, 100000}; /* what lies in the file's buffer goes beyond it */
    m = start("least", NULL, 0);
    if (!m || setrlimit(RLIMIT_FSIZE, &least) != 0) return;
    for (uint64_t i = 0; i < 6; i++) step(m, i, noise(i), 0);
    lk_monitor_close(m, lk_fail(LK_E_DEVICE, "what ends the run"), NULL);
    setrlimit(RLIMIT_FSIZE, &small);
    tap_ok(said == 1 && strcmp(lk_error_text(), "what ends the run") == 0,
           "the error that ends a run is kept: %s", lk_error_text());
    lk_error_clear();
}

/* A device that has chosen algorithms, as a GPU does. */
static void chosen(lk_device *d, lk_tuning *t)
{
    (void)d;
    *t = (lk_tuning){
        .tuned = 7, .first = 4, .cut = 2, .reused = 3, .own = 5, .seconds = 1.25};
}

/* As where all products run by kernels of lockstep, or a checkpoint said so. */
static void all_own(lk_device *d, lk_tuning *t)
{
    (void)d;
    *t = (lk_tuning){.own = 5};
}

static void tuned(void)
{
    lk_backend chooses = lk_backend_null;
    lk_monitor *m = start("untuned", NULL, 0);
    lk_monitor_close(m, LK_OK, NULL);
    tap_ok(said == 0 && !last_event("untuned/run.jsonl", "tuning"),
           "a device that chooses nothing has nothing to tell");
    chooses.tuning = chosen;
    device->backend = &chooses;
    m = start("tuned", NULL, 0);
    lk_monitor_close(m, LK_OK, NULL);
    json_t *t = last_event("tuned/run.jsonl", "tuning");
    tap_ok(said == 1 && strcmp(last_said, "algorithms of 3 products reused from the checkpoint; "
                                          "algorithms of 7 products tuned in 1.2 s, 4 kept the "
                                          "library's first; for want of time or memory 2 were "
                                          "not tuned to the end; 5 products by kernels of "
                                          "lockstep") == 0,
           "one that does says so once: %s", last_said);
    tap_ok(number(t, "tuned", NULL) == 7 && number(t, "first", NULL) == 4 &&
               number(t, "cut", NULL) == 2 && number(t, "reused", NULL) == 3 &&
               number(t, "own", NULL) == 5 && number(t, "seconds", NULL) == 1.25,
           "and it is in the log");
    json_decref(t);
    chooses.tuning = all_own;
    m = start("own", NULL, 0);
    lk_monitor_close(m, LK_OK, NULL);
    device->backend = &lk_backend_null;
    t = last_event("own/run.jsonl", "tuning");
    tap_ok(strcmp(last_said, "5 products by kernels of lockstep") == 0 &&
               number(t, "own", NULL) == 5,
           "also where no algorithm was: %s", last_said);
    json_decref(t);
}

static bool same(double a, double b) { return a == b || (isnan(a) && isnan(b)); }

/* Columns of a validation of a model of images or of text, or where that is not known. */
static void validation_line(const char *what, const lk_validation *v, const lk_run *r)
{
    const double wanted[] = {12, v->loss, v->accuracy, v->ema_loss, v->ema_accuracy};
    char text[LK_STEPLOG_LINE];
    double c[LK_VALID_COLUMNS];
    lk_steplog_write_validation(12, v, text);
    bool good = lk_steplog_read_validation(text, r, c);
    for (int i = 0; i < LK_VALID_COLUMNS && good; i++) good = same(c[i], wanted[i]);
    tap_ok(good, "a validation %s is read as it was written: %.*s", what, (int)strlen(text) - 1,
           text);
}

static void log_lines(void)
{
    const char *kind[] = {"model.kind=mobilenetv3"};
    const char *wrong[] = {"", "8 1 2 3 4\n", "8 1 2 3 4 5 6\n", "8 1 2 x 4 5\n", " 8 1 2 3 4 5\n",
                           "8  1 2 3 4 5\n", "-8 1 2 3 4 5\n", "8 1 2 3 4 5", "8 1 2 3 4 5 \n"};
    lk_step_state s = {.step = 7, .loss = 0.1f, .lr = 3e-4f, .loss_scale = 65536,
                       .grad_norm = INFINITY, .skipped = 2};
    char text[LK_STEPLOG_LINE];
    double c[LK_LOSS_COLUMNS];
    lk_steplog_write_loss(&s, text);
    tap_ok(lk_steplog_read_loss(text, c) && c[LK_LOSS_STEP] == 7 && (float)c[LK_LOSS] == s.loss &&
               (float)c[LK_LOSS_LR] == s.lr && c[LK_LOSS_SCALE] == 65536 &&
               isinf(c[LK_LOSS_NORM]) && c[LK_LOSS_SKIPPED] == 2,
           "a step is read as it was written: %.*s", (int)strlen(text) - 1, text);
    bool refused = true;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        refused &= !lk_steplog_read_loss(wrong[i], c);
    tap_ok(refused, "what is no whole line of loss.log is none");
    lk_run words = {0}, images = {0};
    const char *file = "directory: x\ndata:\n  file: d.h5\n";
    bool parsed = lk_run_parse("words", file, 0, NULL, &words) == LK_OK &&
                  lk_run_parse("images", file, 1, kind, &images) == LK_OK;
    tap_ok(parsed, "run files of both: %s", lk_error_text());
    if (!parsed) return;
    validation_line("of text", &(lk_validation){0.5, NAN, NAN, NAN}, &words);
    validation_line("with a moving average", &(lk_validation){0.5, NAN, 1.0 / 3, NAN}, &words);
    validation_line("of images", &(lk_validation){0.5, 0.25, NAN, NAN}, &images);
    validation_line("of both", &(lk_validation){0.5, 0.25, 1.0 / 3, 0.75}, &images);
    validation_line("without a run file", &(lk_validation){0.5, 0.25, 1.0 / 3, 0.75}, NULL);
    validation_line("of text without one", &(lk_validation){0.5, NAN, 0.25, NAN}, NULL);
    lk_run_clear(&words);
    lk_run_clear(&images);
}

int main(void)
{
    char directory[] = "/tmp/lockstep-monitor-XXXXXX", command[80];
    if (lk_comm_open(&comm) != LK_OK || lk_backend_null.open(1, &device) != LK_OK) return 99;
    if (!mkdtemp(directory) || chdir(directory) != 0) return 99;
    strcpy(data.digest, "0123");
    log_lines();
    cost();
    times();
    traced();
    spike();
    early();
    tuned();
    not_finite();
    unwritable();
    lk_run_clear(&run);
    device->backend->close(device);
    snprintf(command, sizeof command, "rm -rf %s", directory);
    if (chdir("/") != 0 || system(command) != 0) return 99;
    lk_comm_close(comm);
    return tap_done();
}
