/* The report: a table for people, the topology as nvidia-smi topo -m draws it, and JSON. */
#include "doctor/exam.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MARK = 10, NAME = 18 }; /* columns before the name, and of it */

const char *lk_size(double bytes)
{
    static _Thread_local char text[4][24];
    static _Thread_local int turn;
    char *t = text[turn++ % 4];
    if (bytes >= 0x1p40) snprintf(t, 24, "%.1f TiB", bytes / 0x1p40);
    else if (bytes >= 0x1p30) snprintf(t, 24, "%.1f GiB", bytes / 0x1p30);
    else if (bytes >= 0x1p20) snprintf(t, 24, "%.0f MiB", bytes / 0x1p20);
    else snprintf(t, 24, "%.0f KiB", bytes / 0x1p10);
    return t;
}

const char *lk_rate(double rate)
{
    static _Thread_local char text[4][24];
    static _Thread_local int turn;
    char *t = text[turn++ % 4];
    if (rate >= 9.95e9) snprintf(t, 24, "%.0f GB/s", rate / 1e9);
    else if (rate >= 0.995e9) snprintf(t, 24, "%.1f GB/s", rate / 1e9);
    else snprintf(t, 24, "%.0f MB/s", rate / 1e6);
    return t;
}

/* ---- lines ----------------------------------------------------------------------------------- */

typedef struct page {
    FILE *out;
    int width;
    bool color;
} page;

static void paint(const page *p, const char *code)
{
    if (p->color) fputs(code, p->out);
}

#define RED "\033[1;31m"
#define YELLOW "\033[1;33m"
#define GREEN "\033[32m"
#define BOLD "\033[1m"
#define PLAIN "\033[0m"

/* Words from column `at`; further lines begin at column `indent`. A word longer than a line, a path
 * say, is not broken. */
static void put_words(const page *p, const char *text, int at, int indent)
{
    bool first = true;
    while (*text) {
        int n = (int)strcspn(text, " ");
        if (!first && at + 1 + n > p->width) {
            fprintf(p->out, "\n%*s", indent, "");
            at = indent;
        } else if (!first) {
            fputc(' ', p->out);
            at++;
        }
        fwrite(text, 1, (size_t)n, p->out);
        at += n;
        text += n + strspn(text + n, " ");
        first = false;
    }
}

static void put_finding(const page *p, const lk_finding *f)
{
    static const char *const code[] = {GREEN, YELLOW, RED};
    fputs("  ", p->out);
    paint(p, code[f->verdict]);
    fprintf(p->out, "%-*s", MARK - 2, lk_verdict_name[f->verdict]);
    paint(p, PLAIN);
    int n = fprintf(p->out, "%-*s", NAME - 1, f->name);
    char line[sizeof f->value + sizeof f->where + 32];
    snprintf(line, sizeof line, "%s%s%s%s%s%s", f->where[0] || f->differs ? "[" : "",
             f->differs ? "differs" : "", f->differs && f->where[0] ? ": " : "", f->where,
             f->where[0] || f->differs ? "] " : "", f->value);
    fputc(' ', p->out);
    put_words(p, line, MARK + n + 1, MARK + NAME);
    fputc('\n', p->out);
    if (!f->advice[0]) return;
    fprintf(p->out, "%*s-> ", MARK + NAME - 3, "");
    put_words(p, f->advice, MARK + NAME, MARK + NAME);
    fputc('\n', p->out);
}

static const char *text_at(const json_t *row, size_t i)
{
    const json_t *x = json_array_get(row, i);
    if (json_is_array(x)) x = json_array_get(x, 0);
    return json_string_value(x) ? json_string_value(x) : "?";
}

/* Ranks, as numbers, that would train on GPU `pci` of the host of rank `host`. */
static void ranks_on(const json_t *ranks, size_t host, const char *pci, char *text, size_t size)
{
    size_t r, used = 0;
    const json_t *rank;
    const char *name = lk_part_text(json_array_get(ranks, host), "host");
    text[0] = '\0';
    json_array_foreach((json_t *)ranks, r, rank)
        if (strcmp(lk_part_text(rank, "host"), name) == 0 && used + 8 < size &&
            strcmp(lk_part_text(rank, "device.pci"), pci) == 0)
            used += (size_t)snprintf(text + used, size - used, "%s%zu", used ? "," : "", r);
    if (used == 0) snprintf(text, size, "-");
}

enum { TOGETHER = 10 }; /* GPUs and cards in one table; more cards get one of their own */

static void put_heads(const page *p, const char *kind, size_t count)
{
    for (size_t k = 0; k < count; k++) fprintf(p->out, " %s%-3zu", kind, k);
}

static void put_row(const page *p, const json_t *table, size_t i, size_t count)
{
    for (size_t k = 0; k < count; k++)
        fprintf(p->out, " %-6.6s", text_at(json_array_get(table, i), k));
}

static void put_cards(const page *p, const json_t *rank, bool apart)
{
    const json_t *nics = lk_part(rank, "machine.nics"), *nic;
    size_t i, cards = json_array_size(nics);
    if (apart) {
        fprintf(p->out, "  %-6s", "");
        put_heads(p, "NIC", cards);
        for (i = 0; i < json_array_size(lk_part(rank, "nvml.devices")); i++) {
            fprintf(p->out, "\n  GPU%-3zu", i);
            put_row(p, lk_part(rank, "nvml.nics"), i, cards);
        }
        fputc('\n', p->out);
    }
    json_array_foreach((json_t *)nics, i, nic)
        fprintf(p->out, "%s%s%zu %.20s", i == 0 ? "  " : ", ", "NIC", i, lk_part_text(nic, "name"));
    if (cards) fputc('\n', p->out);
}

static void put_matrix(const page *p, const json_t *ranks, size_t host)
{
    const json_t *rank = json_array_get(ranks, host), *gpu;
    const json_t *gpus = lk_part(rank, "nvml.devices");
    size_t i, cards = json_array_size(lk_part(rank, "machine.nics"));
    bool apart = json_array_size(gpus) + cards > TOGETHER;
    char ranks_there[24];
    fprintf(p->out, "  %-6s", "");
    put_heads(p, "GPU", json_array_size(gpus));
    put_heads(p, "NIC", apart ? 0 : cards);
    fprintf(p->out, " %-6s %-5s %s\n", "rank", "NUMA", "cores near it");
    json_array_foreach((json_t *)gpus, i, gpu)
    {
        fprintf(p->out, "  GPU%-3zu", i);
        put_row(p, lk_part(rank, "nvml.links"), i, json_array_size(gpus));
        put_row(p, lk_part(rank, "nvml.nics"), i, apart ? 0 : cards);
        ranks_on(ranks, host, lk_part_text(gpu, "pci"), ranks_there, sizeof ranks_there);
        fprintf(p->out, " %-6s %-5.0f %.16s\n", ranks_there, lk_part_number(gpu, "numa_node"),
                lk_part_text(gpu, "cores"));
    }
    put_cards(p, rank, apart);
}

static bool alike(const json_t *a, const json_t *b)
{
    return json_equal(lk_part(a, "nvml.links"), lk_part(b, "nvml.links")) &&
           json_equal(lk_part(a, "nvml.nics"), lk_part(b, "nvml.nics"));
}

/* Of each host with several GPUs, or a GPU and a network card; one for all that are alike. */
static void put_topology(const page *p, const json_t *ranks)
{
    size_t r, k;
    const json_t *rank;
    bool legend = false;
    json_array_foreach((json_t *)ranks, r, rank)
    {
        size_t gpus = json_array_size(lk_part(rank, "nvml.devices"));
        size_t cards = json_array_size(lk_part(rank, "machine.nics")), others = 0;
        for (k = 0; k < r; k++)
            if (alike(json_array_get(ranks, k), rank)) break;
        if (k < r || gpus == 0 || gpus + cards < 2) continue;
        for (k = r + 1; k < json_array_size(ranks); k++)
            others += alike(json_array_get(ranks, k), rank) &&
                      lk_part_number(json_array_get(ranks, k), "local_rank") == 0;
        paint(p, BOLD);
        fprintf(p->out, "\ntopology of %.64s", lk_part_text(rank, "host"));
        if (others) fprintf(p->out, ", and of %zu host%s alike", others, others == 1 ? "" : "s");
        fputc('\n', p->out);
        paint(p, PLAIN);
        put_matrix(p, ranks, r);
        legend = true;
    }
    if (legend)
        fprintf(p->out, "  NVn: n NVLinks; PIX: one PCIe switch; PXB: several; PHB: a host bridge; "
                        "NODE: one NUMA\n  node; SYS: between NUMA nodes\n");
}

static void put_summary(const page *p, const lk_diagnosis *r)
{
    static const char *const code[] = {GREEN, YELLOW, RED};
    static const char *const words[] = {"fit", "fit, with warnings", "not fit"};
    fputc('\n', p->out);
    paint(p, code[r->verdict]);
    fputs(words[r->verdict], p->out);
    paint(p, PLAIN);
    fprintf(p->out, ": %d error%s, %d warning%s, %d ok\n", r->errors, r->errors == 1 ? "" : "s",
            r->warnings, r->warnings == 1 ? "" : "s", r->count - r->errors - r->warnings);
}

void lk_diagnosis_print(const lk_diagnosis *r, const json_t *facts, int width, bool color,
                        FILE *out)
{
    page p = {out, width < 60 ? 60 : width, color};
    fprintf(out, "lockstep doctor: %d rank%s on %d host%s, profile %s\n", r->ranks,
            r->ranks == 1 ? "" : "s", r->hosts, r->hosts == 1 ? "" : "s",
            r->profile == LK_PROFILE_PROD ? "prod" : "dev");
    const char *section = "";
    for (int i = 0; i < r->count; i++) {
        if (strcmp(section, r->finding[i].section) != 0) {
            section = r->finding[i].section;
            paint(&p, BOLD);
            fprintf(out, "\n%s\n", section);
            paint(&p, PLAIN);
        }
        put_finding(&p, &r->finding[i]);
    }
    put_topology(&p, json_object_get(facts, "ranks"));
    put_summary(&p, r);
}

/* ---- JSON ------------------------------------------------------------------------------------ */

/* json_dumps() may lose a piece of the text when memory ends, and say nothing: the size first. */
char *lk_json_text(const json_t *x, size_t flags)
{
    size_t size = x ? json_dumpb(x, NULL, 0, flags) : 0;
    char *text = size ? malloc(size + 1) : NULL;
    if (!text) return NULL;
    if (json_dumpb(x, text, size, flags) == size) {
        text[size] = '\0';
        return text;
    }
    free(text);
    return NULL;
}

lk_status lk_diagnosis_json(const lk_diagnosis *r, const json_t *facts, char **text)
{
    json_t *all = json_array();
    int bad = all == NULL;
    for (int i = 0; i < r->count && !bad; i++) {
        const lk_finding *f = &r->finding[i];
        bad = json_array_append_new(
            all, json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:b}", "section", f->section, "name",
                           f->name, "verdict", lk_verdict_name[f->verdict], "value", f->value,
                           "advice", f->advice, "where", f->where, "differs", f->differs));
    }
    json_t *report =
        bad ? NULL
            : json_pack("{s:O, s:s, s:s, s:i, s:i, s:O, s:O}", "lockstep",
                        json_object_get(facts, "lockstep"), "profile",
                        r->profile == LK_PROFILE_PROD ? "prod" : "dev", "verdict",
                        lk_verdict_name[r->verdict], "errors", r->errors, "warnings", r->warnings,
                        "findings", all, "ranks", json_object_get(facts, "ranks"));
    *text = lk_json_text(report, JSON_INDENT(1));
    json_decref(report);
    json_decref(all);
    return *text ? LK_OK : lk_fail(LK_E_SYSTEM, "out of memory for the report");
}
