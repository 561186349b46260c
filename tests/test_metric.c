/* Measures and their files: the histogram's stated error, outliers against a definition computed
 * plainly, CRC-32C against RFC 3720, event files byte for byte, Prometheus' text, the cut of the
 * run log, what is told of work that is counted, durations and bars. */
#include "base/digits.h"
#include "metric/histogram.h"
#include "metric/outlier.h"
#include "metric/progress.h"
#include "metric/prometheus.h"
#include "metric/run_log.h"
#include "metric/tensorboard.h"
#include "base/philox.h"
#include "tests/tap.h"

#include <dirent.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static double uniform(uint32_t i) { return (double)lk_uniform(lk_philox(7, i, 0, 0, 0).v[0]); }

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static size_t read_file(const char *path, char *text, size_t size)
{
    FILE *f = fopen(path, "rb");
    size_t n = f ? fread(text, 1, size - 1, f) : 0;
    text[n] = '\0';
    if (f) fclose(f);
    return n;
}

/* ---- progress -------------------------------------------------------------------------------- */

static void digits(void)
{
    static const struct {
        double seconds;
        const char *text;
    } time[] = {{0, "0:00"}, {59.4, "0:59"}, {59.5, "1:00"}, {3599.6, "1:00:00"},
                {90061, "25:01:01"}, {-5, "0:00"}, {NAN, "0:00"}, {INFINITY, "0:00"}};
    static const struct {
        int64_t done, total;
        const char *text;
    } bar[] = {{0, 10, "[>         ]   0%"}, {29, 100, "[==>       ]  29%"},
               {3, 10, "[===>      ]  30%"}, {99, 100, "[=========>]  99%"},
               {10, 10, "[==========] 100%"}, {12, 10, "[==========] 100%"},
               {5, 0, "[>         ]   0%"}, {INT64_MAX, INT64_MAX, "[==========] 100%"}};
    char text[32];
    for (size_t i = 0; i < sizeof time / sizeof *time; i++)
        tap_ok(strcmp(lk_digits_duration(time[i].seconds, text), time[i].text) == 0,
               "%g seconds are %s", time[i].seconds, text);
    for (size_t i = 0; i < sizeof bar / sizeof *bar; i++)
        tap_ok(strcmp(lk_digits_bar(bar[i].done, bar[i].total, 10, text), bar[i].text) == 0,
               "%lld of %lld: %s", (long long)bar[i].done, (long long)bar[i].total, text);
}

/* Twenty calls, the first with 5 of 25 done. */
static void count_to(const char *path, bool terminal, int64_t every, char *text, size_t size)
{
    lk_progress p;
    FILE *f = fopen(path, "w");
    lk_progress_init(&p, f, terminal, every);
    for (int64_t done = 5; done <= 25; done++) {
        lk_progress_count(&p, done, 25, "files");
        usleep(1000);
    }
    lk_progress_end(&p);
    fclose(f);
    read_file(path, text, size);
    unlink(path);
}

static void progress(const char *path)
{
    char text[4096], *line = text;
    int lines = 0;
    long long done;
    double rate;
    bool good = true;
    count_to(path, false, 0, text, sizeof text);
    for (char *end; (end = strchr(line, '\n')); line = end + 1, lines++) {
        good &= sscanf(line, "%lld/25 files  %lf/s  ETA ", &done, &rate) == 2 && done == 5 + lines;
        good &= lines == 0 ? rate == 0 : rate > 0 && rate <= 1000;
    }
    tap_ok(good && lines == 21, "a plain line each time, its rate of what was done since");
    count_to(path, false, 3600, text, sizeof text);
    tap_ok(!text[0], "none before the time has come");
    count_to(path, true, 0, text, sizeof text);
    size_t n = strlen(text);
    tap_ok(strstr(text, "[====>                   ]  20% 5/25 files  0/s  ETA -") && n > 4 &&
               strcmp(text + n - 4, "\r\033[K") == 0,
           "a bar on a terminal, gone at the end");
}

static void rates(const char *path)
{
    static const struct {
        double rate;
        const char *text;
    } of[] = {{0.01234, "  0.01234 samples/s"}, {379.14, "  379.1 samples/s"},
              {9999.4, "  9999 samples/s"}, {31812.4, "  31812 samples/s"}};
    char text[4096];
    lk_progress p;
    FILE *f = fopen(path, "w");
    lk_progress_init(&p, f, false, 1);
    for (int i = 0; i < 4; i++) lk_progress_step(&p, i + 1, 4, 0.5, of[i].rate, 1);
    fclose(f);
    read_file(path, text, sizeof text);
    for (int i = 0; i < 4; i++)
        tap_ok(strstr(text, of[i].text) != NULL, "a rate without exponent:%s", of[i].text);
    unlink(path);
}

/* ---- histogram ------------------------------------------------------------------------------- */

static double worst_error(const lk_histogram *h, const double *sorted, int n)
{
    double worst = 0;
    for (int i = 0; i <= 100; i++) {
        int at = (int)ceil(i / 100.0 * n) - 1;
        double exact = sorted[at < 0 ? 0 : at];
        worst = fmax(worst, fabs(lk_histogram_quantile(h, i / 100.0) - exact) / exact);
    }
    return worst;
}

static void histograms(void)
{
    enum { N = 5000 };
    static lk_histogram h;
    static lk_window w;
    static double x[N];
    tap_ok(isnan(lk_histogram_quantile(&h, 0.5)), "an empty histogram has no median");
    for (int i = 0; i < N; i++) { /* from 2 us to 3 h, evenly in the logarithm */
        x[i] = exp(log(2e-6) + uniform((uint32_t)i) * log(1e4 / 2e-6));
        lk_histogram_add(&h, x[i]);
        lk_window_add(&w, x[i]);
    }
    double sum = 0;
    for (int i = 0; i < N; i++) sum += x[i];
    double recent[LK_WINDOW];
    memcpy(recent, x + N - LK_WINDOW, sizeof recent);
    qsort(x, N, sizeof *x, ascending);
    qsort(recent, LK_WINDOW, sizeof *recent, ascending);
    double e = worst_error(&h, x, N), r = worst_error(&w.histogram, recent, LK_WINDOW);
    tap_ok(e <= 1.0 / 128, "quantiles are off by at most %.3f %% (stated 0.781 %%)", 100 * e);
    tap_ok(r <= 1.0 / 128, "those of the last 1,000 too: %.3f %%", 100 * r);
    tap_ok(h.count == N && fabs(h.sum - sum) < 1e-9 * sum, "count and sum are exact");
    tap_ok(h.low == x[0] && h.high == x[N - 1], "and so are the ends");
    lk_histogram_add(&h, NAN);
    lk_histogram_add(&h, -1);
    tap_ok(h.count == N, "what is no time is left out");
    lk_histogram_add(&h, 1e-9);
    lk_histogram_add(&h, 1e9);
    tap_ok(h.bin[0] == 1 && h.bin[LK_HISTOGRAM_BINS - 1] == 1, "what is too short or long is kept");
    bool good = true;
    for (int i = 0; i < LK_HISTOGRAM_BINS; i++) {
        static lk_histogram one;
        memset(&one, 0, sizeof one);
        lk_histogram_add(&one, lk_histogram_low(i));
        good &= one.bin[i] == 1;
    }
    tap_ok(good, "a bin holds its lower end");
}

/* ---- outliers -------------------------------------------------------------------------------- */

static double median_of(double *x, int n)
{
    qsort(x, (size_t)n, sizeof *x, ascending);
    return n % 2 ? x[n / 2] : 0.5 * (x[n / 2 - 1] + x[n / 2]);
}

/* Score by its definition. The deviation is the upper of the two middle ones, as there. */
static double plain_score(const double *before, int n, double x, double least, double *median)
{
    double copy[64];
    memcpy(copy, before, (size_t)n * sizeof *copy);
    *median = median_of(copy, n);
    for (int i = 0; i < n; i++) copy[i] = fabs(before[i] - *median);
    qsort(copy, (size_t)n, sizeof *copy, ascending);
    return (x - *median) / fmax(1.4826 * copy[n / 2], least);
}

static void scores(int window)
{
    enum { N = 2000 };
    static double x[N];
    lk_outlier o;
    double worst = 0;
    int judged = 0;
    if (lk_outlier_open(&o, window) != LK_OK) return;
    for (int i = 0; i < N; i++) {
        x[i] = floor(20 * uniform((uint32_t)(i + 99))) / 4 + (i % 97 == 0 ? 50 : 0); /* with ties */
        lk_outlier_verdict v = lk_outlier_next(&o, x[i], 8, 1e-3);
        int few = window < LK_OUTLIER_FEW ? window : LK_OUTLIER_FEW, n = i < window ? i : window;
        if (i < few) {
            judged += !isnan(v.score);
            continue;
        }
        double median, score = plain_score(x + i - n, n, x[i], 1e-3, &median);
        worst = fmax(worst, fabs(v.score - score) + fabs(v.median - median));
    }
    tap_ok(judged == 0, "window of %d: no verdict of the first values", window);
    tap_ok(worst < 1e-9, "and scores are those of the definition: %.1e off", worst);
    lk_outlier_close(&o);
}

static void outliers(void)
{
    scores(8);
    scores(31);
    scores(60);
    lk_outlier o;
    int early = 0, spikes = 0, shifts = 0;
    if (lk_outlier_open(&o, 50) != LK_OK) return;
    for (int i = 0; i < 3000; i++) { /* a loss that falls, with noise: nothing to say */
        double loss = 2 + 8 * exp(-i / 200.0) + 0.1 * (uniform((uint32_t)i) + uniform(i + 5000u));
        early += lk_outlier_next(&o, loss, 12, 1e-3).begins;
    }
    tap_ok(early == 0, "a falling loss with noise: no alarm in 3,000 steps");
    spikes += lk_outlier_next(&o, 4, 12, 1e-3).begins;
    spikes += lk_outlier_next(&o, 5, 12, 1e-3).begins;
    lk_outlier_next(&o, 2.1, 12, 1e-3);
    spikes += lk_outlier_next(&o, 4, 12, 1e-3).begins;
    tap_ok(spikes == 2, "a spike of two steps and one of one step: two alarms, %d", spikes);
    lk_outlier_next(&o, NAN, 12, 1e-3);
    lk_outlier_next(&o, INFINITY, 12, 1e-3);
    lk_outlier_next(&o, 2.1, 12, 1e-3);
    for (int i = 0; i < 200; i++)
        shifts += lk_outlier_next(&o, 6 + 0.01 * (i % 7), 12, 1e-3).begins;
    tap_ok(shifts == 1, "a new level: one alarm, %d", shifts);
    lk_outlier_close(&o);
}

/* ---- event files ----------------------------------------------------------------------------- */

static void event_files(void)
{
    const unsigned char zeros[32] = {0};
    unsigned char ones[32], count[32];
    for (int i = 0; i < 32; i++) ones[i] = 0xff, count[i] = (unsigned char)i;
    tap_ok(lk_crc32c(zeros, 32) == 0x8a9136aau && lk_crc32c(ones, 32) == 0x62a8ab43u &&
               lk_crc32c(count, 32) == 0x46dd794eu,
           "CRC-32C as in RFC 3720, B.4");
    lk_tensorboard *tb = NULL;
    lk_status status = lk_tensorboard_open("tb", 8, &tb);
    if (status == LK_OK)
        status = lk_tensorboard_write(tb, 300, 1.5, &(lk_tensorboard_scalar){"a/b", 2.5}, 1);
    lk_tensorboard_close(tb);
    char path[600] = "", bytes[4096];
    DIR *d = opendir("tb");
    for (struct dirent *e = d ? readdir(d) : NULL; e; e = readdir(d))
        if (strstr(e->d_name, "tfevents")) snprintf(path, sizeof path, "tb/%s", e->d_name);
    if (d) closedir(d);
    size_t n = read_file(path, bytes, sizeof bytes);
    /* the last event: wall_time 1.5, step 300, summary { value { tag "a/b" simple_value 2.5 } } */
    static const unsigned char event[] = {0x09, 0,    0,    0,    0,    0,    0,    0xf8, 0x3f,
                                          0x10, 0xac, 0x02, 0x2a, 0x0c, 0x0a, 0x0a, 0x0a, 0x03,
                                          'a',  '/',  'b',  0x15, 0,    0,    0x20, 0x40};
    const char *at = n > sizeof event + 4 ? bytes + n - 4 - sizeof event : NULL;
    tap_ok(status == LK_OK && at && memcmp(at, event, sizeof event) == 0 && at[-12] == sizeof event,
           "an event is the protocol buffer it should be");
    tap_ok(n > 40 && memcmp(bytes + 12 + 11,
                            "\x1a\x0d"
                            "brain.Event:2",
                            15) == 0,
           "a file begins with its version");
    char tag[5000];
    memset(tag, 'x', sizeof tag - 1);
    tag[sizeof tag - 1] = '\0';
    status = lk_tensorboard_open("tb", 0, &tb);
    if (status == LK_OK)
        status = lk_tensorboard_write(tb, 1, 1, &(lk_tensorboard_scalar){tag, 1}, 1);
    tap_ok(status == LK_E_INTERNAL, "an event too long is refused: %.40s", lk_error_text());
    lk_error_clear();
    lk_tensorboard_close(tb);
    tap_ok(lk_tensorboard_open("none/tb", 0, &tb) == LK_E_INPUT, "no directory: %s",
           lk_error_text());
    lk_error_clear();
}

/* ---- Prometheus ------------------------------------------------------------------------------ */

static void metrics(void)
{
    char label[64] = "", small[24] = "", text[2048];
    lk_prometheus_label(label, sizeof label, "run", "a \"b\"\\c\nd");
    lk_prometheus_label(label, sizeof label, "q", "0.5");
    lk_prometheus_label(small, sizeof small, "name", "short");
    lk_prometheus_label(small, sizeof small, "other", "too long for it");
    tap_ok(strcmp(label, "run=\"a \\\"b\\\"\\\\c\\nd\",q=\"0.5\"") == 0, "labels are escaped: %s",
           label);
    tap_ok(strcmp(small, "name=\"short\"") == 0, "what does not fit is left out whole: %s", small);
    const lk_prometheus_sample m[] = {
        {"lockstep_a_seconds", "summary", "Time.", NULL, "quantile=\"0.5\"", 0.25},
        {"lockstep_a_seconds", "summary", "Time.", "_count", NULL, 3},
        {"lockstep_b", "gauge", "Missing.", NULL, NULL, NAN},
        {"lockstep_c_total", "counter", "Count.", NULL, label, 1e15},
        {"lockstep_d", "gauge", "Large.", NULL, NULL, INFINITY},
    };
    const char *want = "# HELP lockstep_a_seconds Time.\n# TYPE lockstep_a_seconds summary\n"
                       "lockstep_a_seconds{quantile=\"0.5\"} 0.25\nlockstep_a_seconds_count 3\n"
                       "# HELP lockstep_c_total Count.\n# TYPE lockstep_c_total counter\n"
                       "lockstep_c_total{run=\"a \\\"b\\\"\\\\c\\nd\",q=\"0.5\"} 1e+15\n"
                       "# HELP lockstep_d Large.\n# TYPE lockstep_d gauge\nlockstep_d +Inf\n";
    tap_ok(lk_prometheus_write("m.prom", m, 5) == LK_OK, "metrics are written");
    read_file("m.prom", text, sizeof text);
    tap_ok(strcmp(text, want) == 0, "in Prometheus' text format");
    tap_ok(access("m.prom.part", F_OK) != 0, "with nothing beside them");
    tap_room(8);
    lk_status status = lk_prometheus_write("m.prom", m, 1);
    tap_room(RLIM_INFINITY);
    tap_ok(status == LK_E_SYSTEM, "a full disk: %s", lk_error_text());
    lk_error_clear();
    size_t n = read_file("m.prom", text, sizeof text);
    tap_ok(n == strlen(want), "leaves the old file");
}

/* ---- the run log ----------------------------------------------------------------------------- */

static void add(lk_run_log *log, const char *event, uint64_t step)
{
    lk_run_log_write(log, event, 1.25, step, json_pack("{s:o}", "x", lk_run_log_real(NAN)));
}

static void run_logs(void)
{
    lk_run_log *log = NULL;
    char text[4096];
    tap_ok(lk_run_log_open("run.jsonl", 0, &log) == LK_OK, "a run log is made");
    for (uint64_t step = 0; step < 6; step++) add(log, "step", step);
    lk_run_log_close(log);
    FILE *f = fopen("run.jsonl", "a");
    if (f) fputs("{\"event\":\"step\",\"time\":2,\"st", f); /* a killed process */
    if (f) fclose(f);
    log = NULL;
    tap_ok(lk_run_log_open("run.jsonl", 9, &log) == LK_OK, "opened after half a line");
    add(log, "start", 5);
    lk_run_log_close(log);
    read_file("run.jsonl", text, sizeof text);
    const char *last = strstr(text, "{\"event\":\"start\"");
    tap_ok(last &&
               strcmp(last, "{\"event\":\"start\",\"time\":1.25,\"step\":5,\"x\":null}\n") == 0 &&
               last[-1] == '\n' && !strstr(text, "\"st{"),
           "the half is cut off, a line is whole");
    lk_run_log_open("run.jsonl", 3, &log);
    lk_run_log_close(log);
    read_file("run.jsonl", text, sizeof text);
    tap_ok(strstr(text, "\"step\":3,") && !strstr(text, "\"step\":4,") && !strstr(text, "start"),
           "a resume at step 3 keeps what came up to it");
    f = fopen("run.jsonl", "w");
    if (f) fwrite("{\"event\":\"step\",\"step\":1}\n\0\0\0\n{\"step\":2}\n", 1, 41, f);
    if (f) fclose(f);
    lk_run_log_open("run.jsonl", 9, &log);
    lk_run_log_close(log);
    tap_ok(read_file("run.jsonl", text, sizeof text) == 26, "what is no JSON ends the log");
    tap_ok(lk_run_log_open("none/run.jsonl", 0, &log) == LK_E_INPUT, "no directory: %s",
           lk_error_text());
    lk_error_clear();
    const struct rlimit none = {0, 0};
    signal(SIGXFSZ, SIG_IGN);
    if (lk_run_log_open("full.jsonl", 0, &log) == LK_OK && setrlimit(RLIMIT_FSIZE, &none) == 0) {
        add(log, "step", 1);
        tap_ok(lk_run_log_flush(log) == LK_E_SYSTEM, "a disk that takes no more: %s",
               lk_error_text());
        lk_error_clear();
        lk_run_log_close(log);
    }
    json_t *x = lk_run_log_real(0.1234567891), *y = lk_run_log_real(-5e-324);
    tap_ok(fabs(json_real_value(x) - 0.1234568) < 1e-15 && json_real_value(y) == -5e-324 &&
               json_is_null(lk_run_log_real(INFINITY)),
           "numbers have seven digits or are null");
    json_decref(x);
    json_decref(y);
}

int main(void)
{
    char directory[] = "/tmp/lockstep-metric-XXXXXX", command[80];
    if (!mkdtemp(directory) || chdir(directory) != 0) return 99;
    digits();
    progress("progress");
    rates("progress");
    histograms();
    outliers();
    event_files();
    metrics();
    run_logs();
    snprintf(command, sizeof command, "rm -rf %s", directory);
    if (chdir("/") != 0 || system(command) != 0) return 99;
    return tap_done();
}
