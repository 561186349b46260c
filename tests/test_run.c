/* Tests of the run file: every key, every kind of mistake with its message, round trips, what a
 * resumed run must keep, and 2,000 damaged files. */
#include "base/philox.h"
#include "tests/tap.h"
#include "train/run.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MUTATIONS = 2000 };

/* Kinds of model, and sets of them. */
enum {
    KINDS = 4,
    TEXT = 1,
    MOBILE = 2,
    RESNET = 4,
    FUSION = 8,
    VISION = MOBILE | RESNET,
    BLOCKS = TEXT | FUSION,
    IMAGES = VISION | FUSION,
    ALL = TEXT | IMAGES
};
static const char *const kinds[KINDS] = {"transformer", "mobilenetv3", "resnet18", "fusion"};

/* Every key, in the order of the resolved file: default, another good value, values that are not,
 * and what the message says was expected; whether a resumed run keeps it; the kinds of model it has
 * a meaning for. A list of keys for itself, written by hand, so that a change of the table in
 * run_keys.h is seen here. */
typedef struct key {
    const char *name, *standard, *other, *bad[5], *expected;
    bool fixed;
    int models;
} key;

#define WHOLE "x", "1.5", "1e3", "true"
static const key keys[] = {
    {"directory", "\"d\"", "\"runs/\xc3\xa4 b\"", {"''"}, "a line of text in UTF-8", false, ALL},
    {"seed", "1337", "0", {WHOLE, "-1"}, "a whole number from 0 to 1e+15", true, ALL},
    {"data.file", "\"f.h5\"", "\"g.h5\"", {"''"}, "a line of text in UTF-8", false, ALL},
    {"data.check", "auto", "off", {"maybe", "''", "on"}, "one of auto|off", false, ALL},
    {"data.resident", "auto", "no", {"maybe", "''", "auto|yes"}, "one of auto|yes|no", false, ALL},
    {"data.resident_gib", "2", "0.25", {"x", "-1", "inf"}, "a number from 0 to 1e+06", false, ALL},
    {"model.kind", "transformer", NULL, {"mlp", "trans", "resnet"},
     "one of transformer|mobilenetv3|resnet18|fusion", true, ALL},
    {"model.layers", "6", "2", {WHOLE, "0"}, "a whole number from 1 to 1000", true, BLOCKS},
    {"model.image_layers", "4", "2", {WHOLE, "0"}, "a whole number from 1 to 1000", true, FUSION},
    {"model.cross_layers", "4", "2", {WHOLE, "0"}, "a whole number from 1 to 1000", true, FUSION},
    {"model.patch", "16", "8", {WHOLE, "0"}, "a whole number from 1 to 4096", true, FUSION},
    {"model.width", "384", "768", {WHOLE, "65537"}, "a whole number from 1 to 65536", true, BLOCKS},
    {"model.heads", "6", "3", {WHOLE, "1025"}, "a whole number from 1 to 1024", true, BLOCKS},
    {"model.kv_heads", "0", "2", {WHOLE, "-1"}, "a whole number from 0 to 1024", true, BLOCKS},
    {"model.context", "256", "64", {WHOLE, "1048577"}, "a whole number from 1 to 1048576", true,
     TEXT},
    {"model.position", "alibi", "rope", {"alib", "none"}, "one of alibi|rope|learned|sinusoidal",
     true, BLOCKS},
    {"model.norm", "layernorm", "rmsnorm", {"groupnorm", "batch"},
     "one of auto|layernorm|rmsnorm|batchnorm", true, ALL},
    {"model.ffn", "gelu", "swiglu", {"relu", "1"}, "one of gelu|swiglu", true, BLOCKS},
    {"model.ffn_width", "0", "100", {WHOLE, "-1"}, "a whole number from 0 to 1048576", true,
     BLOCKS},
    {"model.bias", "true", "false", {"1", "yes", "True", "''"}, "true or false", true, BLOCKS},
    {"model.tied", "true", "false", {"0", "tru"}, "true or false", true, TEXT},
    {"model.dropout", "0", "0.1", {"x", "-0.1", "1", "nan"}, "a number from 0 to 0.99", false, ALL},
    {"model.embedding_headroom", "0.2", "0", {"x", "17", "-1"}, "a number from 0 to 16", true,
     TEXT},
    {"model.rope_theta", "10000", "500000", {"x", "0.5"}, "a number from 1 to 1e+09", true, BLOCKS},
    {"model.norm_eps", "1e-05", "1e-06", {"x", "0"}, "a number from 1e-12 to 1", true, ALL},
    {"model.size", "small", "large", {"tiny", "smal"}, "one of small|large", true, MOBILE},
    {"model.width_multiplier", "1", "0.25", {"x", "0", "17"}, "a number from 0.05 to 16", true,
     VISION},
    {"model.stem_stride", "2", "1", {WHOLE, "0"}, "a whole number from 1 to 2", true, VISION},
    {"model.attention", "se", "eca", {"cbam", "s"}, "one of se|none|eca", true, MOBILE},
    {"model.stochastic_depth", "0", "0.2", {"x", "-1", "1"}, "a number from 0 to 0.99", false,
     VISION},
    {"model.norm_momentum", "0.1", "0.01", {"x", "-1", "2"}, "a number from 0 to 1", false, VISION},
    {"model.image_size", "0", "32", {WHOLE, "4097"}, "a whole number from 0 to 4096", true, IMAGES},
    {"augment.flip", "false", "true", {"1", "yes"}, "true or false", false, IMAGES},
    {"augment.pad", "0", "4", {WHOLE, "-1"}, "a whole number from 0 to 1024", false, IMAGES},
    {"augment.crop", "1", "0.08", {"x", "0", "1.5"}, "a number from 0.01 to 1", false, IMAGES},
    {"augment.erase", "0", "0.25", {"x", "-1", "2"}, "a number from 0 to 1", false, IMAGES},
    {"augment.mixup", "0", "0.2", {"x", "-1", "2"}, "a number from 0 to 1", false, VISION},
    {"augment.smoothing", "0", "0.1", {"x", "-1", "1"}, "a number from 0 to 0.99", false, IMAGES},
    {"train.steps", "1000", "50", {WHOLE, "0"}, "a whole number from 1 to 1e+15", false, ALL},
    {"train.batch", "64", "32", {WHOLE, "0"}, "a whole number from 1 to 1000000000", true, ALL},
    {"train.leaves", "0", "8", {WHOLE, "-1"}, "a whole number from 0 to 65536", false, ALL},
    {"train.precision", "fp32", "fp16", {"fp8", "FP32"}, "one of fp32|tf32|fp16|bf16", true, ALL},
    {"train.reduce", "exact", "fast", {"ring"}, "one of exact|fast", false, ALL},
    {"train.bucket_mib", "100", "0.5", {"x", "-1"}, "a number from 0 to 1e+06", false, ALL},
    {"train.recompute", "none", "block", {"all", "blocks"}, "one of none|ffn|block", false, BLOCKS},
    {"train.ema", "0", "0.9995", {"x", "-1", "1"}, "a number from 0 to 0.999999", true, ALL},
    {"train.device", "auto", "cpu", {"gpu", "0"}, "one of auto|cpu|cuda", false, ALL},
    {"train.stop_after", "0", "20", {WHOLE, "-1"}, "a whole number from 0 to 1e+15", false, ALL},
    {"train.timeout", "-1", "30", {"x", "-2", "1e7"}, "a number from -1 to 1e+06", false, ALL},
    {"optimizer.lr", "0.001", "0.002", {"x", "-1", "101"}, "a number from 0 to 100", false, ALL},
    {"optimizer.min_lr", "0", "1e-05", {"x", "-1"}, "a number from 0 to 100", false, ALL},
    {"optimizer.warmup", "100", "0", {WHOLE, "-5"}, "a whole number from 0 to 1e+15", false, ALL},
    {"optimizer.beta1", "0.9", "0.8", {"x", "1"}, "a number from 0 to 0.999999", false, ALL},
    {"optimizer.beta2", "0.99", "0.999", {"x", "1"}, "a number from 0 to 0.999999", false, ALL},
    {"optimizer.eps", "1e-08", "1e-06", {"x", "0", "2"}, "a number from 1e-20 to 1", false, ALL},
    {"optimizer.weight_decay", "0.1", "0", {"x", "-1"}, "a number from 0 to 100", false, ALL},
    {"optimizer.clip", "1", "0.5", {"x", "-1"}, "a number from 0 to 1e+09", false, ALL},
    {"loss_scale.initial", "65536", "1024", {"x", "0"}, "a number from 1 to 1e+12", false, ALL},
    {"loss_scale.growth", "2", "4", {"x", "0.5"}, "a number from 1 to 16", false, ALL},
    {"loss_scale.backoff", "0.5", "0.25", {"x", "2"}, "a number from 0.0625 to 1", false, ALL},
    {"loss_scale.max", "16777216", "1e+09", {"x", "0"}, "a number from 1 to 1e+12", false, ALL},
    {"loss_scale.interval", "1000", "7", {WHOLE, "0"}, "a whole number from 1 to 1000000000",
     false, ALL},
    {"eval.every", "250", "0", {WHOLE, "-1"}, "a whole number from 0 to 1e+15", false, ALL},
    {"eval.batches", "20", "3", {WHOLE, "1000001"}, "a whole number from 0 to 1000000", false, ALL},
    {"checkpoint.every", "1000", "10", {WHOLE, "-1"}, "a whole number from 0 to 1e+15", false, ALL},
    {"checkpoint.initial", "false", "true", {"on"}, "true or false", false, ALL},
    {"checkpoint.keep", "3", "10", {WHOLE, "-1"}, "a whole number from 0 to 1e+15", false, ALL},
    {"checkpoint.keep_every", "0", "10", {WHOLE, "-1"}, "a whole number from 0 to 1e+15", false,
     ALL},
    {"log.every", "50", "1", {WHOLE, "0"}, "a whole number from 1 to 1e+15", false, ALL},
    {"trace.from", "0", "1", {WHOLE, "-1"}, "a whole number from 0 to 1e+15", false, ALL},
    {"trace.to", "0", "9", {WHOLE, "-1"}, "a whole number from 0 to 1e+15", false, ALL},
    {"log.run_log", "true", "false", {"yes", "''"}, "true or false", false, ALL},
    {"log.tensorboard", "false", "true", {"1", "run"}, "true or false", false, ALL},
    {"log.prometheus", "\"false\"", "\"/metrics/a.prom\"", {"''"}, "a line of text in UTF-8", false,
     ALL},
    {"log.steps", "1", "10", {WHOLE, "0"}, "a whole number from 1 to 1e+15", false, ALL},
    {"log.outlier", "12", "0", {"x", "-1"}, "a number from 0 to 1e+06", false, ALL},
    {"log.outlier_window", "100", "50", {WHOLE, "7"}, "a whole number from 8 to 100000", false,
     ALL},
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

/* The least run file for a kind of model. */
static const char *base(int kind)
{
    static const char *const text[KINDS] = {MINIMUM, MINIMUM "model:\n  kind: mobilenetv3\n",
                                            MINIMUM "model:\n  kind: resnet18\n",
                                            MINIMUM "model:\n  kind: fusion\n"};
    return text[kind];
}

/* The same with `name` at the value; returns the number of its line. */
static int file_with(const char *name, const char *value, int kind, char text[1000])
{
    const char *dot = strchr(name, '.'), *model = base(kind) + strlen(MINIMUM);
    int lines = kind ? 5 : 3;
    if (strcmp(name, "directory") == 0)
        return snprintf(text, 1000, "directory: %s\ndata:\n  file: f.h5\n%s", value, model), 1;
    if (strcmp(name, "data.file") == 0)
        return snprintf(text, 1000, "directory: d\ndata:\n  file: %s\n%s", value, model), 3;
    if (!dot) return snprintf(text, 1000, "%s%s: %s\n", base(kind), name, value), lines + 1;
    if (strncmp(name, "data.", 5) == 0)
        return snprintf(text, 1000, MINIMUM "  %s: %s\n%s", dot + 1, value, model), 4;
    if (kind && strncmp(name, "model.", 6) == 0)
        return snprintf(text, 1000, "%s  %s: %s\n", base(kind), dot + 1, value), lines + 1;
    return snprintf(text, 1000, "%s%.*s:\n  %s: %s\n", base(kind), (int)(dot - name), name, dot + 1,
                    value), lines + 2;
}

static bool has(const key *q, int kind) { return q->models >> kind & 1; }

/* The default of a key for a kind of model; "": the resolved file does not have it. */
static const char *standard(const key *q, int kind)
{
    if (!has(q, kind)) return "";
    if (strcmp(q->name, "model.kind") == 0) return kinds[kind];
    return VISION >> kind & 1 && strcmp(q->name, "model.norm") == 0 ? "batchnorm" : q->standard;
}

/* ---- every key ------------------------------------------------------------ */

static void check_defaults(int kind)
{
    char *text = resolve(base(kind), NULL), line[400], value[200];
    bool good = text != NULL;
    int lines = 0, known = 0;
    for (int k = 0; k < KEYS && text; k++) {
        value_of(text, keys[k].name, value);
        known += has(&keys[k], kind);
        if (strcmp(value, standard(&keys[k], kind)) == 0) continue;
        good = false;
        printf("# %s is '%s', expected '%s'\n", keys[k].name, value, standard(&keys[k], kind));
    }
    for (const char *p = text; p && *p; p += strcspn(p, "\n") + 1) {
        snprintf(line, sizeof line, "%.*s", (int)strcspn(p, "\n"), p);
        lines += line[strlen(line) - 1] != ':';
    }
    tap_ok(good, "%s: the defaults are what they should be", kinds[kind]);
    tap_ok(lines == known, "the resolved file has %d keys, this test knows %d", lines, known);
    free(text);
}

/* Set in a file and on the command line, the value is seen, and nothing else changes. */
static bool takes(const key *q, int kind)
{
    char text[1000], set[300], value[200], bare[200] = "";
    file_with(q->name, q->other, kind, text);
    size_t n = strlen(q->other);
    if (q->other[0] == '"') snprintf(bare, sizeof bare, "%.*s", (int)n - 2, q->other + 1);
    snprintf(set, sizeof set, "%s=%s", q->name, bare[0] ? bare : q->other);
    char *file = resolve(text, NULL), *option = resolve(base(kind), set);
    bool good = file && option && strcmp(file, option) == 0 &&
                strcmp(value_of(file, q->name, value), q->other) == 0;
    for (int k = 0; k < KEYS && good; k++)
        good = &keys[k] == q ||
               strcmp(value_of(file, keys[k].name, value), standard(&keys[k], kind)) == 0;
    char *again = file ? resolve(file, NULL) : NULL;
    good = good && again && strcmp(file, again) == 0;
    if (!good) printf("# %s, %s: %s\n", kinds[kind], set, lk_error_text());
    free(file);
    free(option);
    free(again);
    return good;
}

/* The key at `value` is refused with these words after the place, in a file and by --set. */
static bool refused(const key *q, int kind, const char *value, const char *words)
{
    char text[1000], message[700], set[300];
    lk_run run;
    int line = file_with(q->name, value, kind, text);
    snprintf(message, sizeof message, "run.yaml:%d: %s", line, words);
    bool good = parse(text, NULL, &run) == LK_E_INPUT && strcmp(lk_error_text(), message) == 0;
    if (!good) printf("# '%s' instead of '%s'\n", lk_error_text(), message);
    snprintf(message, sizeof message, "--set: %s", words);
    snprintf(set, sizeof set, "%s=%s", q->name, strcmp(value, "''") == 0 ? "" : value);
    bool option = parse(base(kind), set, &run) == LK_E_INPUT &&
                  strcmp(lk_error_text(), message) == 0;
    if (!option) printf("# '%s' instead of '%s'\n", lk_error_text(), message);
    return good && option;
}

/* The message of a bad value: place, key, expected, found, what to do. */
static bool refuses(const key *q, int kind, const char *bad)
{
    char words[600];
    snprintf(words, sizeof words, "'%s': expected %s, found '%s'; see 'lockstep help run-file'",
             q->name, q->expected, strcmp(bad, "''") == 0 ? "" : bad);
    return refused(q, kind, bad, words);
}

/* Even its default may not be given where a key has no meaning. */
static bool misplaced(const key *q, int kind)
{
    char words[600];
    snprintf(words, sizeof words, "'%s' has no meaning for model.kind %s; remove it", q->name,
             kinds[kind]);
    return refused(q, kind, q->standard, words) && refused(q, kind, q->other, words);
}

static bool kept_on_resume(const key *q, int kind)
{
    char text[1000], value[300];
    lk_run started, resumed;
    file_with(q->name, q->other, kind, text);
    if (parse(base(kind), NULL, &started) != LK_OK) return false;
    if (parse(text, NULL, &resumed) != LK_OK) return false;
    lk_status status = lk_run_check_resume(&resumed, &started);
    snprintf(value, sizeof value, "run.yaml: '%s' is %s, but the run was started with %s", q->name,
             q->other, standard(q, kind));
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
        for (int kind = 0; kind < KINDS; kind++) {
            if (kind && strcmp(q->name, "model.kind") == 0) continue; /* given already */
            if (!has(q, kind)) {
                good &= misplaced(q, kind);
                continue;
            }
            for (int i = 0; i < 5 && q->bad[i]; i++) good &= refuses(q, kind, q->bad[i]);
            if (q->other) good &= takes(q, kind) && kept_on_resume(q, kind);
        }
        tap_ok(good, "%s: %s%s%s", q->name, q->expected, q->fixed ? ", kept by a resumed run" : "",
               q->models == ALL ? "" : ", for its models only");
    }
}

/* A run file resumed or turned into one of another kind. */
static void check_kinds(void)
{
    static const char *const pairs[][2] = {{MINIMUM, "model.norm=layernorm"},
                                           {MINIMUM, "model.norm=auto"},
                                           {MINIMUM, "model.kind=transformer"},
                                           {MINIMUM "model:\n  kind: resnet18\n",
                                            "model.norm=batchnorm"}};
    bool good = true;
    lk_run started, resumed;
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        if (parse(pairs[i][0], NULL, &started) != LK_OK ||
            parse(pairs[i][0], pairs[i][1], &resumed) != LK_OK) {
            good = false;
            continue;
        }
        good &= lk_run_check_resume(&resumed, &started) == LK_OK;
        lk_run_clear(&started);
        lk_run_clear(&resumed);
    }
    tap_ok(good, "a default may be named in a resumed run, and 'auto' is what it stands for");

    good = parse(base(1), NULL, &started) == LK_OK && lk_run_images(&started);
    good = good && parse(base(2), NULL, &resumed) == LK_OK && lk_run_images(&resumed);
    tap_ok(good && lk_run_check_resume(&resumed, &started) == LK_E_INPUT &&
               strstr(lk_error_text(), "'model.kind' is resnet18, but the run was started with "
                                       "mobilenetv3"), "another kind: %s", lk_error_text());
    lk_run_clear(&started);
    lk_run_clear(&resumed);
    char *file = resolve(base(1), NULL), *option = resolve(MINIMUM, "model.kind=mobilenetv3");
    tap_ok(file && option && strcmp(file, option) == 0, "the kind by --set is as in the file");
    free(file);
    free(option);
    lk_error_clear();
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
     {"run.yaml:4: 'seed': expected a whole number from 0 to 1e+15, found ''"}},
    {"a control character in a name", "directory: \"a\\x07b\"\ndata:\n  file: f.h5\n", NULL,
     {"run.yaml:1: 'directory': expected a line of text in UTF-8", "found 'a?b'"}},
    {"a line separator of Unicode in a name", "directory: \"a\\Lb\"\ndata:\n  file: f.h5\n", NULL,
     {"run.yaml:1: 'directory': expected a line of text in UTF-8"}},
    {"text that is not UTF-8", MINIMUM, "data.file=caf\xe9.h5",
     {"--set: 'data.file': expected a line of text in UTF-8"}},
    {"a message with a line end in it", MINIMUM "seed: \"1\\n2\"\n", NULL,
     {"run.yaml:4: 'seed': expected a whole number from 0 to 1e+15, found '1?2'"}},
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
    {"batchnorm in a transformer", MINIMUM "model:\n  norm: batchnorm\n", NULL,
     {"run.yaml:5: 'model.norm': expected layernorm or rmsnorm for a transformer, found "
      "batchnorm"}},
    {"a kind by --set for a file of another", MINIMUM "model:\n  layers: 6\n",
     "model.kind=resnet18",
     {"run.yaml:5: 'model.layers' has no meaning for model.kind resnet18; remove it"}},
    {"a transformer by --set for an image model's file",
     MINIMUM "model:\n  kind: mobilenetv3\n  size: large\n", "model.kind=transformer",
     {"run.yaml:6: 'model.size' has no meaning for model.kind transformer; remove it"}},
    {"recomputation in an image model", MINIMUM "model:\n  kind: mobilenetv3\n",
     "train.recompute=block",
     {"--set: 'train.recompute' has no meaning for model.kind mobilenetv3; remove it"}},
    {"an image key misspelt", MINIMUM "augment:\n  flips: true\n", NULL,
     {"run.yaml:5: unknown key 'augment.flips'", "'augment.flip'"}},
    {"a value for augment", MINIMUM "augment: true\n", NULL,
     {"run.yaml:4: 'augment': expected keys below it"}},
    {"steps to trace of which there is one", MINIMUM "trace:\n  steps: [100]\n", NULL,
     {"run.yaml:5: 'trace.steps': expected the first and the last step to trace, from 1, such as "
      "[100, 105], found '[100]'"}},
    {"steps to trace that are none", MINIMUM "trace: {steps: [a, [b, c], d]}\n", NULL,
     {"run.yaml:4: 'trace.steps': expected", "found '[a, ..., d]'"}},
    {"steps to trace from 0", MINIMUM, "trace.steps=[0, 5]",
     {"--set: 'trace.steps': expected", "from 1", "found '[0, 5]'"}},
    {"steps to trace, backwards", MINIMUM "trace: {steps: [9, 5]}\n", NULL,
     {"run.yaml:4: trace.to 5 is before trace.from 9"}},
    {"steps to trace, given twice", MINIMUM "trace: {from: 3, steps: [9, 5]}\n", NULL,
     {"run.yaml:4: 'trace.from' is given twice"}},
    {"lists in lists", MINIMUM "seed: [[[[[[[[[[[[[[[[\n", NULL,
     {"run.yaml:4: expected keys in sections, found lists or mappings nested more than 16 deep"}},
    {"a number beyond 64 bits", MINIMUM "seed: 99999999999999999999\n", NULL,
     {"run.yaml:4: 'seed': expected a whole number from 0 to 1e+15, found '99999999999999999999'"}},
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

    static const char *const steps[][2] = {{MINIMUM "trace: {steps: [100, 105]}\n", NULL},
                                           {MINIMUM "trace:\n  steps:\n  - 100\n  - 105\n", NULL},
                                           {MINIMUM "trace: {steps: '100,105'}\n", NULL},
                                           {MINIMUM, "trace.steps=100,105"},
                                           {MINIMUM, "trace.steps=[100, 105]"}};
    for (int i = 0; i < 5; i++) {
        good = parse(steps[i][0], steps[i][1], &run) == LK_OK;
        tap_ok(good && run.trace.from == 100 && run.trace.to == 105, "trace.steps, form %d %s", i,
               lk_error_text());
        if (good) lk_run_clear(&run);
    }

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

/* Of the help, the lines of the keys that have a meaning for a kind, with their sections. False: a
 * key's comment does not say for which models it is. */
static bool help_for(const char *help, int kind, FILE *out)
{
    char section[100] = "", printed[100] = "", name[300], comment[400];
    bool said = true;
    for (const char *p = help; *p; p += strcspn(p, "\n") + 1) {
        int n = (int)strcspn(p, "\n"), to = (int)strcspn(p, ":"), blanks = (int)strspn(p, " ");
        if (p[blanks] == '#') continue;
        if (blanks == 0) snprintf(section, sizeof section, "%.*s.", to, p);
        snprintf(name, sizeof name, "%s%.*s", blanks ? section : "", to - blanks, p + blanks);
        const key *q = keys;
        while (q < keys + KEYS && strcmp(q->name, name) != 0) q++;
        if (q == keys + KEYS) continue;
        snprintf(comment, sizeof comment, "%.*s", (int)strcspn(p + n + 1, "\n"), p + n + 1);
        const char *only = q->models == TEXT     ? "; only transformer"
                           : q->models == MOBILE ? "; only mobilenetv3"
                           : q->models == VISION ? "; only image models"
                           : q->models == FUSION ? "; only fusion"
                           : q->models == BLOCKS ? "; only transformer and fusion"
                           : q->models == IMAGES ? "; only image models and fusion"
                                                 : NULL;
        said &= only ? strstr(comment, only) != NULL : strstr(comment, "; only ") == NULL;
        if (!has(q, kind) || strcmp(name, "model.kind") == 0) continue;
        if (blanks && strcmp(section, printed) != 0)
            fprintf(out, "%.*s:\n", (int)strlen(section) - 1, section);
        if (blanks) snprintf(printed, sizeof printed, "%s", section);
        fprintf(out, "%.*s\n", n, p);
    }
    return said;
}

/* The help is itself a run file for each kind of model, every key at its default, the two required
 * ones apart. */
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
    for (int kind = 0; kind < KINDS; kind++) {
        char *part = NULL, set[100];
        f = open_memstream(&part, &size);
        tap_ok(help_for(text, kind, f), "it says for which models a key is");
        fclose(f);
        snprintf(set, sizeof set, "model.kind=%s", kinds[kind]);
        char *resolved = resolve(part, set);
        bool good = resolved != NULL;
        for (int k = 0; k < KEYS && good; k++)
            good = strcmp(keys[k].name, "directory") == 0 ||
                   strcmp(keys[k].name, "data.file") == 0 ||
                   strcmp(value_of(resolved, keys[k].name, value), standard(&keys[k], kind)) == 0;
        tap_ok(good, "for %s it is a run file with the defaults %s", kinds[kind], lk_error_text());
        free(resolved);
        free(part);
    }
    free(text);
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
    char *whole[KINDS] = {NULL};
    int accepted = 0, refused = 0;
    bool good = true;
    for (int i = 0; i < KINDS; i++) good &= (whole[i] = resolve(base(i), NULL)) != NULL;
    char text[8192];
    for (int i = 0; i < MUTATIONS && good; i++) {
        draws = (uint32_t)i * 1000;
        const char *few = MINIMUM "model: {layers: 2}\nseed: 5\ntrain:\n  steps: 9\n";
        strcpy(text, i % 2 ? whole[i / 2 % KINDS] : few);
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
    for (int i = 0; i < KINDS; i++) free(whole[i]);
    lk_error_clear();
}

int main(void)
{
    for (int kind = 0; kind < KINDS; kind++) check_defaults(kind);
    check_keys();
    check_kinds();
    check_mistakes();
    check_order();
    check_precision();
    check_files();
    check_help();
    check_mutations();
    return tap_done();
}
