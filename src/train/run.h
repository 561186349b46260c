/* The run file: one YAML document that says what to train. One table (run_keys.h) of every key with
 * type, default, range and help drives parsing, --set, `lockstep help run-file` and the resolved
 * copy kept with a run. */
#ifndef LK_TRAIN_RUN_H
#define LK_TRAIN_RUN_H

#include "base/status.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

typedef enum lk_precision { LK_FP32, LK_TF32, LK_FP16, LK_BF16_AUTOCAST } lk_precision;

typedef struct lk_run {
    char *path;      /* the file it came from */
    char *directory; /* run directory: checkpoints, logs */
    int64_t seed;
    struct {
        char *file;
        char *check;         /* auto | off */
        char *resident;      /* auto | yes | no */
        double resident_gib; /* limit of auto */
    } data;
    struct {
        char *kind;     /* transformer | mobilenetv3 | resnet18 | fusion */
        int64_t layers, width, heads, kv_heads; /* kv_heads 0: as heads */
        int64_t image_layers, cross_layers, patch;
        int64_t context;
        char *position; /* alibi | rope | learned | sinusoidal */
        char *norm;     /* layernorm | rmsnorm | batchnorm */
        char *ffn;      /* gelu | swiglu */
        int64_t ffn_width; /* 0: 4 width for gelu, 8/3 width rounded up to 64 for swiglu */
        bool bias, tied;
        double dropout, embedding_headroom, rope_theta, norm_eps;
        char *size;      /* small | large */
        char *attention; /* se | none | eca */
        double width_multiplier, stochastic_depth, norm_momentum;
        int64_t stem_stride, image_size; /* image_size 0: as stored */
    } model;
    struct {
        bool flip;
        int64_t pad;
        double crop, erase, mixup, smoothing;
    } augment;
    struct {
        int64_t steps, batch; /* samples in the global batch */
        int64_t leaves;       /* 0: the number of ranks of the first start */
        char *precision;      /* fp32 | tf32 | fp16 | bf16 */
        char *reduce;         /* exact | fast */
        double bucket_mib;    /* gradients reduced at a time, at least */
        char *recompute;      /* none | ffn | block */
        double ema;           /* decay; 0: no moving average */
        char *device;         /* auto | cpu | cuda */
        double timeout;       /* of the watchdog, s; 0: none, < 0: from the times so far */
        int64_t stop_after;   /* end this start after the step (with a checkpoint); 0: at `steps` */
    } train;
    struct {
        double lr, min_lr, beta1, beta2, eps, weight_decay, clip;
        int64_t warmup;
    } optimizer;
    struct {
        double initial, growth, backoff, max;
        int64_t interval;
    } loss_scale;
    struct {
        int64_t every, batches; /* validation: every N steps (0: only at the end), global batches */
    } eval;
    struct {
        int64_t every; /* steps between checkpoints; 0: only at the end */
        bool initial;  /* also before the first step */
        int64_t keep, keep_every; /* the newest so many (0: all); those of every so many steps */
    } checkpoint;
    struct {
        int64_t every; /* steps between progress lines when not on a terminal */
        bool run_log, tensorboard;
        char *prometheus; /* false | true | path */
        int64_t steps;    /* between records of a step */
        double outlier;   /* threshold, standard deviations; 0: off */
        int64_t outlier_window;
    } log;
    struct {
        int64_t from, to; /* steps to trace, as numbered in the log; from 0: none */
    } trace;
} lk_run;

/* Parse FILE, then apply `sets` ("a.b=c") in order. LK_E_INPUT with file:line, the key, what was
 * expected and found, and the nearest valid key. Free with lk_run_clear. */
lk_status lk_run_load(const char *path, int sets, const char *const *set, lk_run *run);
/* The same from text (a checkpoint's run_file); `name` stands for the path in messages. */
lk_status lk_run_parse(const char *name, const char *text, int sets, const char *const *set,
                       lk_run *run);
lk_status lk_run_format(const lk_run *run, char **text); /* resolved YAML; caller frees */
/* The value of a key ("train.steps") as it is, and a newline. LK_E_INPUT: there is no such key. */
lk_status lk_run_print(const lk_run *run, const char *name, FILE *out);
/* What must not change on a resume: LK_E_INPUT naming the first such key that differs. */
lk_status lk_run_check_resume(const lk_run *run, const lk_run *started);
void lk_run_help(FILE *out); /* every key, type, default, meaning */
void lk_run_clear(lk_run *run);
lk_precision lk_run_precision(const lk_run *run);
bool lk_run_images(const lk_run *run); /* a model of images, not of text alone */
bool lk_run_fusion(const lk_run *run); /* that of images with a text each */

#endif
