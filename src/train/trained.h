/* A trained model read from a checkpoint, ready to compute logits. */
#ifndef LK_TRAIN_TRAINED_H
#define LK_TRAIN_TRAINED_H

#include "io/checkpoint.h"
#include "train/session.h"

/* Which parameters of a checkpoint are used: AUTO takes the moving average where there is one. */
typedef enum lk_weights { LK_WEIGHTS_AUTO, LK_WEIGHTS_RAW, LK_WEIGHTS_EMA } lk_weights;

typedef struct lk_trained {
    lk_checkpoint_info info;
    lk_run run;
    lk_model model;
    lk_device *device;
    lk_params *params;
    lk_store *store;
    bool ema; /* the moving average was read */
} lk_trained;
/* Collective. Close with lk_trained_close (takes a zeroed struct too). *t must stay where it is. */
lk_status lk_trained_open(lk_comm *comm, lk_io *io, const char *checkpoint, const char *device,
                          lk_weights weights, lk_trained *t);
void lk_trained_close(lk_trained *t);
/* LK_E_INPUT unless the model learned from this kind of data. */
lk_status lk_trained_expect(const lk_trained *t, lk_dataset_kind kind);

/* A forward program from samples to logits on the host. */
typedef struct lk_forward {
    lk_graph *graph;
    lk_program *program;
    lk_tensor *logits;
    void *input;     /* device: tokens i32 [batch, time], or images u8 [batch, H, W, C] */
    void *labels;    /* device, u16 [batch], not used: images come with them */
    void *scale;     /* device, of images */
    void *texts;     /* device: tokens u16 [batch, T] of images with a text each; else NULL */
    size_t bytes, text_bytes; /* of input, of texts */
    float *host;     /* logits, f32 [batch (, time), columns] */
    void *raw;       /* logits as downloaded */
    int64_t columns; /* vocabulary with headroom, or classes */
} lk_forward;
/* time: tokens of a sample; not used for images. */
lk_status lk_forward_open(lk_trained *t, int64_t batch, int64_t time, lk_forward *f);
/* Fill f->host from samples on the host, as `input` holds them; texts as f->texts, else NULL. */
lk_status lk_forward_run(lk_trained *t, lk_forward *f, const void *samples, const void *texts);
void lk_forward_close(lk_trained *t, lk_forward *f); /* takes a zeroed forward too */

#endif
