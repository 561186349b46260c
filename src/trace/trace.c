/* What a trace owns. */
#include "trace/trace.h"

#include <stdlib.h>

void lk_trace_clear(lk_trace *t)
{
    for (int i = 0; i < t->nodes && t->node; i++) {
        free(t->node[i].scope);
        free(t->node[i].op);
    }
    for (int i = 0; i < t->memories && t->memory; i++) free(t->memory[i].name);
    for (int i = 0; i < t->ranks && t->host; i++) free(t->host[i]);
    free(t->host);
    free(t->device);
    free(t->version);
    free(t->node);
    free(t->memory);
    free(t->step);
    free(t->span);
    *t = (lk_trace){.device = NULL};
}
