/* images: augmented images, mixed targets and labels of this leaf's samples; texts: the tokens that
 * belong to them. */
#include "ops/ops.h"

static bool fits(lk_graph *g, const lk_image_source *s, const lk_tensor *data,
                 const lk_tensor *labels, const lk_tensor *scale)
{
    char a[96], b[96], c[96];
    if (data->dims != 4 || data->dtype != LK_U8 || labels->dtype != LK_U16 ||
        lk_count(labels) != data->dim[0] || scale->dims != 2 || scale->dim[0] != 2 ||
        scale->dim[1] != data->dim[3]) {
        lk_error_at(g, "images: data %s %s, labels %s %s, scale %s",
                    lk_dtype_name(data->dtype), lk_shape_text(data, a, sizeof a),
                    lk_dtype_name(labels->dtype), lk_shape_text(labels, b, sizeof b),
                    lk_shape_text(scale, c, sizeof c));
        return false;
    }
    if (s->batch < 1 || s->height < 1 || s->width < 1 || s->classes < 1) {
        lk_error_at(g, "images: %lld images of %lld x %lld, %lld classes", (long long)s->batch,
                    (long long)s->height, (long long)s->width, (long long)s->classes);
        return false;
    }
    return true;
}

/* Whether `data` holds the rows that s says, of shards or of one batch. */
static bool holds(lk_graph *g, const char *what, const lk_image_source *s, const lk_tensor *data)
{
    char a[96];
    if (s->resident ? s->shard_rows >= 1 && data->dim[0] % s->shard_rows == 0
                    : data->dim[0] == s->batch)
        return true;
    lk_error_at(g, "%s: data %s does not hold %s %lld", what, lk_shape_text(data, a, sizeof a),
                s->resident ? "shards of" : "a batch of",
                (long long)(s->resident ? s->shard_rows : s->batch));
    return false;
}

static bool augment_valid(lk_graph *g, const lk_augment *a)
{
    bool good = a->pad >= 0 && a->crop > 0 && a->crop <= 1 && a->erase >= 0 && a->erase <= 1 &&
                a->mixup >= 0 && a->mixup <= 1 && a->smoothing >= 0 && a->smoothing < 1;
    if (!good)
        lk_error_at(g, "images: pad %d, crop %g, erase %g, mixup %g or smoothing %g is outside its "
                    "range", a->pad, (double)a->crop, (double)a->erase, (double)a->mixup,
                    (double)a->smoothing);
    return good;
}

/* Which rows a node takes. */
static void set_rows(lk_node *n, const lk_image_source *s)
{
    n->attr.images.resident = s->resident;
    n->attr.images.purpose = s->purpose;
    n->attr.images.shard_rows = s->shard_rows;
    n->attr.images.first_leaf = s->first_leaf;
}

lk_status lk_images(lk_graph *g, const lk_image_source *s, lk_tensor *data, lk_tensor *labels,
                    lk_tensor *scale, lk_tensor **x, lk_tensor **targets, lk_tensor **classes)
{
    if (g->status != LK_OK || !data || !labels || !scale) return g->status;
    if (!fits(g, s, data, labels, scale) || !holds(g, "images", s, data) ||
        !augment_valid(g, &s->augment))
        return g->status;
    lk_node *n = lk_node_new(g, LK_OP_IMAGES, 4, (lk_tensor *[]){data, labels, scale, g->state});
    if (!n) return g->status;
    set_rows(n, s);
    n->attr.images.augment = s->augment;
    int64_t image[4] = {s->batch, s->height, s->width, data->dim[3]};
    int64_t share[2] = {s->batch, s->classes};
    lk_tensor *out = lk_node_output(g, n, lk_tensor_new(g, LK_F32, LK_REGION_ARENA, 4, image));
    lk_tensor *t = lk_node_output(g, n, lk_tensor_f32(g, 2, share));
    lk_tensor *l = lk_node_output(g, n, lk_tensor_new(g, LK_I32, LK_REGION_ARENA, 1, share));
    if (g->status != LK_OK) return g->status;
    *x = out;
    *targets = t;
    *classes = l;
    return LK_OK;
}

lk_tensor *lk_texts(lk_graph *g, const lk_image_source *s, lk_tensor *data)
{
    if (g->status != LK_OK || !data) return NULL;
    if (data->dims != 2 || (data->dtype != LK_U8 && data->dtype != LK_U16)) {
        char a[96];
        lk_error_at(g, "texts: data %s %s is not u8 or u16 [rows, tokens]",
                    lk_dtype_name(data->dtype), lk_shape_text(data, a, sizeof a));
        return NULL;
    }
    if (!holds(g, "texts", s, data)) return NULL;
    lk_node *n = lk_node_new(g, LK_OP_TEXTS, 2, (lk_tensor *[]){data, g->state});
    if (!n) return NULL;
    set_rows(n, s);
    int64_t dim[2] = {s->batch, data->dim[1]};
    return lk_node_output(g, n, lk_tensor_new(g, LK_I32, LK_REGION_ARENA, 2, dim));
}

/* Of resident data only the samples are read. */
static void cost(const lk_node *n, double *flops, double *bytes)
{
    const lk_tensor *data = n->in[0], *x = n->out[0];
    *flops = 10.0 * (double)lk_count(x) * (n->attr.images.augment.mixup > 0 ? 2 : 1);
    *bytes = (double)lk_bytes(x) + (double)lk_bytes(n->out[1]) + (double)lk_bytes(n->out[2]) +
             (double)lk_bytes(data) / (double)data->dim[0] * (double)x->dim[0];
}

static void texts_cost(const lk_node *n, double *flops, double *bytes)
{
    (void)flops;
    *bytes = (double)lk_count(n->out[0]) *
             (double)(sizeof(int32_t) + lk_dtype_size(n->in[0]->dtype));
}

const lk_rule lk_rule_texts = {.cost = texts_cost, .in_place = -1};
const lk_rule lk_rule_images = {.cost = cost, .in_place = -1, .float_inputs = 1u << 2};
