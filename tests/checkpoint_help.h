/* What the tests of checkpoints share: models without sense, all bit patterns, comparison. */
#ifndef LK_TESTS_CHECKPOINT_HELP_H
#define LK_TESTS_CHECKPOINT_HELP_H

#include "base/philox.h"
#include "io/checkpoint_job.h"
#include "tests/io_help.h"

typedef struct tensor {
    const char *name;
    int dims;
    int64_t dim[4];
    bool decay;
} tensor;

static inline lk_params *model(const tensor *t)
{
    lk_params *p = lk_params_create();
    lk_graph *g = lk_graph_create(p, false);
    for (; t->name; t++) lk_parameter(g, t->name, t->dims, t->dim, LK_INIT_ZERO, 0, t->decay);
    lk_graph_destroy(g);
    lk_params_layout(p);
    return p;
}

/* ---- contents -------------------------------------------------------------------------------- */

static inline lk_flat buffers(const lk_params *p, bool moments)
{
    size_t bytes = (size_t)p->total * sizeof(float);
    lk_flat d = {.param = malloc(bytes), .moment1 = moments ? malloc(bytes) : NULL,
                            .moment2 = moments ? malloc(bytes) : NULL};
    float *flat[3] = {d.param, d.moment1, d.moment2};
    for (int g = 0; g < 3; g++)
        if (flat[g]) memset(flat[g], 0xA5, bytes); /* what was there must not be seen again */
    return d;
}

static inline void release(lk_flat *d)
{
    free(d->param);
    free(d->moment1);
    free(d->moment2);
}

/* All bit patterns: NaNs with payloads, infinities, denormals, both zeros. */
static inline void fill(const lk_params *p, lk_flat *d, uint64_t seed)
{
    float *flat[3] = {d->param, d->moment1, d->moment2};
    for (uint32_t g = 0; g < 3; g++)
        for (int i = 0; i < p->count && flat[g]; i++)
            for (int64_t k = 0; k < p->item[i]->count; k++) {
                uint32_t bits = lk_philox(seed, (uint32_t)k, (uint32_t)i, g, 0).v[0];
                memcpy(flat[g] + p->item[i]->offset + k, &bits, sizeof bits);
            }
}

/* Are the parameters in `a` those of `b`, and the gaps in `a` zero? */
static inline bool same_flat(const lk_params *p, const float *a, const float *b)
{
    if (!a || !b) return a == b;
    bool *used = calloc((size_t)p->total, sizeof *used), good = true;
    for (int i = 0; i < p->count; i++) {
        const lk_param *q = p->item[i];
        good &= memcmp(a + q->offset, b + q->offset, (size_t)q->count * sizeof *a) == 0;
        for (int64_t k = 0; k < q->count; k++) used[q->offset + k] = true;
    }
    for (int64_t k = 0; k < p->total; k++) good &= used[k] || memcmp(a + k, "\0\0\0\0", 4) == 0;
    free(used);
    return good;
}

static inline bool same_data(const lk_params *p, const lk_flat *a, const lk_flat *b)
{
    return same_flat(p, a->param, b->param) && same_flat(p, a->moment1, b->moment1) &&
           same_flat(p, a->moment2, b->moment2);
}

static uint32_t letters[3] = {'a', 0xE9, 0x1F600};

static inline lk_checkpoint_info some_info(uint64_t step)
{
    return (lk_checkpoint_info){
        .state = {.step = step, .updates = step, .loss_scale = 65536, .loss = 2.5f, .lr = 3e-4f,
                  .grad_norm = 1.25f, .finite = 1},
        .seed = UINT64_MAX - 5,
        .leaves = 8,
        .run_file = (char *)"directory: runs/a\nmodel:\n  kind: transformer\n  width: 64\n",
        .choices = (char *)"backend\tcpu\n",
        .code_version = (char *)"0.1-g1234567",
        .build = (char *)"gcc 12, cpu",
        .dataset_path = (char *)"data/\xC3\xA9.h5",
        .dataset_digest = (char *)"0123456789abcdef0123456789abcdef",
        .characters = true,
        .vocabulary = letters,
        .vocabulary_size = 3,
    };
}

static char *animals[3] = {(char *)"cat", (char *)"", (char *)"\xC3\xA9" "agle of the north"};
static float three[6] = {0.25f, 0.5f, 0.125f, 1, 0.75f, 2};

static inline lk_checkpoint_info image_info(uint64_t step)
{
    lk_checkpoint_info info = some_info(step);
    info.kind = LK_IMAGE_DATA;
    info.image = (lk_image_format){.height = 32, .width = 48, .channels = 3, .classes = 3,
                                   .name = animals, .mean = three, .std = three + 3};
    info.vocabulary = NULL;
    info.vocabulary_size = 0;
    info.characters = false;
    return info;
}

static inline bool same_image(const lk_image_format *a, const lk_image_format *b)
{
    bool same = a->height == b->height && a->width == b->width && a->channels == b->channels &&
                a->classes == b->classes;
    for (int64_t i = 0; i < a->classes && same; i++) same = strcmp(a->name[i], b->name[i]) == 0;
    size_t bytes = (size_t)a->channels * sizeof(float);
    return same && (bytes == 0 || (memcmp(a->mean, b->mean, bytes) == 0 &&
                                   memcmp(a->std, b->std, bytes) == 0));
}

static inline bool same_info(const lk_checkpoint_info *a, const lk_checkpoint_info *b)
{
    return a->kind == b->kind && same_image(&a->image, &b->image) &&
           memcmp(&a->state, &b->state, sizeof a->state) == 0 &&
           a->seed == b->seed &&
           a->leaves == b->leaves && strcmp(a->run_file, b->run_file) == 0 &&
           strcmp(a->choices, b->choices) == 0 && strcmp(a->code_version, b->code_version) == 0 &&
           strcmp(a->build, b->build) == 0 && strcmp(a->dataset_path, b->dataset_path) == 0 &&
           strcmp(a->dataset_digest, b->dataset_digest) == 0 && a->characters == b->characters &&
           a->vocabulary_size == b->vocabulary_size &&
           (a->vocabulary_size == 0 ||
            memcmp(a->vocabulary, b->vocabulary, (size_t)a->vocabulary_size * 4) == 0);
}

/* ---- saving ---------------------------------------------------------------------------------- */

static inline lk_status save_job(void *argument)
{
    lk_checkpoint_job *j = argument;
    LK_TRY(lk_checkpoint_share_info(j));
    lk_status status = lk_checkpoint_list_params(j);
    if (status == LK_OK) status = lk_checkpoint_deal(j);
    LK_TRY(lk_checkpoint_agree(j, status));
    for (int i = 0; i < j->tensors; i++)
        j->item[i].rows = (char *)j->item[i].data + j->item[i].first * j->item[i].row;
    return lk_checkpoint_write(j);
}

/* From host memory, without a store and a snapshot, and wait: DIRECTORY/step-NNNNNN.h5 with those
 * buffers of `data` that are not NULL (moments: both or none). All earlier files stay. */
static inline lk_status save_checkpoint(lk_io *io, MPI_Comm world, const char *directory,
                                        const lk_params *params, const lk_checkpoint_info *info,
                                        const lk_flat *data)
{
    lk_checkpoint_job j = {.given = directory, .params = params, .info = *info};
    lk_checkpoint_take(&j, data);
    return lk_checkpoint_run(io, world, save_job, &j);
}

#endif
