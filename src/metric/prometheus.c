#include "metric/prometheus.h"
#include "base/replace.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

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
    lk_replace out;
    LK_TRY(lk_replace_open(&out, path, "the metrics", LK_BEGINS_METRICS));
    write_metrics(out.file, metric, count);
    return lk_replace_close(&out, false);
}
