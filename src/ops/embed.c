/* embed: token embedding plus position; positions: of a sequence that is no tokens. */
#include "ops/ops.h"

static void gradient(lk_graph *g, lk_node *n)
{
    lk_tensor *dy = lk_cotangent(g, n->out[0]);
    lk_node *d = lk_node_new(g, LK_OP_EMBED_GRAD, 2, (lk_tensor *[]){n->in[0], dy});
    if (!d) return;
    d->attr = n->attr;
    lk_param_output(g, d, n->in[1]);
    lk_param_output(g, d, n->in[2]);
}

lk_tensor *lk_embed(lk_graph *g, lk_tensor *tokens, lk_tensor *table, lk_embed_position kind,
                    lk_tensor *positions)
{
    if (g->status != LK_OK || !tokens || !table) return NULL;
    if (tokens->dims != 2 || tokens->dtype != LK_I32 || table->dims != 2) {
        char a[96], b[96];
        lk_error_at(g, "embed: tokens %s (i32 [batch, time]) and table %s",
                    lk_shape_text(tokens, a, sizeof a), lk_shape_text(table, b, sizeof b));
        return NULL;
    }
    if (kind == LK_POSITION_TABLE &&
        (!positions || positions->dim[0] < tokens->dim[1] ||
         lk_cols(positions) != lk_cols(table))) {
        lk_error_at(g, "embed: position table too short for %lld tokens",
                    (long long)tokens->dim[1]);
        return NULL;
    }
    lk_node *n = lk_node_new(g, LK_OP_EMBED, 3, (lk_tensor *[]){tokens, table, positions});
    if (!n) return NULL;
    n->attr.embed.position = kind;
    return lk_node_output(g, n,
                          lk_tensor_new(g, LK_F32, LK_REGION_ARENA, 3,
                                        (int64_t[]){tokens->dim[0], tokens->dim[1],
                                                    lk_cols(table)}));
}

/* A row of the table for each token, but the whole table at most. */
static void cost(const lk_node *n, double *flops, double *bytes)
{
    (void)flops;
    double rows = (double)lk_bytes(n->out[0]), table = (double)lk_bytes(n->in[1]);
    if (rows < table) *bytes -= table - rows;
}

/* ---- positions ------------------------------------------------------------------------------- */

/* dx is dy. */
static void positions_gradient(lk_graph *g, lk_node *n)
{
    lk_tensor *dy = lk_cotangent(g, n->out[0]);
    lk_node *d = lk_node_new(g, LK_OP_POSITIONS_GRAD, 1, (lk_tensor *[]){dy});
    if (!d) return;
    lk_param_output(g, d, n->in[1]);
    lk_contribute(g, n->in[0], dy);
}

lk_tensor *lk_positions(lk_graph *g, lk_tensor *x, lk_tensor *positions)
{
    if (g->status != LK_OK || !x || !positions) return NULL;
    if (x->dims != 3 || positions->dims != 2 || positions->dim[0] < x->dim[1] ||
        lk_cols(positions) != lk_cols(x)) {
        char a[96], b[96];
        lk_error_at(g, "positions: x %s and positions %s; expected [B, T, C] and [T or more, C]",
                    lk_shape_text(x, a, sizeof a), lk_shape_text(positions, b, sizeof b));
        return NULL;
    }
    lk_node *n = lk_node_new(g, LK_OP_POSITIONS, 2, (lk_tensor *[]){x, positions});
    return lk_node_output(g, n, lk_tensor_like(g, x));
}

static void positions_cost(const lk_node *n, double *flops, double *bytes)
{
    (void)bytes;
    *flops = (double)lk_count(n->in[0]);
}

const lk_rule lk_rule_positions = {.gradient = positions_gradient, .cost = positions_cost,
                                   .in_place = 0};
const lk_rule lk_rule_positions_grad = {.cost = positions_cost, .in_place = -1};
const lk_rule lk_rule_embed = {.gradient = gradient, .cost = cost, .in_place = -1};
const lk_rule lk_rule_embed_grad = {.in_place = -1};
