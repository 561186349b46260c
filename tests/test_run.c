/* Tests of the run file: every key, every kind of mistake with its message, round trips, what a
 * resumed run must keep, and 2,000 damaged files. */
#include "base/philox.h"
#include "tests/tap.h"
#include "train/run.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MUTATIONS = 2000 };

/* Every key, in the order of the resolved file: default, another good value, values that are not,
 * and what the message says was expected. A list of keys for itself, written by hand, so that a
 * change of the table in run.c is seen here. */
typedef struct key {
    const char *name, *standard, *other, *bad[5], *expected;
    bool fixed;
} key;

#define WHOLE "x", "1.5", "1e3", "true"
static const key keys[] = {
    {"directory", "\"d\"", "\"runs/\xc3\xa4 b\"", {"''"}, "text in UTF-8", false},
    {"seed", "1337", "0", {WHOLE, "-1"}, "a whole number from 0", true},
    {"data.file", "\"f.h5\"", "\"g.h5\"", {"''"}, "text in UTF-8", false},
    {"data.resident", "auto", "no", {"maybe", "''", "auto|yes"}, "one of auto|yes|no", false},
    {"data.resident_gib", "2", "0.25", {"x", "-1", "inf"}, "a number from 0 to 1e+06", false},
    {"model.kind", "transformer", NULL, {"mlp", "trans"}, "one of transformer", true},
    {"model.layers", "6", "2", {WHOLE, "0"}, "a whole number from 1 to 1000", true},
    {"model.width", "384", "768", {WHOLE, "65537"}, "a whole number from 1 to 65536", true},
    {"model.heads", "6", "3", {WHOLE, "1025"}, "a whole number from 1 to 1024", true},
    {"model.kv_heads", "0", "2", {WHOLE, "-1"}, "a whole number from 0 to 1024", true},
    {"model.context", "256", "64", {WHOLE, "1048577"}, "a whole number from 1 to 1048576", true},
    {"model.position", "alibi", "rope", {"alib", "none"}, "one of alibi|rope|learned|sinusoidal",
     true},
    {"model.norm", "layernorm", "rmsnorm", {"batchnorm"}, "one of layernorm|rmsnorm", true},
    {"model.ffn", "gelu", "swiglu", {"relu", "1"}, "one of gelu|swiglu", true},
    {"model.ffn_width", "0", "100", {WHOLE, "-1"}, "a whole number from 0 to 1048576", true},
    {"model.bias", "true", "false", {"1", "yes", "True", "''"}, "true or false", true},
    {"model.tied", "true", "false", {"0", "tru"}, "true or false", true},
    {"model.dropout", "0", "0.1", {"x", "-0.1", "1", "nan"}, "a number from 0 to 0.99", false},
    {"model.embedding_headroom", "0.2", "0", {"x", "17", "-1"}, "a number from 0 to 16", true},
    {"model.rope_theta", "10000", "500000", {"x", "0.5"}, "a number from 1 to 1e+09", true},
    {"model.norm_eps", "1e-05", "1e-06", {"x", "0"}, "a number from 1e-12 to 1", true},
    {"train.steps", "1000", "50", {WHOLE, "0"}, "a whole number from 1", false},
    {"train.batch", "64", "32", {WHOLE, "0"}, "a whole number from 1 to 1000000000", true},
    {"train.leaves", "0", "8", {WHOLE, "-1"}, "a whole number from 0 to 65536", false},
    {"train.precision", "fp32", "fp16", {"fp8", "FP32"}, "one of fp32|tf32|fp16|bf16", true},
    {"train.reduce", "exact", "fast", {"ring"}, "one of exact|fast", false},
    {"train.bucket_mib", "25", "0.5", {"x", "-1"}, "a number from 0 to 1e+06", false},
    {"train.recompute", "none", "block", {"all", "blocks"}, "one of none|ffn|block", false},
    {"train.device", "auto", "cpu", {"gpu", "0"}, "one of auto|cpu|cuda", false},
    {"train.stop_after", "0", "20", {WHOLE, "-1"}, "a whole number from 0", false},
    {"optimizer.lr", "0.001", "0.002", {"x", "-1", "101"}, "a number from 0 to 100", false},
    {"optimizer.min_lr", "0", "1e-05", {"x", "-1"}, "a number from 0 to 100", false},
    {"optimizer.warmup", "100", "0", {WHOLE, "-5"}, "a whole number from 0", false},
    {"optimizer.beta1", "0.9", "0.8", {"x", "1"}, "a number from 0 to 0.999999", false},
    {"optimizer.beta2", "0.99", "0.999", {"x", "1"}, "a number from 0 to 0.999999", false},
    {"optimizer.eps", "1e-08", "1e-06", {"x", "0", "2"}, "a number from 1e-20 to 1", false},
    {"optimizer.weight_decay", "0.1", "0", {"x", "-1"}, "a number from 0 to 100", false},
    {"optimizer.clip", "1", "0.5", {"x", "-1"}, "a number from 0 to 1e+09", false},
    {"loss_scale.initial", "65536", "1024", {"x", "0"}, "a number from 1 to 1e+12", false},
    {"loss_scale.growth", "2", "4", {"x", "0.5"}, "a number from 1 to 16", false},
    {"loss_scale.backoff", "0.5", "0.25", {"x", "2"}, "a number from 0.0625 to 1", false},
    {"loss_scale.max", "16777216", "1e+09", {"x", "0"}, "a number from 1 to 1e+12", false},
    {"loss_scale.interval", "1000", "7", {WHOLE, "0"}, "a whole number from 1 to 1000000000",
     false},
    {"eval.every", "250", "0", {WHOLE, "-1"}, "a whole number from 0", false},
    {"eval.batches", "20", "3", {WHOLE, "1000001"}, "a whole number from 0 to 1000000", false},
    {"checkpoint.every", "1000", "10", {WHOLE, "-1"}, "a whole number from 0", false},
    {"checkpoint.initial", "false", "true", {"on"}, "true or false", false},
    {"log.every", "50", "1", {WHOLE, "0"}, "a whole number from 1", false},
};
enum { KEYS = sizeof keys / sizeof *keys };

#define MINIMUM "directory: d\ndata:\n  file: f.h5\n"

static lk_status parse(const char *text, const char *set, lk_run *run)
{
    lk_error_clear();
    return lk_run_parse("run.yaml", text, set != NULL, &set, run);
}

/* The resolved text of a run file; NULL on error. */
static char *resolve(const char *text, const char *set)
{
    lk_run run;
    char *out = NULL;
    if (parse(text, set, &run) != LK_OK) return NULL;
    if (lk_run_format(&run, &out) != LK_OK) out = NULL;
    lk_run_clear(&run);
    return out;
}

/* The value of a key in a resolved text; "" if it is not there. */
static const char *value_of(const char *text, const char *name, char value[200])
{
    char section[500] = "", line[400], full[1000];
    value[0] = '\0';
    while (text && *text) {
        size_t n = strcspn(text, "\n");
        snprintf(line, sizeof line, "%.*s", (int)n, text);
        text += n + (text[n] == '\n');
        char *colon = strstr(line, ":");
        if (!colon) continue;
        *colon = '\0';
        if (colon[1] == '\0') {
            snprintf(section, sizeof section, "%s.", line);
            continue;
        }
        bool inside = line[0] == ' ';
        snprintf(full, sizeof full, "%s%s", inside ? section : "", line + (inside ? 2 : 0));
        if (strcmp(full, name) == 0) snprintf(value, 200, "%s", colon + 2);
    }
    return value;
}

/* The least run file that gives `name` the value; its line is 4 or, for the required keys, 1 or
 * 3. */
static int file_with(const char *name, const char *value, char text[1000])
{
    const char *dot = strchr(name, '.');
    if (strcmp(name, "directory") == 0)
        return snprintf(text, 1000, "directory: %s\ndata:\n  file: f.h5\n", value), 1;
    if (strcmp(name, "data.file") == 0)
        return snprintf(text, 1000, "directory: d\ndata:\n  file: %s\n", value), 3;
    if (!dot) return snprintf(text, 1000, MINIMUM "%s: %s\n", name, value), 4;
    if (strncmp(name, "data.", 5) == 0)
        return snprintf(text, 1000, MINIMUM "  %s: %s\n", dot + 1, value), 4;
    return snprintf(text, 1000, MINIMUM "%.*s:\n  %s: %s\n", (int)(dot - name), name, dot + 1,
                    value), 5;
}

/* ---- every key ------------------------------------------------------------ */

static void check_defaults(void)
{
    char *text = resolve(MINIMUM, NULL), line[400], value[200];
    bool good = text != NULL;
    int lines = 0;
    for (int k = 0; k < KEYS && text; k++) {
        value_of(text, keys[k].name, value);
        if (strcmp(value, keys[k].standard) == 0) continue;
        good = false;
        printf("# %s is %s, expected %s\n", keys[k].name, value, keys[k].standard);
    }
    for (const char *p = text; p && *p; p += strcspn(p, "\n") + 1) {
        snprintf(line, sizeof line, "%.*s", (int)strcspn(p, "\n"), p);
        lines += line[strlen(line) - 1] != ':';
    }
    tap_ok(good, "the defaults are what they should be");
    tap_ok(lines == KEYS, "the resolved file has %d keys, this test knows %d", lines, KEYS);
    free(text);
}

/* Set in a file and on the command line, the value is seen, and nothing else changes. */
static bool takes(const key *q)
{
    char text[1000], set[300], value[200], bare[200] = "";
    char *standard = resolve(MINIMUM, NULL);
    file_with(q->name, q->other, text);
    size_t n = strlen(q->other);
    if (q->other[0] == '"') snprintf(bare, sizeof bare, "%.*s", (int)n - 2, q->other + 1);
    snprintf(set, sizeof set, "%s=%s", q->name, bare[0] ? bare : q->other);
    char *file = resolve(text, NULL), *option = resolve(MINIMUM, set);
    bool good = file && option && strcmp(file, option) == 0 &&
                strcmp(value_of(file, q->name, value), q->other) == 0;
    for (int k = 0; k < KEYS && good; k++) {
        char other[200];
        if (&keys[k] == q) continue;
        good = strcmp(value_of(file, keys[k].name, value),
                      value_of(standard, keys[k].name, other)) == 0;
    }
    char *again = file ? resolve(file, NULL) : NULL;
    good = good && again && strcmp(file, again) == 0;
    if (!good) printf("# %s: %s\n", set, lk_error_text());
    free(standard);
    free(file);
    free(option);
    free(again);
    return good;
}

/* The message of a bad value: place, key, expected, found. */
static bool refuses(const key *q, const char *bad)
{
    char text[1000], words[600], set[300];
    lk_run run;
    const char *found = strcmp(bad, "''") == 0 ? "" : bad;
    int line = file_with(q->name, bad, text);
    snprintf(words, sizeof words, "run.yaml:%d: '%s': expected %s, found '%s'", line, q->name,
             q->expected, found);
    bool good = parse(text, NULL, &run) == LK_E_INPUT && strcmp(lk_error_text(), words) == 0;
    if (!good) printf("# '%s' instead of '%s'\n", lk_error_text(), words);
    snprintf(words, sizeof words, "--set: '%s': expected %s, found '%s'", q->name, q->expected,
             found);
    snprintf(set, sizeof set, "%s=%s", q->name, found);
    bool option = parse(MINIMUM, set, &run) == LK_E_INPUT && strcmp(lk_error_text(), words) == 0;
    if (!option) printf("# '%s' instead of '%s'\n", lk_error_text(), words);
    return good && option;
}

static bool kept_on_resume(const key *q)
{
    char text[1000], value[300];
    lk_run started, resumed;
    file_with(q->name, q->other, text);
    if (parse(MINIMUM, NULL, &started) != LK_OK) return false;
    if (parse(text, NULL, &resumed) != LK_OK) return false;
    lk_status status = lk_run_check_resume(&resumed, &started);
    snprintf(value, sizeof value, "run.yaml: '%s' is %s, but the run was started with %s", q->name,
             q->other, q->standard);
    bool good = q->fixed ? status == LK_E_INPUT && strstr(lk_error_text(), value) == lk_error_text()
                         : status == LK_OK;
    if (!good) printf("# %s: status %d, '%s'\n", q->name, status, lk_error_text());
    lk_run_clear(&started);
    lk_run_clear(&resumed);
    lk_error_clear();
    return good;
}

static void check_keys(void)
{
    for (int k = 0; k < KEYS; k++) {
        const key *q = &keys[k];
        bool good = true;
        for (int i = 0; i < 5 && q->bad[i]; i++) good &= refuses(q, q->bad[i]);
        if (q->other) good &= takes(q) && kept_on_resume(q);
        tap_ok(good, "%s: %s%s", q->name, q->expected, q->fixed ? ", kept by a resumed run" : "");
    }
}

/* ---- mistakes ------------------------------------------------------------ */

typedef struct mistake {
    const char *what, *text, *set, *words[3];
} mistake;

static const mistake mistakes[] = {
    {"an unknown key", MINIMUM "model:\n  layer: 2\n", NULL,
     {"run.yaml:5: unknown key 'model.layer'", "nearest is 'model.layers'", "help run-file"}},
    {"a key in the wrong section", MINIMUM "model:\n  lr: 1\n", NULL,
     {"run.yaml:5: unknown key 'model.lr'", "'optimizer.lr'"}},
    {"an unknown key at the top", MINIMUM "sead: 3\n", NULL,
     {"run.yaml:4: unknown key 'sead'", "'seed'"}},
    {"an unknown section", MINIMUM "optimiser:\n  lr: 1\n", NULL,
     {"run.yaml:4: unknown key 'optimiser'", "the nearest is"}},
    {"a section with a dotted name", MINIMUM "model.layers: 3\nmodel:\n  layers: 3\n", NULL,
     {"run.yaml:6: 'model.layers' is given twice", "first at line 4"}},
    {"an unknown key in --set", MINIMUM, "trains.steps=3",
     {"--set: unknown key 'trains.steps'", "'train.steps'"}},
    {"--set without a value", MINIMUM, "train.steps", {"--set: expected KEY=VALUE", "train.steps"}},
    {"--set without a key", MINIMUM, "=3", {"--set: expected KEY=VALUE", "found '=3'"}},
    {"--set of a section", MINIMUM, "train=3", {"--set: unknown key 'train'"}},
    {"an empty --set", MINIMUM, "", {"--set: expected KEY=VALUE, found ''"}},
    {"a key given twice", MINIMUM "seed: 1\nseed: 2\n", NULL,
     {"run.yaml:5: 'seed' is given twice", "line 4", "keep one"}},
    {"a section given twice with the same key", MINIMUM "eval:\n  every: 1\nlog:\n  every: 2\n"
                                                        "eval:\n  every: 3\n",
     NULL, {"run.yaml:9: 'eval.every' is given twice", "line 5"}},
    {"a list for a value", MINIMUM "seed: [1, 2]\n", NULL,
     {"run.yaml:4: 'seed': expected one value, found a list or mapping"}},
    {"a mapping for a value", MINIMUM "train:\n  steps:\n    a: 1\n", NULL,
     {"run.yaml:5: 'train.steps': expected one value, found a list or mapping"}},
    {"a list for a section", MINIMUM "train: [1]\n", NULL,
     {"run.yaml:4: 'train': expected keys below it"}},
    {"a value for a section", MINIMUM "train: 5\n", NULL,
     {"run.yaml:4: 'train': expected keys below it"}},
    {"a list for a key", MINIMUM "[1]: 5\n", NULL, {"run.yaml:4: expected a key, found a list"}},
    {"no mapping but a list", "- a\n- b\n", NULL, {"run.yaml:1: expected keys and values"}},
    {"no mapping but a value", "\n\nhello\n", NULL, {"run.yaml:3: expected keys and values"}},
    {"no YAML: a tab", "directory: d\ndata:\n\tfile: f.h5\n", NULL, {"run.yaml:3: not YAML: "}},
    {"no YAML: an open bracket", MINIMUM "seed: [1\n", NULL, {"run.yaml:", "not YAML: "}},
    {"no YAML: binary", "\x89HDF\r\n\x1a\n", NULL, {"run.yaml:1: not YAML: "}},
    {"two documents", MINIMUM "---\nseed: 2\n", NULL, {"run.yaml:4: expected one document"}},
    {"an empty file", "", NULL, {"run.yaml: the key 'directory' is missing"}},
    {"a file of comments", "# nothing\n\n# here\n", NULL,
     {"run.yaml: the key 'directory' is missing"}},
    {"no directory", "data:\n  file: f.h5\n", NULL, {"run.yaml: the key 'directory' is missing"}},
    {"no data file", "directory: d\n", NULL,
     {"run.yaml: the key 'data.file' is missing", "lockstep import"}},
    {"a key without a value", MINIMUM "seed:\n", NULL,
     {"run.yaml:4: 'seed': expected a whole number from 0, found ''"}},
    {"a control character in a name", "directory: \"a\\x07b\"\ndata:\n  file: f.h5\n", NULL,
     {"run.yaml:1: 'directory': expected text in UTF-8", "found 'a?b'"}},
    {"text that is not UTF-8", MINIMUM, "data.file=caf\xe9.h5",
     {"--set: 'data.file': expected text in UTF-8"}},
    {"a message with a line end in it", MINIMUM "seed: \"1\\n2\"\n", NULL,
     {"run.yaml:4: 'seed': expected a whole number from 0, found '1?2'"}},
    {"heads that do not divide the width", MINIMUM "model:\n  width: 100\n  heads: 3\n", NULL,
     {"run.yaml:6: model.heads 3 does not divide model.width 100"}},
    {"heads of the command line", MINIMUM, "model.heads=5",
     {"--set: model.heads 5 does not divide model.width 384"}},
    {"kv_heads that do not divide the heads", MINIMUM "model:\n  kv_heads: 4\n", NULL,
     {"run.yaml:5: model.kv_heads 4 does not divide model.heads 6"}},
    {"more kv_heads than heads", MINIMUM "model:\n  kv_heads: 12\n", NULL,
     {"run.yaml:5: model.kv_heads 12 does not divide model.heads 6"}},
    {"rope on an odd head", MINIMUM "model:\n  position: rope\n  width: 18\n", NULL,
     {"run.yaml:5: position rope needs an even head size, found 3"}},
    {"leaves that are no power of two", MINIMUM "train:\n  leaves: 6\n  batch: 12\n", NULL,
     {"run.yaml:5: train.leaves 6 is not a power of two"}},
    {"a batch that the leaves do not divide", MINIMUM "train:\n  leaves: 8\n  batch: 12\n", NULL,
     {"run.yaml:6: train.batch 12 is not a multiple of the 8 leaves"}},
    {"min_lr above lr", MINIMUM "optimizer:\n  min_lr: 0.5\n", NULL,
     {"run.yaml:5: optimizer.min_lr 0.5 is above optimizer.lr 0.001"}},
    {"a loss scale above its limit", MINIMUM "loss_scale:\n  max: 2\n", NULL,
     {"run.yaml: loss_scale.initial 65536 is above loss_scale.max 2"}},
    {"a number beyond 64 bits", MINIMUM "seed: 99999999999999999999\n", NULL,
     {"run.yaml:4: 'seed': expected a whole number from 0, found '99999999999999999999'"}},
};

static void check_mistakes(void)
{
    for (size_t i = 0; i < sizeof mistakes / sizeof *mistakes; i++) {
        const mistake *m = &mistakes[i];
        lk_run run;
        lk_status status = parse(m->text, m->set, &run);
        bool good = status == LK_E_INPUT && !strchr(lk_error_text(), '\n');
        for (int k = 0; k < 3 && m->words[k]; k++)
            good &= strstr(lk_error_text(), m->words[k]) != NULL;
        tap_ok(good, "%s: %s", m->what, lk_error_text());
        if (!good) printf("# status %d, expected '%s'\n", status, m->words[0]);
        if (status == LK_OK) lk_run_clear(&run);
    }
    lk_error_clear();
}

static void check_order(void)
{
    static const char *const sets[] = {"train.steps=5", "train.steps=7", "seed=3"};
    lk_run run;
    lk_error_clear();
    bool good = lk_run_parse("run.yaml", MINIMUM "train:\n  steps: 3\n", 3, sets, &run) == LK_OK;
    tap_ok(good && run.train.steps == 7 && run.seed == 3, "the last --set of a key wins");
    if (good) lk_run_clear(&run);

    good = parse(MINIMUM "model: {layers: 2, width: 64,\n heads: 4}\n", NULL, &run) == LK_OK;
    tap_ok(good && run.model.layers == 2 && run.model.heads == 4, "flow style is read too");
    if (good) lk_run_clear(&run);

    good = parse(MINIMUM, "data.file=a=b \"c\" \\ d: #e.h5", &run) == LK_OK;
    tap_ok(good && strcmp(run.data.file, "a=b \"c\" \\ d: #e.h5") == 0,
           "all after the first '=' is the value");
    char *text = NULL, *again = NULL;
    if (good && lk_run_format(&run, &text) == LK_OK) again = resolve(text, NULL);
    tap_ok(text && again && strcmp(text, again) == 0, "odd names survive the resolved file");
    if (good) lk_run_clear(&run);
    free(text);
    free(again);
}

static void check_precision(void)
{
    static const char *const sets[] = {"train.precision=fp32", "train.precision=tf32",
                                       "train.precision=fp16", "train.precision=bf16"};
    static const lk_precision values[] = {LK_FP32, LK_TF32, LK_FP16, LK_BF16_AUTOCAST};
    bool good = true;
    for (int i = 0; i < 4; i++) {
        lk_run run;
        if (parse(MINIMUM, sets[i], &run) != LK_OK) good = false;
        else {
            good &= lk_run_precision(&run) == values[i];
            lk_run_clear(&run);
        }
    }
    tap_ok(good, "precision by name");
}

/* ---- files ------------------------------------------------------------ */

static void check_files(void)
{
    char path[] = "/tmp/lockstep-run-XXXXXX";
    lk_run run;
    lk_error_clear();
    lk_status status = lk_run_load("/nowhere/run.yaml", 0, NULL, &run);
    tap_ok(status == LK_E_INPUT && strstr(lk_error_text(), "/nowhere/run.yaml: cannot read"),
           "a missing file: %s", lk_error_text());
    lk_error_clear();
    status = lk_run_load("/tmp", 0, NULL, &run);
    tap_ok(status == LK_E_INPUT && strstr(lk_error_text(), "/tmp"), "a directory: %s",
           lk_error_text());
    lk_error_clear();
    int fd = mkstemp(path);
    bool good = fd >= 0 && write(fd, MINIMUM "seed: 4\n", sizeof MINIMUM + 7) > 0;
    if (fd >= 0) close(fd);
    static const char *const set[] = {"train.steps=9"};
    good = good && lk_run_load(path, 1, set, &run) == LK_OK;
    tap_ok(good && run.seed == 4 && run.train.steps == 9 && strcmp(run.path, path) == 0,
           "a file is read, and its path kept");
    if (good) lk_run_clear(&run);
    lk_run zero = {.path = NULL};
    lk_run_clear(&zero);
    unlink(path);
}

/* The help is itself a run file: every key at its default, the two required ones apart. */
static void check_help(void)
{
    char *text = NULL, value[200];
    size_t size = 0;
    FILE *f = open_memstream(&text, &size);
    lk_run_help(f);
    fclose(f);
    bool names = true, meanings = true;
    for (int k = 0; k < KEYS; k++) {
        names &= value_of(text, keys[k].name, value)[0] != '\0';
        meanings &= strstr(text, keys[k].expected) != NULL;
    }
    tap_ok(names && meanings, "the help names every key, its meaning and range");
    char *resolved = resolve(text, NULL), *standard = resolve(MINIMUM, NULL);
    bool good = resolved != NULL;
    for (int k = 0; k < KEYS && good; k++) {
        char other[200];
        if (strcmp(keys[k].name, "directory") == 0 || strcmp(keys[k].name, "data.file") == 0)
            continue;
        good = strcmp(value_of(resolved, keys[k].name, value),
                      value_of(standard, keys[k].name, other)) == 0;
    }
    tap_ok(good, "the help is a run file with the defaults %s", lk_error_text());
    free(text);
    free(resolved);
    free(standard);
}

/* ---- damage ------------------------------------------------------------ */

static uint32_t draws;
static uint32_t draw(uint32_t below) /* a number in [0, below) */
{
    return lk_philox(23, draws++, 0, 0, 0).v[0] % below;
}

/* One to four changes of bytes or slices; returns the new length. */
static size_t mutate(char *text, size_t n, size_t room)
{
    static const char odd[] = ":[]{}&*#!|>'\"%@`-?,=.~ \t\n0\x7f\xc2\x80\xff\xef\xbb\xbf";
    for (uint32_t i = 0, changes = 1 + draw(4); i < changes && n > 2; i++) {
        size_t at = draw((uint32_t)n), length = 1 + draw(12);
        if (length > n - at) length = n - at;
        switch (draw(6)) {
        case 0: text[at] = (char)(1 + draw(255)); break;
        case 1: text[at] = odd[draw(sizeof odd - 1)]; break;
        case 2: /* remove */
            memmove(text + at, text + at + length, n - at - length);
            n -= length;
            break;
        case 3: /* repeat a slice elsewhere */
        case 4: {
            size_t to = draw((uint32_t)n);
            char slice[16];
            if (n + length >= room) break;
            memcpy(slice, text + at, length);
            memmove(text + to + length, text + to, n - to);
            memcpy(text + to, slice, length);
            n += length;
            break;
        }
        default: n = at + 1; /* cut */
        }
        if (draw(8) > 0 && i > 0) break;
    }
    text[n] = '\0';
    return n;
}

static void check_mutations(void)
{
    char *whole = resolve(MINIMUM "seed: 5\n", NULL);
    int accepted = 0, refused = 0;
    bool good = whole != NULL;
    char text[8192];
    for (int i = 0; i < MUTATIONS && good; i++) {
        draws = (uint32_t)i * 1000;
        strcpy(text, i % 2 ? whole : MINIMUM "model: {layers: 2}\nseed: 5\ntrain:\n  steps: 9\n");
        mutate(text, strlen(text), sizeof text - 1);
        lk_run run;
        lk_status status = parse(text, NULL, &run);
        if (status != LK_OK) {
            const char *t = lk_error_text();
            refused++;
            good = status == LK_E_INPUT && strncmp(t, "run.yaml", 8) == 0;
            for (; *t; t++) good &= (unsigned char)*t >= ' ' && *t != 0x7f;
        } else { /* what is accepted can be kept with the run and read again */
            char *first = NULL, *second = NULL;
            accepted++;
            good = lk_run_format(&run, &first) == LK_OK;
            lk_run_clear(&run);
            second = good ? resolve(first, NULL) : NULL;
            good = good && second && strcmp(first, second) == 0;
            free(first);
            free(second);
        }
        if (!good) printf("# file %d, status %d: %s\n%s\n", i, status, lk_error_text(), text);
    }
    tap_ok(good && accepted > 50 && refused > 500,
           "damaged files: %d refused with one line, %d still good and kept faithfully", refused,
           accepted);
    free(whole);
    lk_error_clear();
}

int main(void)
{
    check_defaults();
    check_keys();
    check_mistakes();
    check_order();
    check_precision();
    check_files();
    check_help();
    check_mutations();
    return tap_done();
}
