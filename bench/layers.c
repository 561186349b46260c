/* bench/layers RUN.yaml DIRECTORY [--image-size N] [--channels N] [--classes N] [--set a.b=c]...
 *
 * Write what every layer of an image model computes in one training step in fp32 on random images,
 * without dropout and stochastic depth, for bench/peer/vision.py: DIRECTORY/data.bin holds f32
 * tensors, DIRECTORY/index.json says which: parameters before the step, their gradients, outputs of
 * layers and gradients with respect to the outputs of convolutions. */
#include "bench/model.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

typedef struct writer {
    bench_model *m;
    FILE *index, *data;
    int64_t floats; /* written so far */
    int tensors;
} writer;

/* One tensor of `count` floats on the host. */
static lk_status put(writer *w, const char *kind, const char *name, int dims, const int64_t *dim,
                     int64_t count, const float *host)
{
    fprintf(w->index, "%s\n  {\"kind\": \"%s\", \"name\": \"%s\", \"offset\": %lld, \"shape\": [",
            w->tensors++ ? "," : "", kind, name, (long long)w->floats);
    for (int i = 0; i < dims; i++) fprintf(w->index, "%s%lld", i ? ", " : "", (long long)dim[i]);
    fputs("]}", w->index);
    w->floats += count;
    if (fwrite(host, sizeof *host, (size_t)count, w->data) != (size_t)count)
        return lk_fail(LK_E_SYSTEM, "cannot write the tensors: %s", strerror(errno));
    return LK_OK;
}

static lk_status put_tensor(writer *w, const char *kind, const char *name, const lk_tensor *t)
{
    const lk_backend *b = w->m->device->backend;
    float *host = malloc(lk_bytes(t));
    if (!host) return lk_fail(LK_E_SYSTEM, "out of memory");
    lk_status status =
        b->download(w->m->device, host, lk_program_data(w->m->program, t), lk_bytes(t));
    if (status == LK_OK) status = b->sync(w->m->device);
    if (status == LK_OK) status = put(w, kind, name, t->dims, t->dim, lk_count(t), host);
    free(host);
    return status;
}

static lk_status put_node(writer *w, const lk_node *n)
{
    const lk_tensor *y = n->out[0];
    switch (n->op) {
    case LK_OP_IMAGES:
        LK_TRY(put_tensor(w, "output", n->scope, y));
        return put_tensor(w, "targets", n->scope, n->out[1]);
    case LK_OP_CONV:
    case LK_OP_DWCONV:
    case LK_OP_LINEAR:
        return put_tensor(w, y->dims == 2 ? "output" : "convolution", n->scope, y);
    case LK_OP_BATCH_NORM:
    case LK_OP_GATE: return put_tensor(w, "output", n->scope, y);
    case LK_OP_BATCH_NORM_GRAD:
        return put_tensor(w, "gradient", n->in[0]->producer->scope, y);
    default: return LK_OK;
    }
}

static lk_status put_flat(writer *w, const char *kind, const float *flat)
{
    const lk_params *p = w->m->params;
    for (int i = 0; i < p->count; i++) {
        const lk_param *q = p->item[i];
        if (!q->statistic)
            LK_TRY(put(w, kind, q->name, q->dims, q->dim, q->count, flat + q->offset));
    }
    return LK_OK;
}

static lk_status write_all(writer *w)
{
    bench_model *m = w->m;
    const lk_backend *b = m->device->backend;
    size_t bytes = (size_t)m->params->total * sizeof(float);
    float *flat = malloc(bytes);
    if (!flat) return lk_fail(LK_E_SYSTEM, "out of memory");
    lk_params_initialise(m->params, (uint64_t)m->run.seed, flat);
    lk_status status = put_flat(w, "parameter", flat);
    if (status == LK_OK) status = lk_program_run(m->program);
    if (status == LK_OK) status = b->download(m->device, flat, m->store->gradient[0], bytes);
    if (status == LK_OK) status = b->sync(m->device);
    if (status == LK_OK) status = put_flat(w, "parameter_gradient", flat);
    for (const lk_node *n = m->graph.graph->first; n && status == LK_OK; n = n->next)
        status = put_node(w, n);
    free(flat);
    return status;
}

static lk_status layers(const char *directory, bench_model *m)
{
    char path[2][4096];
    snprintf(path[0], sizeof path[0], "%s/index.json", directory);
    snprintf(path[1], sizeof path[1], "%s/data.bin", directory);
    if (mkdir(directory, 0777) != 0 && errno != EEXIST)
        return lk_fail(LK_E_INPUT, "cannot make '%s': %s", directory, strerror(errno));
    writer w = {.m = m, .index = fopen(path[0], "w"), .data = fopen(path[1], "wb")};
    lk_status status = w.index && w.data ? LK_OK
                                         : lk_fail(LK_E_INPUT, "cannot write in '%s': %s",
                                                   directory, strerror(errno));
    if (status == LK_OK) {
        fprintf(w.index, "{\"run\": {\"kind\": \"%s\", \"size\": \"%s\", \"classes\": %lld, "
                "\"channels\": %lld, \"stem_stride\": %d, \"norm_eps\": %.9g},\n \"tensors\": [",
                m->run.model.kind, m->run.model.size, (long long)m->format.classes,
                (long long)m->format.channels, m->model.image.stem_stride,
                (double)m->model.image.norm_eps);
        status = write_all(&w);
        fputs("\n]}\n", w.index);
        printf("%d tensors, %.1f MB\n", w.tensors, 4e-6 * (double)w.floats);
    }
    bool bad = w.index && fclose(w.index) != 0;
    if (w.data && fclose(w.data) != 0) bad = true;
    return status == LK_OK && bad ? lk_fail(LK_E_SYSTEM, "cannot write in '%s'", directory)
                                  : status;
}

static lk_status expect_images(const bench_arguments *a)
{
    lk_run run;
    LK_TRY(lk_run_load(a->file, a->sets, a->set, &run));
    lk_status status = LK_OK;
    if (!lk_run_images(&run) || lk_run_fusion(&run))
        status = lk_fail(LK_E_INPUT, "%s: expected a model of images, found model.kind %s; "
                         "bench/mnv3l.yaml has one", a->file, run.model.kind);
    lk_run_clear(&run);
    return status;
}

static lk_status job(bench_arguments *a, lk_comm *comm)
{
    static const char *const always[] = {"model.dropout=0", "model.stochastic_depth=0",
                                         "train.leaves=1"};
    bench_model m;
    LK_TRY(expect_images(a));
    a->keep = true;
    for (size_t i = 0; i < sizeof always / sizeof *always; i++) a->set[a->sets++] = always[i];
    LK_TRY(bench_open(a, comm, false, true, &m));
    bench_tell_device("layers", &m);
    lk_status status = layers(a->directory, &m);
    bench_close(&m);
    return status;
}

int main(int argc, char **argv)
{
    static const bench_command layers_command = {
        .name = "layers",
        .does = "Writes what every layer of an image model computes in one step into DIRECTORY, "
                "for\nbench/peer/vision.py.",
        .directory = true,
        .images = true,
        .job = job};
    return bench_main(&layers_command, argc, argv);
}
