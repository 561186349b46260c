/* The table of run-file keys, for run.c alone. */
#ifndef LK_TRAIN_RUN_KEYS_H
#define LK_TRAIN_RUN_KEYS_H

#include "train/run.h"

#include <stddef.h>

typedef enum kind { TEXT, CHOICE, INTEGER, REAL, BOOLEAN } kind;

enum { FIXED = 1 }; /* may not change when a run is resumed */

/* Kinds of model, by bit, in the order of the choices of model.kind. */
enum {
    TRANSFORMER = 1,
    MOBILENET = 2,
    RESNET = 4,
    FUSION = 8,
    VISION = MOBILENET | RESNET,
    BLOCKS = TRANSFORMER | FUSION, /* of attention */
    IMAGES = VISION | FUSION
};

typedef struct key {
    const char *name;
    kind kind;
    size_t offset;        /* of the member in lk_run */
    const char *standard; /* default; NULL: the key is required */
    double low, high;     /* INTEGER, REAL: inclusive */
    int flags;
    int only;             /* kinds of model it has a meaning for; 0: all */
    const char *choices;  /* CHOICE: "a|b|c" */
    const char *help;
} key;

#define STEPS "trace.steps" /* stands for trace.from and trace.to */
#define AT(member) offsetof(lk_run, member)
#define MANY 1e15

static const key keys[] = {
    {"directory", TEXT, AT(directory), NULL, 0, 0, 0, 0, NULL,
     "run directory: checkpoints, loss log; made by the run; from the working directory"},
    {"seed", INTEGER, AT(seed), "1337", 0, MANY, FIXED, 0, NULL,
     "key of everything random: initial values, order of samples, dropout, augmentation"},
    {"data.file", TEXT, AT(data.file), NULL, 0, 0, 0, 0, NULL,
     "dataset file made by 'lockstep import'; from the working directory"},
    {"data.check", CHOICE, AT(data.check), "auto", 0, 0, 0, 0, "auto|off",
     "auto: look at data that was not trained on before as 'lockstep check --level 1' does; unfit "
     "data end the run; what was seen is noted beside the file, in FILE.check.json. In any case "
     "the tokens and labels of every batch are checked as they are read: they are in range"},
    {"data.resident", CHOICE, AT(data.resident), "auto", 0, 0, 0, 0, "auto|yes|no",
     "keep a rank's shards in device memory; auto: when they fit data.resident_gib"},
    {"data.resident_gib", REAL, AT(data.resident_gib), "2", 0, 1e6, 0, 0, NULL,
     "limit of data.resident auto, GiB a rank"},
    {"model.kind", CHOICE, AT(model.kind), "transformer", 0, 0, FIXED, 0,
     "transformer|mobilenetv3|resnet18|fusion",
     "family of the model: of text, of images, or (fusion) of images with a text each"},
    {"model.layers", INTEGER, AT(model.layers), "6", 1, 1000, FIXED, BLOCKS, NULL,
     "blocks; fusion: of the text by itself"},
    {"model.image_layers", INTEGER, AT(model.image_layers), "4", 1, 1000, FIXED, FUSION, NULL,
     "blocks of the image by itself"},
    {"model.cross_layers", INTEGER, AT(model.cross_layers), "4", 1, 1000, FIXED, FUSION, NULL,
     "blocks in which the text attends to the image"},
    {"model.patch", INTEGER, AT(model.patch), "16", 1, 4096, FIXED, FUSION, NULL,
     "pixels on a side of a patch, a divisor of the image's height and width"},
    {"model.width", INTEGER, AT(model.width), "384", 1, 65536, FIXED, BLOCKS, NULL,
     "size of the residual stream; a multiple of model.heads"},
    {"model.heads", INTEGER, AT(model.heads), "6", 1, 1024, FIXED, BLOCKS, NULL,
     "query heads; on CUDA the size of a head, model.width / model.heads, is 16, 32, 48 .. 128"},
    {"model.kv_heads", INTEGER, AT(model.kv_heads), "0", 0, 1024, FIXED, BLOCKS, NULL,
     "key and value heads (grouped-query attention), a divisor of model.heads; 0: as heads"},
    {"model.context", INTEGER, AT(model.context), "256", 1, 1048576, FIXED, TRANSFORMER, NULL,
     "tokens of a sample"},
    {"model.position", CHOICE, AT(model.position), "alibi", 0, 0, FIXED, BLOCKS,
     "alibi|rope|learned|sinusoidal", "how positions enter; fusion: those of the text"},
    {"model.norm", CHOICE, AT(model.norm), "auto", 0, 0, FIXED, 0,
     "auto|layernorm|rmsnorm|batchnorm",
     "normalisation; auto: batchnorm in image models, layernorm in transformers and fusion"},
    {"model.ffn", CHOICE, AT(model.ffn), "gelu", 0, 0, FIXED, BLOCKS, "gelu|swiglu",
     "feed-forward"},
    {"model.ffn_width", INTEGER, AT(model.ffn_width), "0", 0, 1048576, FIXED, BLOCKS, NULL,
     "hidden size of the feed-forward; 0: 4 width (gelu), 8/3 width rounded up to 64 (swiglu)"},
    {"model.bias", BOOLEAN, AT(model.bias), "true", 0, 0, FIXED, BLOCKS, NULL,
     "biases in linear layers and layer norms"},
    {"model.tied", BOOLEAN, AT(model.tied), "true", 0, 0, FIXED, TRANSFORMER, NULL,
     "the head uses the embedding's weight"},
    {"model.dropout", REAL, AT(model.dropout), "0", 0, 0.99, 0, 0, NULL,
     "probability; transformer and fusion: after embedding, attention weights, attention and "
     "feed-forward; image models: before the classifier"},
    {"model.embedding_headroom", REAL, AT(model.embedding_headroom), "0.2", 0, 16, FIXED,
     TRANSFORMER, NULL,
     "share of spare embedding rows for later tokens, rounded up to a multiple of 64; 0: none, and "
     "a vocabulary that is no multiple of 8 makes the head slow on a GPU"},
    {"model.rope_theta", REAL, AT(model.rope_theta), "10000", 1, 1e9, FIXED, BLOCKS, NULL,
     "base of the rotary angles"},
    {"model.norm_eps", REAL, AT(model.norm_eps), "1e-5", 1e-12, 1, FIXED, 0, NULL,
     "added to the variance"},
    {"model.size", CHOICE, AT(model.size), "small", 0, 0, FIXED, MOBILENET, "small|large",
     "the paper's small or large network"},
    {"model.width_multiplier", REAL, AT(model.width_multiplier), "1", 0.05, 16, FIXED, VISION, NULL,
     "factor of all widths"},
    {"model.stem_stride", INTEGER, AT(model.stem_stride), "2", 1, 2, FIXED, VISION, NULL,
     "stride of the first convolution; 1 for images of up to about 64 pixels"},
    {"model.attention", CHOICE, AT(model.attention), "se", 0, 0, FIXED, MOBILENET, "se|none|eca",
     "channel attention of the blocks that have one"},
    {"model.stochastic_depth", REAL, AT(model.stochastic_depth), "0", 0, 0.99, 0, VISION, NULL,
     "probability of leaving out the last residual block; the others less, in proportion"},
    {"model.norm_momentum", REAL, AT(model.norm_momentum), "0.1", 0, 1, 0, VISION, NULL,
     "batchnorm: share of each step in the running statistics"},
    {"model.image_size", INTEGER, AT(model.image_size), "0", 0, 4096, FIXED, IMAGES, NULL,
     "images are sampled to this height and width, stretched if they have another shape; 0: as "
     "stored"},
    {"augment.flip", BOOLEAN, AT(augment.flip), "false", 0, 0, 0, IMAGES, NULL,
     "mirror half of the training images"},
    {"augment.pad", INTEGER, AT(augment.pad), "0", 0, 1024, 0, IMAGES, NULL,
     "shift training images by up to this many pixels each way"},
    {"augment.crop", REAL, AT(augment.crop), "1", 0.01, 1, 0, IMAGES, NULL,
     "least share of the area in a random resized crop of aspect ratio 3/4 to 4/3; where none fits "
     "the largest such in the middle; 1: no crop"},
    {"augment.erase", REAL, AT(augment.erase), "0", 0, 1, 0, IMAGES, NULL,
     "probability of erasing a rectangle"},
    {"augment.mixup", REAL, AT(augment.mixup), "0", 0, 1, 0, VISION, NULL,
     "alpha of mixup's Beta(alpha, alpha); 0: no mixup"},
    {"augment.smoothing", REAL, AT(augment.smoothing), "0", 0, 0.99, 0, IMAGES, NULL,
     "label smoothing: share of a target spread over all classes"},
    {"train.steps", INTEGER, AT(train.steps), "1000", 1, MANY, 0, 0, NULL,
     "optimizer steps of the whole run; length of the schedule"},
    {"train.batch", INTEGER, AT(train.batch), "64", 1, 1e9, FIXED, 0, NULL,
     "samples in the global batch; a multiple of the leaves"},
    {"train.leaves", INTEGER, AT(train.leaves), "0", 0, 65536, 0, 0, NULL,
     "parts of the global batch, a power of two: the most ranks the run can use; more than the "
     "ranks is gradient accumulation; 0: the ranks of the first start"},
    {"train.precision", CHOICE, AT(train.precision), "fp32", 0, 0, FIXED, 0, "fp32|tf32|fp16|bf16",
     "fp16, bf16: autocast with f32 master weights; fp16 also scales the loss"},
    {"train.reduce", CHOICE, AT(train.reduce), "exact", 0, 0, 0, 0, "exact|fast",
     "exact: the same bits on any number of ranks; fast: the library's all-reduce"},
    {"train.bucket_mib", REAL, AT(train.bucket_mib), "100", 0, 1e6, 0, 0, NULL,
     "gradients are reduced over ranks in buckets of at least this many MiB, each as soon as the "
     "backward pass has written it; changes no bits"},
    {"train.recompute", CHOICE, AT(train.recompute), "none", 0, 0, 0, BLOCKS, "none|ffn|block",
     "activations computed again in the backward pass instead of kept, to save memory: those of "
     "feed-forwards (about half of them) or of whole blocks (nearly all); changes no bits"},
    {"train.ema", REAL, AT(train.ema), "0", 0, 0.999999, FIXED, 0, NULL,
     "decay of a moving average of the parameters, kept, evaluated and saved beside them; 0: none"},
    {"train.device", CHOICE, AT(train.device), "auto", 0, 0, 0, 0, "auto|cpu|cuda",
     "auto: a GPU if there is one"},
    {"train.stop_after", INTEGER, AT(train.stop_after), "0", 0, MANY, 0, 0, NULL,
     "end this start after the step, with a checkpoint, schedule unchanged; 0: at train.steps"},
    {"train.timeout", REAL, AT(train.timeout), "-1", -1, 1e6, 0, 0, NULL,
     "seconds after which a step, collective, read, validation batch or save that has not ended "
     "ends the run and names the rank that is late; ten times that for the first steps; -1: ten "
     "times the longest so far, at least 300; 0: never"},
    {"optimizer.lr", REAL, AT(optimizer.lr), "1e-3", 0, 100, 0, 0, NULL, "peak learning rate"},
    {"optimizer.min_lr", REAL, AT(optimizer.min_lr), "0", 0, 100, 0, 0, NULL,
     "learning rate at the end of the cosine"},
    {"optimizer.warmup", INTEGER, AT(optimizer.warmup), "100", 0, MANY, 0, 0, NULL,
     "steps of linear warmup"},
    {"optimizer.beta1", REAL, AT(optimizer.beta1), "0.9", 0, 0.999999, 0, 0, NULL,
     "AdamW, decay of the first moment"},
    {"optimizer.beta2", REAL, AT(optimizer.beta2), "0.99", 0, 0.999999, 0, 0, NULL,
     "AdamW, decay of the second moment"},
    {"optimizer.eps", REAL, AT(optimizer.eps), "1e-8", 1e-20, 1, 0, 0, NULL, "AdamW"},
    {"optimizer.weight_decay", REAL, AT(optimizer.weight_decay), "0.1", 0, 100, 0, 0, NULL,
     "decoupled; not on biases and norms"},
    {"optimizer.clip", REAL, AT(optimizer.clip), "1", 0, 1e9, 0, 0, NULL,
     "largest global norm of the gradient; 0: no clipping"},
    {"loss_scale.initial", REAL, AT(loss_scale.initial), "65536", 1, 1e12, 0, 0, NULL,
     "fp16: first loss scale"},
    {"loss_scale.growth", REAL, AT(loss_scale.growth), "2", 1, 16, 0, 0, NULL,
     "factor after loss_scale.interval finite steps"},
    {"loss_scale.backoff", REAL, AT(loss_scale.backoff), "0.5", 0.0625, 1, 0, 0, NULL,
     "factor after a step that is not finite"},
    {"loss_scale.max", REAL, AT(loss_scale.max), "16777216", 1, 1e12, 0, 0, NULL,
     "largest loss scale"},
    {"loss_scale.interval", INTEGER, AT(loss_scale.interval), "1000", 1, 1e9, 0, 0, NULL,
     "finite steps between growths"},
    {"eval.every", INTEGER, AT(eval.every), "250", 0, MANY, 0, 0, NULL,
     "steps between validations; 0: only at the end"},
    {"eval.batches", INTEGER, AT(eval.batches), "20", 0, 1e6, 0, 0, NULL,
     "global batches of a validation, the same every time; 0: no validation"},
    {"checkpoint.every", INTEGER, AT(checkpoint.every), "1000", 0, MANY, 0, 0, NULL,
     "steps between checkpoints; 0: only at the end"},
    {"checkpoint.initial", BOOLEAN, AT(checkpoint.initial), "false", 0, 0, 0, 0, NULL,
     "also write the initial values, and keep them"},
    {"checkpoint.keep", INTEGER, AT(checkpoint.keep), "3", 0, MANY, 0, 0, NULL,
     "newest checkpoints that stay, and the newest that a finite step came after; 0: all"},
    {"checkpoint.keep_every", INTEGER, AT(checkpoint.keep_every), "0", 0, MANY, 0, 0, NULL,
     "checkpoints of steps that are a multiple of this stay too; 0: none"},
    {"trace.from", INTEGER, AT(trace.from), "0", 0, MANY, 0, 0, NULL,
     "first step whose nodes are timed, into trace.h5 of the run directory; 0: none"},
    {"trace.to", INTEGER, AT(trace.to), "0", 0, MANY, 0, 0, NULL,
     "last such step; 0: trace.from; both at once: 'steps: [100, 105]' below 'trace:', or "
     "--set trace.steps=100,105"},
    {"log.every", INTEGER, AT(log.every), "50", 1, MANY, 0, 0, NULL,
     "steps between progress lines when the output is not a terminal"},
    {"log.run_log", BOOLEAN, AT(log.run_log), "true", 0, 0, 0, 0, NULL,
     "keep run.jsonl in the run directory: what 'lockstep watch' and 'lockstep report' read"},
    {"log.tensorboard", BOOLEAN, AT(log.tensorboard), "false", 0, 0, 0, 0, NULL,
     "write event files for TensorBoard to tensorboard/ in the run directory"},
    {"log.prometheus", TEXT, AT(log.prometheus), "false", 0, 0, 0, 0, NULL,
     "write metrics for Prometheus' node_exporter every 5 s: true: to metrics.prom in the run "
     "directory; a path, from the working directory, its folder must exist: there, as NAME.prom in "
     "node_exporter's textfile directory; false: nowhere"},
    {"log.steps", INTEGER, AT(log.steps), "1", 1, MANY, 0, 0, NULL,
     "steps between records of a step in the run log and for TensorBoard"},
    {"log.outlier", REAL, AT(log.outlier), "12", 0, 1e6, 0, 0, NULL,
     "warn of a loss, or after the warmup a gradient norm, this many standard deviations above the "
     "last ones, of which there must be 32; 0: never"},
    {"log.outlier_window", INTEGER, AT(log.outlier_window), "100", 8, 100000, 0, 0, NULL,
     "steps that log.outlier compares with"},
};
enum { KEYS = sizeof keys / sizeof *keys };

#endif
