/* What of a report is words and numbers. */
#include "train/report.h"

#include "base/digits.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const char *text(const json_t *o, const char *name)
{
    const char *s = json_string_value(json_object_get(o, name));
    return s ? s : "";
}

/* A cell or "-": not measured. */
static void figure(lk_html *p, const char *format, double x)
{
    char text[64];
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    snprintf(text, sizeof text, format, x);
#pragma GCC diagnostic pop
    lk_html_cell(p, "%s", isnan(x) ? "-" : text);
}

static void date(double seconds, char text[32])
{
    time_t t = (time_t)seconds;
    struct tm parts;
    text[0] = '\0';
    if (isfinite(seconds) && gmtime_r(&t, &parts)) strftime(text, 32, "%Y-%m-%d %H:%M:%S", &parts);
}

/* ---- summary --------------------------------------------------------------------------------- */

static void tiles(lk_html *p, const lk_history *h)
{
    int64_t at = 0;
    double best = lk_history_best(h, &at);
    char duration[32], rate[32];
    lk_html_tiles_begin(p);
    char name[64];
    snprintf(name, sizeof name, "steps of %lld", (long long)lk_history_total(h));
    lk_html_tile(p, name, "%lld", (long long)lk_history_done(h));
    if (h->loss.rows) lk_html_tile(p, "training loss", "%.4f", lk_history_last(&h->loss, LK_LOSS));
    snprintf(name, sizeof name, "best validation, at %lld", (long long)at);
    if (!isnan(best)) lk_html_tile(p, name, "%.4f", best);
    double accuracy = lk_history_last(&h->validation, LK_VALID_ACCURACY);
    if (!isnan(accuracy)) lk_html_tile(p, "accuracy", "%.2f %%", 100 * accuracy);
    if (h->record.rows) {
        lk_html_tile(p, "time", "%s", lk_digits_duration(lk_history_worked(h), duration));
        lk_html_tile(p, "samples a second", "%s",
                     lk_digits_rate(lk_history_last(&h->record, LK_RECORD_RATE), rate));
        lk_html_tile(p, "step p50", "%.4g ms", lk_history_last(&h->record, LK_RECORD_P50));
        lk_html_tile(p, "step p99", "%.4g ms", lk_history_last(&h->record, LK_RECORD_P99));
        lk_html_tile(p, "host memory", "%.1f MiB",
                     lk_history_last(&h->record, LK_RECORD_HOST) / 0x1p20);
        lk_html_tile(p, "device memory", "%.1f MiB",
                     lk_history_last(&h->record, LK_RECORD_DEVICE) / 0x1p20);
    }
    lk_html_tiles_end(p);
}

static void comparison(lk_html *p, int runs, lk_history *const *h)
{
    static const char *const heading[] = {"run",      "steps",     "loss",        "best validation",
                                          "accuracy", "samples/s", "step p50 ms", "p95",
                                          "p99",      "time",      "host MiB"};
    lk_html_table_begin(p, "Where the runs stand", 11, heading, "lr");
    for (int r = 0; r < runs; r++) {
        const lk_table *t = &h[r]->record;
        char duration[32], rate[32];
        double samples = lk_history_last(t, LK_RECORD_RATE);
        lk_html_cell(p, "%s", h[r]->directory);
        lk_html_cell(p, "%lld", (long long)lk_history_done(h[r]));
        figure(p, "%.4f", lk_history_last(&h[r]->loss, LK_LOSS));
        figure(p, "%.4f", lk_history_best(h[r], NULL));
        figure(p, "%.4f", lk_history_last(&h[r]->validation, LK_VALID_ACCURACY));
        lk_html_cell(p, "%s", isnan(samples) ? "-" : lk_digits_rate(samples, rate));
        figure(p, "%.4g", lk_history_last(t, LK_RECORD_P50));
        figure(p, "%.4g", lk_history_last(t, LK_RECORD_P95));
        figure(p, "%.4g", lk_history_last(t, LK_RECORD_P99));
        lk_digits_duration(lk_history_worked(h[r]), duration);
        lk_html_cell(p, "%s", t->rows ? duration : "-");
        figure(p, "%.1f", lk_history_last(t, LK_RECORD_HOST) / 0x1p20);
    }
    lk_html_table_end(p);
}

static void state_note(lk_html *p, const lk_history *h, int runs, double now)
{
    char state[LK_HISTORY_TEXT];
    const char *prefix = runs > 1 ? h->directory : "the run";
    lk_run_state stands = lk_history_state(h, now, state);
    bool ended = stands == LK_RUN_STOPPED || stands == LK_RUN_FAILED;
    lk_html_level level = stands == LK_RUN_DONE || stands == LK_RUN_RUNNING ? LK_HTML_OK
                          : stands == LK_RUN_FAILED                         ? LK_HTML_ERROR
                                                                            : LK_HTML_WARNING;
    if (runs == 1 || !h->done)
        lk_html_note(p, level, "%s %s %s (step %lld of %lld)", prefix, ended ? "ended:" : "is",
                     state, (long long)lk_history_done(h), (long long)lk_history_total(h));
    if (h->unreadable)
        lk_html_note(p, LK_HTML_WARNING,
                     "%s: lines of its logs that make no sense, left out: %lld", h->directory,
                     (long long)h->unreadable);
    if (h->run_problem) lk_html_note(p, LK_HTML_WARNING, "%s", h->run_problem);
    if (h->loss.rows == 0) lk_html_note(p, LK_HTML_WARNING, "%s has no steps yet", h->directory);
}

void lk_report_summary(lk_html *p, int runs, lk_history *const *h, double now)
{
    char made[32];
    date(now, made);
    const json_t *s = lk_history_start(h[0]);
    double ranks = lk_history_number(s, "ranks");
    if (runs == 1 && s)
        lk_html_paragraph(p, "%s, %s, %.0f parameters, on %.0f rank%s of %s.", text(s, "model"),
                          text(s, "precision"), lk_history_number(s, "parameters"), ranks,
                          ranks == 1 ? "" : "s", text(s, "device"));
    lk_html_section(p, "Summary");
    for (int r = 0; r < runs; r++) state_note(p, h[r], runs, now);
    if (runs == 1) tiles(p, h[0]);
    else comparison(p, runs, h);
    lk_html_paragraph(p, "Written %s UTC by lockstep report.", made);
}

/* ---- warnings -------------------------------------------------------------------------------- */

static void samples(lk_html *p, const json_t *list)
{
    enum { SHOWN = 8 };
    char out[SHOWN * 22 + 40] = "";
    size_t n = json_array_size(list), used = 0;
    for (size_t i = 0; i < n && i < SHOWN; i++)
        used += (size_t)snprintf(out + used, sizeof out - used, "%s%lld", i ? ", " : "",
                                 (long long)json_integer_value(json_array_get(list, i)));
    if (n > SHOWN) snprintf(out + used, sizeof out - used, " and %zu more", n - SHOWN);
    lk_html_cell(p, "%s", out);
}

void lk_report_warnings(lk_html *p, int runs, lk_history *const *h)
{
    enum { SHOWN = 50 };
    static const char *const heading[] = {"run", "step", "warning", "rows of the batch"};
    size_t count = 0, shown = 0;
    for (int r = 0; r < runs; r++) count += json_array_size(h[r]->warnings);
    if (count == 0) return;
    lk_html_section(p, "Warnings");
    lk_html_table_begin(p, "What stood out while training", 4, heading, "lrll");
    for (int r = 0; r < runs; r++)
        for (size_t i = 0; i < json_array_size(h[r]->warnings) && shown < SHOWN; i++, shown++) {
            const json_t *w = json_array_get(h[r]->warnings, i);
            lk_html_cell(p, "%s", h[r]->directory);
            lk_html_cell(p, "%.0f", lk_history_number(w, "step"));
            lk_html_cell(p, "%s", text(w, "text"));
            samples(p, json_object_get(w, "samples"));
        }
    lk_html_table_end(p);
    if (count > shown) lk_html_paragraph(p, "And %zu more in run.jsonl.", count - shown);
}

/* ---- ranks ----------------------------------------------------------------------------------- */

static double element(const json_t *o, const char *name, size_t i)
{
    const json_t *v = json_array_get(json_object_get(o, name), i);
    return json_is_number(v) ? json_number_value(v) : NAN;
}

/* The last gathering of each run that had several ranks. */
void lk_report_ranks(lk_html *p, int runs, lk_history *const *h)
{
    static const char *const heading[] = {"rank", "own work, ms a step", "waiting for data, ms",
                                          "validation, ms a batch", "host peak, MiB"};
    enum { SHOWN = 64 };
    for (int r = 0; r < runs; r++) {
        const json_t *o = json_array_get(h[r]->ranks, json_array_size(h[r]->ranks) - 1);
        size_t n = json_array_size(json_object_get(o, "data_wait_ms"));
        char caption[300];
        if (!o || n != (size_t)lk_history_number(lk_history_start(h[r]), "ranks")) continue;
        snprintf(caption, sizeof caption, "Ranks of %.200s at step %.0f", h[r]->directory,
                 lk_history_number(o, "step"));
        lk_html_table_begin(p, caption, 5, heading, "lr");
        for (size_t i = 0; i < n && i < SHOWN; i++) {
            lk_html_cell(p, "%zu", i);
            figure(p, "%.3f", element(o, "work_ms", i));
            figure(p, "%.3f", element(o, "data_wait_ms", i));
            figure(p, "%.3f", element(o, "evaluation_ms", i));
            figure(p, "%.1f", element(o, "host_peak", i) / 0x1p20);
        }
        lk_html_table_end(p);
        if (n > SHOWN) lk_html_paragraph(p, "And %zu ranks more in run.jsonl.", n - SHOWN);
    }
}

/* ---- starts ---------------------------------------------------------------------------------- */

static void flat_value(const json_t *v, char out[512])
{
    char *dump = json_is_string(v) ? NULL : json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT);
    snprintf(out, 512, "%s", json_is_string(v) ? json_string_value(v) : dump ? dump : "");
    free(dump);
}

/* All that starts.jsonl says of the last start, whatever it is. */
static void environment(lk_html *p, const lk_history *h, int runs)
{
    json_t *o = json_array_get(h->hosts, json_array_size(h->hosts) - 1), *v;
    const char *name;
    char caption[300], out[512];
    if (!json_is_object(o)) return;
    snprintf(caption, sizeof caption, "Environment of the last start%s%.200s",
             runs > 1 ? " of " : "", runs > 1 ? h->directory : "");
    lk_html_pairs_begin(p, caption);
    json_object_foreach(o, name, v)
    {
        flat_value(v, out);
        lk_html_pair(p, name, "%s", out);
    }
    lk_html_pairs_end(p);
}

void lk_report_starts(lk_html *p, int runs, lk_history *const *h)
{
    static const char *const heading[] = {"run",  "started (UTC)", "from step", "ranks",
                                          "host", "device",        "code",      "build"};
    size_t count = 0;
    for (int r = 0; r < runs; r++) count += json_array_size(h[r]->starts);
    lk_html_section(p, "Data and environment");
    if (count > 0) lk_html_table_begin(p, "Starts", 8, heading, "llrrllll");
    for (int r = 0; r < runs; r++)
        for (size_t i = 0; i < json_array_size(h[r]->starts); i++) {
            const json_t *s = json_array_get(h[r]->starts, i);
            char when[32];
            date(lk_history_number(s, "time"), when);
            lk_html_cell(p, "%s", h[r]->directory);
            lk_html_cell(p, "%s", when);
            lk_html_cell(p, "%.0f", lk_history_number(s, "step"));
            lk_html_cell(p, "%.0f", lk_history_number(s, "ranks"));
            lk_html_cell(p, "%s", text(s, "host"));
            lk_html_cell(p, "%s", text(s, "device"));
            lk_html_cell(p, "%s", text(s, "code"));
            lk_html_cell(p, "%s", text(s, "build"));
        }
    if (count > 0) lk_html_table_end(p);
    for (int r = 0; r < runs; r++) {
        const json_t *s = lk_history_start(h[r]), *data = json_object_get(s, "data");
        if (data) {
            lk_html_pairs_begin(p, runs > 1 ? h[r]->directory : "Data and model");
            lk_html_pair(p, "dataset", "%s", text(data, "file"));
            lk_html_pair(p, "digest of the dataset", "%s", text(data, "digest"));
            lk_html_pair(p, "model", "%s, %.0f parameters, %s", text(s, "model"),
                         lk_history_number(s, "parameters"), text(s, "precision"));
            double leaves = lk_history_number(s, "leaves");
            lk_html_pair(p, "batch", "%.0f samples in %.0f lea%s", lk_history_number(s, "batch"),
                         leaves, leaves == 1 ? "f" : "ves");
            lk_html_pairs_end(p);
        }
        environment(p, h[r], runs);
    }
}

/* ---- settings -------------------------------------------------------------------------------- */

/* The value of a key, as it stands in the resolved run file: "  name: value" below "section:". */
static const char *value_of(const lk_history *h, const char *section, const char *name, int length,
                            char out[256])
{
    char here[64] = "";
    out[0] = '\0';
    for (const char *s = h->run_text; s && *s; s = strchr(s, '\n') ? strchr(s, '\n') + 1 : NULL) {
        int n = (int)strcspn(s, "\n"), colon = (int)strcspn(s, ":\n"), in = s[0] == ' ' ? 2 : 0;
        if (!in && colon + 1 == n) snprintf(here, sizeof here, "%.*s", colon, s);
        if (!in && colon + 1 != n) here[0] = '\0';
        if (strcmp(here, section) != 0 || colon - in != length || colon + 1 >= n) continue;
        if (strncmp(s + in, name, (size_t)length) == 0)
            snprintf(out, 256, "%.*s", n - colon - 2, s + colon + 2);
    }
    return out;
}

/* Keys in which the runs differ; those of run 0 that others lack are shown empty there. */
static void differences(lk_html *p, int runs, lk_history *const *h)
{
    const char *heading[64] = {"key"};
    char section[64] = "", first[256], other[256];
    int shown = runs < 63 ? runs : 63;
    for (int r = 0; r < shown; r++) heading[r + 1] = h[r]->directory;
    lk_html_table_begin(p, "Settings in which the runs differ", shown + 1, heading, "l");
    const char *next;
    for (const char *s = h[0]->run_text; s && *s; s = next) {
        int n = (int)strcspn(s, "\n"), colon = (int)strcspn(s, ":\n"), in = s[0] == ' ' ? 2 : 0;
        next = s[n] ? s + n + 1 : NULL;
        if (!in) snprintf(section, sizeof section, "%.*s", colon + 1 == n ? colon : 0, s);
        if (colon < in || colon + 1 >= n) continue; /* no key, or no value */
        bool differs = false;
        value_of(h[0], section, s + in, colon - in, first);
        for (int r = 1; r < shown; r++)
            differs |= strcmp(first, value_of(h[r], section, s + in, colon - in, other)) != 0;
        if (!differs) continue;
        lk_html_cell(p, "%s%s%.*s", section, section[0] ? "." : "", colon - in, s + in);
        for (int r = 0; r < shown; r++)
            lk_html_cell(p, "%s", value_of(h[r], section, s + in, colon - in, other));
    }
    lk_html_table_end(p);
}

void lk_report_settings(lk_html *p, int runs, lk_history *const *h)
{
    lk_html_section(p, "Settings");
    if (runs > 1) differences(p, runs, h);
    for (int r = 0; r < runs; r++) {
        char name[300];
        if (!h[r]->run_text) continue;
        snprintf(name, sizeof name, "%.250s/run.yaml", h[r]->directory);
        lk_html_listing(p, name, h[r]->run_text);
    }
}
