/* The run file: one table of keys; parsing, --set, help, and the resolved copy all come from it. */
#include "train/run_keys.h"

#include "base/utf8.h"
#include "io/small_file.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <yaml.h>

/* Where each key's value came from, for messages; 0: default, < 0: --set. */
typedef struct source {
    const char *name; /* of the file */
    int line[KEYS];
} source;

static const char *where(const source *s, int k, char text[512])
{
    if (s->line[k] > 0) snprintf(text, 512, "%s:%d", s->name, s->line[k]);
    else if (s->line[k] < 0) snprintf(text, 512, "--set");
    else snprintf(text, 512, "%s", s->name);
    return text;
}

/* ---- names ----------------------------------------------------------------------------------- */

static int find(const char *name)
{
    for (int i = 0; i < KEYS; i++)
        if (strcmp(keys[i].name, name) == 0) return i;
    return -1;
}

/* Edit distance (V. Levenshtein, 1966) of a, in any case, to b; names up to 63 bytes. */
static int distance(const char *a, const char *b)
{
    int n = (int)strnlen(a, 63), m = (int)strnlen(b, 63), row[64];
    for (int j = 0; j <= m; j++) row[j] = j;
    for (int i = 1; i <= n; i++) {
        int corner = row[0];
        row[0] = i;
        for (int j = 1; j <= m; j++) {
            int change = corner + (tolower((unsigned char)a[i - 1]) != b[j - 1]);
            corner = row[j];
            int step = (row[j] < row[j - 1] ? row[j] : row[j - 1]) + 1;
            row[j] = change < step ? change : step;
        }
    }
    return row[m];
}

/* What was most likely meant. A key is near when its whole name is, or its last part is near the
 * last part given; the section of a name without a dot may be meant, as "model" or as "model.". */
static const char *nearest(const char *name, char text[96])
{
    const char *last = strrchr(name, '.');
    last = last ? last + 1 : name;
    int least = 1 << 30;
    for (int i = 0; i < KEYS; i++) {
        const char *dot = strchr(keys[i].name, '.'), *tail = dot ? dot + 1 : keys[i].name;
        int d = 2 * distance(name, keys[i].name), t = 2 * distance(last, tail) + 1;
        if (t < d) d = t;
        if (d < least) {
            least = d;
            snprintf(text, 96, "%s", keys[i].name);
        }
        char section[64] = "";
        if (dot) memcpy(section, keys[i].name, (size_t)(dot - keys[i].name));
        if (dot && last == name && 2 * distance(name, section) < least) {
            least = 2 * distance(name, section);
            snprintf(text, 96, "%s:' with keys below it, or '%s", section, keys[i].name);
        }
    }
    return text;
}

/* ---- values ---------------------------------------------------------------------------------- */

static void *member(const lk_run *run, int k) { return (char *)run + keys[k].offset; }

static bool among(const char *choices, const char *value)
{
    size_t n = strlen(value);
    if (strchr(value, '|')) return false;
    for (const char *p = choices; p; p = strchr(p, '|') ? strchr(p, '|') + 1 : NULL)
        if (strncmp(p, value, n) == 0 && (p[n] == '|' || p[n] == '\0')) return n > 0;
    return false;
}

/* Names and paths: UTF-8 without what YAML takes for the end of a line or cannot hold. */
static bool is_text(const char *value)
{
    size_t n = strlen(value), length;
    for (size_t at = 0; at < n; at += length) {
        uint32_t code = 0;
        int step = lk_utf8_decode((const unsigned char *)value + at, n - at, &code);
        if (step <= 0 || code < 0x20 || (code >= 0x7f && code < 0xa0) || code == 0x2028 ||
            code == 0x2029 || code == 0xfeff || code == 0xfffe || code == 0xffff)
            return false;
        length = (size_t)step;
    }
    return n > 0;
}

static const char *expected(const key *k, char text[256])
{
    switch (k->kind) {
    case TEXT: snprintf(text, 256, "a line of text in UTF-8"); break;
    case CHOICE: snprintf(text, 256, "one of %s", k->choices); break;
    case BOOLEAN: snprintf(text, 256, "true or false"); break;
    case INTEGER:
        snprintf(text, 256, k->high < MANY ? "a whole number from %g to %.0f"
                                           : "a whole number from %g to %g", k->low, k->high);
        break;
    case REAL: snprintf(text, 256, "a number from %g to %g", k->low, k->high); break;
    }
    return text;
}

/* Put the text of a value into its member. LK_E_INPUT, without a text: not of its type or out of
 * range. */
static lk_status assign(lk_run *run, int k, const char *value)
{
    const key *q = &keys[k];
    char *end;
    errno = 0;
    switch (q->kind) {
    case TEXT:
    case CHOICE: {
        if (q->kind == CHOICE ? !among(q->choices, value) : !is_text(value)) return LK_E_INPUT;
        char **text = member(run, k), *copy = strdup(value);
        if (!copy) return lk_fail(LK_E_SYSTEM, "out of memory");
        free(*text);
        *text = copy;
        return LK_OK;
    }
    case BOOLEAN:
        if (strcmp(value, "true") != 0 && strcmp(value, "false") != 0) return LK_E_INPUT;
        *(bool *)member(run, k) = value[0] == 't';
        return LK_OK;
    case INTEGER: {
        long long v = strtoll(value, &end, 10);
        if (end == value || *end || errno || (double)v < q->low || (double)v > q->high)
            return LK_E_INPUT;
        *(int64_t *)member(run, k) = v;
        return LK_OK;
    }
    case REAL: {
        double v = strtod(value, &end);
        if (end == value || *end || !isfinite(v) || v < q->low || v > q->high) return LK_E_INPUT;
        *(double *)member(run, k) = v;
        return LK_OK;
    }
    }
    return LK_E_INPUT;
}

static lk_status set(lk_run *run, source *s, const char *name, const char *value, int line);

/* trace.steps: "[FIRST, LAST]", both keys of the trace at once; the brackets may be missing. */
static lk_status set_steps(lk_run *run, source *s, const char *value, int line)
{
    char first[24], last[24], place[512], rest;
    source here = {.name = s->name, .line[0] = line};
    int n = sscanf(value, " [ %20[0-9] , %20[0-9] ] %c", first, last, &rest);
    if (n != 2) n = sscanf(value, " %20[0-9] , %20[0-9] %c", first, last, &rest);
    if (n != 2 || strspn(first, "0") == strlen(first)) /* steps are numbered from 1 */
        return lk_fail(LK_E_INPUT, "%s: '" STEPS "': expected the first and the last step to "
                       "trace, from 1, such as [100, 105], found '%.100s'", where(&here, 0, place),
                       value);
    LK_TRY(set(run, s, "trace.from", first, line));
    return set(run, s, "trace.to", last, line);
}

static lk_status set(lk_run *run, source *s, const char *name, const char *value, int line)
{
    if (strcmp(name, STEPS) == 0) return set_steps(run, s, value, line);
    int k = find(name);
    char place[512], what[256], near[96];
    source here = {.name = s->name};
    here.line[0] = line;
    where(&here, 0, place);
    if (k < 0)
        return lk_fail(LK_E_INPUT, "%s: unknown key '%.100s'; the nearest is '%s' (all keys: "
                       "lockstep help run-file)", place, name, nearest(name, near));
    if (line > 0 && s->line[k] > 0)
        return lk_fail(LK_E_INPUT, "%s: '%s' is given twice, first at line %d; keep one", place,
                       name, s->line[k]);
    lk_status status = assign(run, k, value);
    if (status == LK_E_INPUT)
        return lk_fail(LK_E_INPUT, "%s: '%s': expected %s, found '%.100s'; see 'lockstep help "
                       "run-file'", place, name, expected(&keys[k], what), value);
    s->line[k] = line;
    return status;
}

/* ---- YAML ------------------------------------------------------------------------------------ */

/* The values of a list as "[1, 2]", as they would be given to --set. */
static void join(yaml_document_t *doc, const yaml_node_t *list, char *text, size_t size)
{
    size_t used = (size_t)snprintf(text, size, "[");
    for (yaml_node_item_t *i = list->data.sequence.items.start;
         i < list->data.sequence.items.top && used < size; i++) {
        const yaml_node_t *n = yaml_document_get_node(doc, *i);
        bool scalar = n->type == YAML_SCALAR_NODE;
        used += (size_t)snprintf(text + used, size - used, "%s%s",
                                 i == list->data.sequence.items.start ? "" : ", ",
                                 scalar ? (const char *)n->data.scalar.value : "...");
    }
    if (used < size) snprintf(text + used, size - used, "]");
}

static lk_status read_mapping(yaml_document_t *doc, const yaml_node_t *map, const char *prefix,
                              lk_run *run, source *s)
{
    yaml_node_pair_t *end = map->data.mapping.pairs.top;
    for (yaml_node_pair_t *p = map->data.mapping.pairs.start; p < end; p++) {
        yaml_node_t *name = yaml_document_get_node(doc, p->key);
        yaml_node_t *value = yaml_document_get_node(doc, p->value);
        int line = (int)name->start_mark.line + 1;
        if (name->type != YAML_SCALAR_NODE)
            return lk_fail(LK_E_INPUT,
                           "%s:%d: expected a key, found a list or mapping; write "
                           "'section:' and indented 'key: value' lines",
                           s->name, line);
        char full[160];
        int n = snprintf(full, sizeof full, "%s%s%s", prefix, prefix[0] ? "." : "",
                         (char *)name->data.scalar.value);
        if (n < 0 || (size_t)n >= sizeof full || !name->data.scalar.value[0])
            return lk_fail(LK_E_INPUT,
                           "%s:%d: expected a key, found '%.60s...'; no key is so "
                           "long: is it a run file?",
                           s->name, line, (char *)name->data.scalar.value);
        bool group = false;
        for (int i = 0; i < KEYS; i++)
            group |= strncmp(keys[i].name, full, (size_t)n) == 0 && keys[i].name[n] == '.';
        if (group && value->type == YAML_MAPPING_NODE) {
            LK_TRY(read_mapping(doc, value, full, run, s));
        } else if (group) {
            return lk_fail(LK_E_INPUT,
                           "%s:%d: '%s': expected keys below it, indented, found a "
                           "value; write the value behind one of its keys",
                           s->name, line, full);
        } else if (strcmp(full, STEPS) == 0 && value->type == YAML_SEQUENCE_NODE) {
            char list[128];
            join(doc, value, list, sizeof list);
            LK_TRY(set_steps(run, s, list, line));
        } else if (value->type != YAML_SCALAR_NODE) {
            if (find(full) < 0) return set(run, s, full, "", line);
            return lk_fail(LK_E_INPUT,
                           "%s:%d: '%s': expected one value, found a list or mapping; "
                           "write 'key: value'",
                           s->name, line, full);
        } else {
            LK_TRY(set(run, s, full, (char *)value->data.scalar.value, line));
        }
    }
    return LK_OK;
}

static lk_status not_yaml(const yaml_parser_t *parser, const source *s)
{
    return lk_fail(LK_E_INPUT,
                   "%s:%d: not YAML: %s; blanks, not tabs, indent, and a text with ': "
                   "' or '#' needs quotes",
                   s->name, (int)parser->problem_mark.line + 1,
                   parser->problem ? parser->problem : "cannot be read");
}

/* Nothing may follow the document: it would be ignored. */
static lk_status read_end(yaml_parser_t *parser, const source *s)
{
    yaml_document_t doc;
    if (!yaml_parser_load(parser, &doc)) return not_yaml(parser, s);
    int line = yaml_document_get_root_node(&doc) ? (int)doc.start_mark.line + 1 : 0;
    yaml_document_delete(&doc);
    return line ? lk_fail(LK_E_INPUT,
                          "%s:%d: expected one document, found a second; remove the "
                          "line '---' and what follows",
                          s->name, line)
                : LK_OK;
}

static lk_status read_document(yaml_parser_t *parser, lk_run *run, source *s)
{
    yaml_document_t doc;
    if (!yaml_parser_load(parser, &doc)) return not_yaml(parser, s);
    yaml_node_t *root = yaml_document_get_root_node(&doc);
    lk_status status = LK_OK;
    if (root && root->type == YAML_MAPPING_NODE)
        status = read_mapping(&doc, root, "", run, s);
    else if (root)
        status = lk_fail(LK_E_INPUT,
                         "%s:%d: expected keys and values, found a %s; is it a run "
                         "file? 'lockstep help run-file' lists the keys",
                         s->name, (int)root->start_mark.line + 1,
                         root->type == YAML_SCALAR_NODE ? "value" : "list");
    yaml_document_delete(&doc);
    return status == LK_OK && root ? read_end(parser, s) : status;
}

static lk_status apply_set(lk_run *run, source *s, const char *text)
{
    const char *equals = strchr(text, '=');
    char name[160];
    if (!equals || equals == text || (size_t)(equals - text) >= sizeof name)
        return lk_fail(LK_E_INPUT,
                       "--set: expected KEY=VALUE, found '%.100s'; e.g. --set "
                       "train.steps=100",
                       text);
    memcpy(name, text, (size_t)(equals - text));
    name[equals - text] = '\0';
    return set(run, s, name, equals + 1, -1);
}

/* The bit of `only` for the model's kind: bits are in the order of the choices. */
static int bit_of_kind(const lk_run *r)
{
    const char *choices = keys[find("model.kind")].choices;
    size_t n = strlen(r->model.kind);
    int bit = 1;
    while (strncmp(choices, r->model.kind, n) != 0 || (choices[n] && choices[n] != '|')) {
        choices = strchr(choices, '|') + 1; /* the kind is one of them: assign() saw to it */
        bit <<= 1;
    }
    return bit;
}

static bool has_meaning(const lk_run *r, int k)
{
    return !keys[k].only || keys[k].only & bit_of_kind(r);
}

/* `auto` becomes what it means here, so that a resumed run and the resolved file name it. */
static lk_status settle(lk_run *r)
{
    if (strcmp(r->model.norm, "auto") != 0) return LK_OK;
    return assign(r, find("model.norm"), bit_of_kind(r) & VISION ? "batchnorm" : "layernorm");
}

/* ---- checks across keys ---------------------------------------------------------------------- */

static lk_status check(const lk_run *r, const source *s)
{
    char at[512];
    for (int k = 0; k < KEYS; k++)
        if (!keys[k].standard && !*(char **)member(r, k))
            return lk_fail(LK_E_INPUT, "%s: the key '%s' is missing; add it: %s", s->name,
                           keys[k].name, keys[k].help);
    for (int k = 0; k < KEYS; k++)
        if (s->line[k] && !has_meaning(r, k))
            return lk_fail(LK_E_INPUT, "%s: '%s' has no meaning for model.kind %s; remove it",
                           where(s, k, at), keys[k].name, r->model.kind);
    if (bit_of_kind(r) & BLOCKS && strcmp(r->model.norm, "batchnorm") == 0)
        return lk_fail(LK_E_INPUT,
                       "%s: 'model.norm': expected layernorm or rmsnorm for a "
                       "%s, found batchnorm; choose one",
                       where(s, find("model.norm"), at), r->model.kind);
    int64_t kv = r->model.kv_heads ? r->model.kv_heads : r->model.heads;
    if (r->model.width % r->model.heads)
        return lk_fail(LK_E_INPUT, "%s: model.heads %lld does not divide model.width %lld; choose "
                       "a divisor", where(s, find("model.heads"), at), (long long)r->model.heads,
                       (long long)r->model.width);
    if (r->model.heads % kv)
        return lk_fail(LK_E_INPUT, "%s: model.kv_heads %lld does not divide model.heads %lld; "
                       "choose a divisor", where(s, find("model.kv_heads"), at), (long long)kv,
                       (long long)r->model.heads);
    if (strcmp(r->model.position, "rope") == 0 && r->model.width / r->model.heads % 2)
        return lk_fail(LK_E_INPUT,
                       "%s: position rope needs an even head size, found %lld; change "
                       "model.width or model.heads",
                       where(s, find("model.position"), at),
                       (long long)(r->model.width / r->model.heads));
    if (r->train.leaves & (r->train.leaves - 1))
        return lk_fail(LK_E_INPUT,
                       "%s: train.leaves %lld is not a power of two; choose 1, 2, 4, "
                       "8 ...",
                       where(s, find("train.leaves"), at), (long long)r->train.leaves);
    if (r->train.leaves && r->train.batch % r->train.leaves)
        return lk_fail(LK_E_INPUT,
                       "%s: train.batch %lld is not a multiple of the %lld leaves; "
                       "change one of them",
                       where(s, find("train.batch"), at), (long long)r->train.batch,
                       (long long)r->train.leaves);
    if (r->optimizer.min_lr > r->optimizer.lr)
        return lk_fail(LK_E_INPUT, "%s: optimizer.min_lr %g is above optimizer.lr %g; lower it",
                       where(s, find("optimizer.min_lr"), at), r->optimizer.min_lr,
                       r->optimizer.lr);
    if (r->loss_scale.initial > r->loss_scale.max)
        return lk_fail(LK_E_INPUT, "%s: loss_scale.initial %g is above loss_scale.max %g; lower it",
                       where(s, find("loss_scale.initial"), at), r->loss_scale.initial,
                       r->loss_scale.max);
    if (r->trace.to && r->trace.to < r->trace.from)
        return lk_fail(LK_E_INPUT, "%s: trace.to %lld is before trace.from %lld; raise it",
                       where(s, find("trace.to"), at), (long long)r->trace.to,
                       (long long)r->trace.from);
    return LK_OK;
}

/* ---- public ---------------------------------------------------------------------------------- */

static lk_status load(yaml_parser_t *parser, const char *name, int sets, const char *const *text,
                      lk_run *out)
{
    lk_run run;
    memset(&run, 0, sizeof run);
    source s = {.name = name};
    lk_status status = LK_OK;
    run.path = strdup(name);
    if (!run.path) status = lk_fail(LK_E_SYSTEM, "out of memory");
    for (int k = 0; k < KEYS && status == LK_OK; k++) {
        status = keys[k].standard ? assign(&run, k, keys[k].standard) : LK_OK;
        if (status == LK_E_INPUT)
            status = lk_fail(LK_E_INTERNAL, "run file table: default of '%s'", keys[k].name);
    }
    if (status == LK_OK) status = read_document(parser, &run, &s);
    for (int i = 0; i < sets && status == LK_OK; i++) status = apply_set(&run, &s, text[i]);
    if (status == LK_OK) status = settle(&run);
    if (status == LK_OK) status = check(&run, &s);
    if (status != LK_OK) {
        lk_run_clear(&run);
        return status;
    }
    *out = run;
    return LK_OK;
}

/* A run file is two deep; libyaml's time grows by the square of the depth. Errors are load()'s. */
static lk_status check_depth(yaml_parser_t *parser, const char *name)
{
    enum { DEEPEST = 16 };
    yaml_event_t e;
    int line = 0, depth = 0;
    for (bool more = true; more && !line && yaml_parser_parse(parser, &e);) {
        depth += e.type == YAML_SEQUENCE_START_EVENT || e.type == YAML_MAPPING_START_EVENT;
        depth -= e.type == YAML_SEQUENCE_END_EVENT || e.type == YAML_MAPPING_END_EVENT;
        if (depth > DEEPEST) line = (int)e.start_mark.line + 1;
        more = e.type != YAML_STREAM_END_EVENT;
        yaml_event_delete(&e);
    }
    return line ? lk_fail(LK_E_INPUT, "%s:%d: expected keys in sections, found lists or mappings "
                          "nested more than %d deep; is it a run file? 'lockstep help run-file' "
                          "lists the keys", name, line, DEEPEST)
                : LK_OK;
}

static lk_status parse(const char *name, const char *text, size_t size, int sets,
                       const char *const *set_text, lk_run *run)
{
    lk_status status = LK_OK;
    for (int pass = 0; pass < 2 && status == LK_OK; pass++) {
        yaml_parser_t parser;
        if (!yaml_parser_initialize(&parser)) return lk_fail(LK_E_SYSTEM, "out of memory");
        yaml_parser_set_input_string(&parser, (const unsigned char *)text, size);
        status = pass == 0 ? check_depth(&parser, name) : load(&parser, name, sets, set_text, run);
        yaml_parser_delete(&parser);
    }
    return status;
}

enum { MOST = 64 << 10 }; /* bytes of a run file */

/* What is no file, or is too large for a run file. */
static lk_status load_stream(const char *path, int sets, const char *const *text, lk_run *run)
{
    static char bytes[MOST + 1];
    struct stat s;
    if (stat(path, &s) == 0 && S_ISDIR(s.st_mode))
        return lk_fail(LK_E_INPUT, "%s: expected a run file, found a directory; the run file of a "
                       "run is run.yaml in its directory", path);
    FILE *f = fopen(path, "rb");
    size_t size = f ? fread(bytes, 1, sizeof bytes, f) : 0;
    int error = !f || ferror(f) ? errno : 0;
    if (f) fclose(f);
    if (error)
        return lk_fail(lk_status_of_errno(error), "%s: cannot read the run file: %s; check the "
                       "path and its permissions", path, strerror(error));
    if (size > MOST)
        return lk_fail(LK_E_INPUT, "%s: expected a run file of at most %d KiB, found more; is it "
                       "one? 'lockstep help run-file' lists the keys", path, MOST >> 10);
    return parse(path, bytes, size, sets, text, run);
}

/* A job reads its run file at every start: a disk that fails for a moment must not end it, nor one
 * that fails for longer pass for bad input. */
lk_status lk_run_load(const char *path, int sets, const char *const *text, lk_run *run)
{
    char *bytes;
    size_t size;
    LK_TRY(lk_small_file(path, "the run file", MOST, &bytes, &size));
    lk_status status = bytes ? parse(path, bytes, size, sets, text, run)
                             : load_stream(path, sets, text, run);
    free(bytes);
    return status;
}

lk_status lk_run_parse(const char *name, const char *text, int sets, const char *const *set_text,
                       lk_run *run)
{
    return parse(name, text, strlen(text), sets, set_text, run);
}

/* The value as YAML: numbers in the fewest digits that read back the same, text quoted. */
static void print_value(FILE *f, const lk_run *run, int k)
{
    char text[40];
    switch (keys[k].kind) {
    case TEXT:
        fputc('"', f);
        for (const char *p = *(char **)member(run, k); *p; p++) {
            if (*p == '"' || *p == '\\') fputc('\\', f);
            fputc(*p, f);
        }
        fputc('"', f);
        break;
    case CHOICE: fputs(*(char **)member(run, k), f); break;
    case BOOLEAN: fputs(*(bool *)member(run, k) ? "true" : "false", f); break;
    case INTEGER: fprintf(f, "%lld", (long long)*(int64_t *)member(run, k)); break;
    case REAL:
        for (int digits = 6; digits <= 17; digits++) {
            snprintf(text, sizeof text, "%.*g", digits, *(double *)member(run, k));
            if (strtod(text, NULL) == *(double *)member(run, k)) break;
        }
        fputs(text, f);
    }
}

/* Every key as "section:" lines with the keys below; `line` prints one. */
static void for_sections(FILE *f, const lk_run *run,
                         void (*line)(FILE *f, const lk_run *run, int k, const char *name))
{
    char section[64] = "";
    for (int k = 0; k < KEYS; k++) {
        const char *dot = strchr(keys[k].name, '.');
        size_t n = dot ? (size_t)(dot - keys[k].name) : 0;
        if (run && !has_meaning(run, k)) continue;
        if (dot && (strncmp(section, keys[k].name, n) != 0 || section[n])) {
            memcpy(section, keys[k].name, n);
            section[n] = '\0';
            fprintf(f, "%s:\n", section);
        }
        if (dot) fputs("  ", f);
        line(f, run, k, dot ? dot + 1 : keys[k].name);
    }
}

static void resolved_line(FILE *f, const lk_run *run, int k, const char *name)
{
    fprintf(f, "%s: ", name);
    print_value(f, run, k);
    fputc('\n', f);
}

lk_status lk_run_format(const lk_run *run, char **text)
{
    char *bytes = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&bytes, &size);
    if (!f) return lk_fail(LK_E_SYSTEM, "out of memory");
    for_sections(f, run, resolved_line);
    if (fclose(f) != 0) {
        free(bytes);
        return lk_fail(LK_E_SYSTEM, "out of memory");
    }
    *text = bytes;
    return LK_OK;
}

lk_status lk_run_print(const lk_run *run, const char *name, FILE *out)
{
    char near[96];
    int k = find(name);
    if (k < 0)
        return lk_fail(LK_E_INPUT, "%s: no key '%.100s'; the nearest is '%s' (all keys: lockstep "
                       "help run-file)", run->path, name, nearest(name, near));
    if (keys[k].kind == TEXT) fputs(*(char **)member(run, k), out); /* not quoted for YAML */
    else print_value(out, run, k);
    fputc('\n', out);
    return LK_OK;
}

static const char *models_of(const key *k)
{
    switch (k->only) {
    case 0: return "";
    case TRANSFORMER: return "; only transformer";
    case MOBILENET: return "; only mobilenetv3";
    case FUSION: return "; only fusion";
    case BLOCKS: return "; only transformer and fusion";
    case IMAGES: return "; only image models and fusion";
    default: return "; only image models";
    }
}

static void help_line(FILE *f, const lk_run *run, int k, const char *name)
{
    (void)run;
    char what[256];
    fprintf(f, "%s: %s\n      # %s; %s%s%s\n", name,
            keys[k].standard ? keys[k].standard : "REQUIRED", keys[k].help,
            expected(&keys[k], what), models_of(&keys[k]),
            keys[k].flags & FIXED ? "; fixed for a run" : "");
}

void lk_run_help(FILE *out)
{
    fputs("# The keys of a run file, each with its default, what it means and what is allowed.\n"
          "# One marked 'only ...' has a meaning for these models; for others leave it out.\n"
          "# Override one with --set SECTION.KEY=VALUE.\n", out);
    for_sections(out, NULL, help_line);
}

static bool same(const lk_run *a, const lk_run *b, int k)
{
    switch (keys[k].kind) {
    case TEXT:
    case CHOICE: return strcmp(*(char **)member(a, k), *(char **)member(b, k)) == 0;
    case BOOLEAN: return *(bool *)member(a, k) == *(bool *)member(b, k);
    case INTEGER: return *(int64_t *)member(a, k) == *(int64_t *)member(b, k);
    case REAL: return *(double *)member(a, k) == *(double *)member(b, k);
    }
    return false;
}

lk_status lk_run_check_resume(const lk_run *run, const lk_run *started)
{
    for (int k = 0; k < KEYS; k++) {
        if (!(keys[k].flags & FIXED) || same(run, started, k) || !has_meaning(started, k)) continue;
        char text[2][200] = {"", ""};
        for (int i = 0; i < 2; i++) {
            FILE *f = fmemopen(text[i], sizeof text[i] - 1, "w");
            if (!f) continue;
            print_value(f, i ? started : run, k);
            fclose(f);
        }
        return lk_fail(LK_E_INPUT, "%s: '%s' is %s, but the run was started with %s; a resumed run "
                       "keeps it: set it back, or start a new run", run->path, keys[k].name,
                       text[0], text[1]);
    }
    return LK_OK;
}

void lk_run_clear(lk_run *run)
{
    for (int k = 0; k < KEYS; k++)
        if (keys[k].kind == TEXT || keys[k].kind == CHOICE) free(*(char **)member(run, k));
    free(run->path);
    memset(run, 0, sizeof *run);
}

bool lk_run_images(const lk_run *run) { return bit_of_kind(run) & IMAGES; }

bool lk_run_fusion(const lk_run *run) { return bit_of_kind(run) & FUSION; }

lk_precision lk_run_precision(const lk_run *run)
{
    if (strcmp(run->train.precision, "fp16") == 0) return LK_FP16;
    if (strcmp(run->train.precision, "bf16") == 0) return LK_BF16_AUTOCAST;
    return strcmp(run->train.precision, "tf32") == 0 ? LK_TF32 : LK_FP32;
}
