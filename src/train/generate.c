/* Text generation: sample from the softmax of the last position, the context sliding.
 *
 * A forward program is kept for each power-of-two length up to the context, so a short text does
 * not pay for a long one; later positions are padding that causal attention never looks at. */
#include "base/philox.h"
#include "io/dataset.h"
#include "train/train.h"
#include "train/trained.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { LENGTHS = 32 };

typedef struct candidate {
    double weight;
    int32_t token;
} candidate;

static int by_weight(const void *a, const void *b)
{
    const candidate *x = a, *y = b;
    if (x->weight != y->weight) return x->weight < y->weight ? 1 : -1;
    return x->token - y->token;
}

/* Draw a token from logits[0..vocabulary); `word` is the random number. */
static int32_t draw(const float *logits, int64_t vocabulary, const lk_generation *job,
                    uint32_t word, candidate *c)
{
    for (int64_t i = 0; i < vocabulary; i++)
        c[i] = (candidate){(double)logits[i], (int32_t)i};
    qsort(c, (size_t)vocabulary, sizeof *c, by_weight);
    if (job->temperature <= 0) return c[0].token;
    int64_t n = job->top_k > 0 && job->top_k < vocabulary ? job->top_k : vocabulary;
    double top = c[0].weight, sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += c[i].weight = exp((c[i].weight - top) / job->temperature);
    double at = ((double)word + 0.5) * 0x1p-32 * sum;
    for (int64_t i = 0; i < n; i++)
        if ((at -= c[i].weight) <= 0) return c[i].token;
    return c[n - 1].token;
}

typedef struct generator {
    lk_trained model;
    lk_forward forward[LENGTHS];
    int32_t *tokens; /* prompt and continuation */
    int64_t count, room;
    int32_t *window; /* padded input */
    candidate *candidates;
} generator;

static lk_status next_token(generator *s, const lk_generation *job, int32_t *token)
{
    int64_t context = s->model.model.text.context;
    int64_t used = s->count < context ? s->count : context;
    int k = 3;
    while (((int64_t)1 << k) < used) k++;
    int64_t time = (int64_t)1 << k < context ? (int64_t)1 << k : context;
    lk_forward *f = &s->forward[k];
    if (!f->program) LK_TRY(lk_forward_open(&s->model, 1, time, f));
    memset(s->window, 0, (size_t)time * sizeof *s->window);
    memcpy(s->window, s->tokens + s->count - used, (size_t)used * sizeof *s->window);
    LK_TRY(lk_forward_run(&s->model, f, s->window, NULL));
    uint32_t word =
        lk_philox(job->seed, (uint32_t)s->count, LK_PURPOSE_GENERATE, 0, 0).v[0];
    *token = draw(f->host + (used - 1) * f->columns, s->model.info.vocabulary_size, job, word,
                  s->candidates);
    return LK_OK;
}

static lk_status generate(generator *s, const lk_generation *job,
                          void (*emit)(void *context, const char *piece), void *context,
                          char **text)
{
    const lk_checkpoint_info *info = &s->model.info;
    int32_t *prompt = NULL;
    LK_TRY(lk_text_encode(info->vocabulary, info->vocabulary_size, info->characters, job->prompt,
                          &prompt, &s->count));
    s->room = s->count + job->tokens;
    s->tokens = realloc(prompt, (size_t)(s->room + 1) * sizeof *s->tokens);
    s->window = malloc((size_t)s->model.model.text.context * sizeof *s->window);
    s->candidates = malloc((size_t)info->vocabulary_size * sizeof *s->candidates);
    if (!s->tokens || !s->window || !s->candidates) {
        if (!s->tokens) free(prompt);
        return lk_fail(LK_E_SYSTEM, "out of memory");
    }
    if (s->count == 0)
        return lk_fail(LK_E_INPUT, "the prompt is empty: give at least one character");
    if (emit) emit(context, job->prompt);
    while (s->count < s->room) {
        LK_TRY(next_token(s, job, &s->tokens[s->count]));
        s->count++;
        if (!emit) continue;
        char *piece;
        LK_TRY(lk_text_decode(info->vocabulary, info->vocabulary_size, info->characters,
                              s->tokens + s->count - 1, 1, &piece));
        emit(context, piece);
        free(piece);
    }
    return lk_text_decode(info->vocabulary, info->vocabulary_size, info->characters, s->tokens,
                          s->count, text);
}

lk_status lk_generate(lk_comm *comm, lk_io *io, const char *checkpoint, const lk_generation *job,
                      void (*emit)(void *context, const char *piece), void *context, char **text)
{
    generator s = {.tokens = NULL};
    LK_TRY(lk_trained_open(comm, io, checkpoint, job->device, LK_WEIGHTS_AUTO, &s.model));
    lk_status status = lk_trained_expect(&s.model, LK_TEXT_DATA);
    if (status == LK_OK) status = generate(&s, job, emit, context, text);
    for (int i = 0; i < LENGTHS; i++)
        if (s.forward[i].program) lk_forward_close(&s.model, &s.forward[i]);
    lk_trained_close(&s.model);
    free(s.tokens);
    free(s.window);
    free(s.candidates);
    return status;
}
