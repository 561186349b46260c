#include "metric/prometheus.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

char *lk_prometheus_label(char *labels, int size, const char *name, const char *value)
{
    int start = (int)strlen(labels);
    int n = start + snprintf(labels + start, (size_t)(size - start), "%s%s=\"",
                             start ? "," : "", name);
    const char *p = value;
    for (; *p && n + 3 < size; p++) {
        if (*p == '\\' || *p == '"' || *p == '\n') labels[n++] = '\\';
        labels[n++] = *p == '\n' ? 'n' : *p;
    }
    if (*p || n + 2 > size) {
        labels[start] = '\0';
    } else {
        labels[n++] = '"';
        labels[n] = '\0';
    }
    return labels;
}

static void write_metrics(FILE *f, const lk_prometheus_sample *m, int count)
{
    const char *family = "";
    for (int i = 0; i < count; i++) {
        if (isnan(m[i].value)) continue;
        if (strcmp(family, m[i].family) != 0)
            fprintf(f, "# HELP %s %s\n# TYPE %s %s\n", m[i].family, m[i].help, m[i].family,
                    m[i].type);
        family = m[i].family;
        fprintf(f, "%s%s", family, m[i].suffix ? m[i].suffix : "");
        if (m[i].labels && m[i].labels[0]) fprintf(f, "{%s}", m[i].labels);
        if (isinf(m[i].value)) fprintf(f, " %cInf\n", m[i].value > 0 ? '+' : '-');
        else fprintf(f, " %.10g\n", m[i].value);
    }
}

lk_status lk_prometheus_write(const char *path, const lk_prometheus_sample *metric, int count)
{
    char *part = NULL;
    if (asprintf(&part, "%s.part", path) < 0) return lk_fail(LK_E_SYSTEM, "out of memory");
    FILE *f = fopen(part, "w");
    bool bad = !f;
    if (f) write_metrics(f, metric, count);
    if (f && fflush(f) != 0) bad = true;
    int why = errno;
    if (f && fclose(f) != 0 && !bad) {
        bad = true;
        why = errno;
    }
    if (!bad && rename(part, path) != 0) {
        bad = true;
        why = errno;
    }
    if (bad && f) unlink(part);
    free(part);
    return bad ? lk_fail(LK_E_SYSTEM, "%s: cannot write the metrics: %s", path, strerror(why))
               : LK_OK;
}
