/* The CPU backend: host memory, OpenMP threads, everything done when the call returns. */
#include "cpu/device.h"
#include "cpu/machine.h"

#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { ALIGN = 256, LARGE = 64 << 20 };

/* The `sharing` ranks of this host divide its cores among them, unless they are bound to fewer. */
static void divide_cores(int sharing)
{
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    if (sharing < 2 || cores < 1 || (long)omp_get_num_procs() * sharing <= cores) return;
    int mine = cores / sharing > 1 ? (int)(cores / sharing) : 1;
    if (mine < omp_get_max_threads()) omp_set_num_threads(mine);
}

static lk_status device_open(int index, lk_device **device)
{
    lk_cpu *c = calloc(1, sizeof *c);
    if (!c) return lk_fail(LK_E_SYSTEM, "out of memory");
    divide_cores(index);
    c->device.backend = &lk_backend_cpu;
    c->threads = omp_get_max_threads();
    c->room = lk_machine_available("") / (index > 1 ? index : 1);
    *device = &c->device;
    return LK_OK;
}

static void device_close(lk_device *d)
{
    if (d) {
        lk_cpu_tracer.close(d);
        lk_device_forget(d);
    }
    free(d);
}

static void describe(lk_device *d, char *text, size_t size)
{
    char model[128] = "CPU", line[256];
    FILE *f = fopen("/proc/cpuinfo", "r");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "model name : %127[^\n]", model) == 1) break;
    if (f) fclose(f);
    int threads = ((lk_cpu *)d)->threads;
    snprintf(text, size, "%s, %d thread%s a rank, %s", model, threads, threads == 1 ? "" : "s",
             lk_cpu_matmul_library());
}

static lk_status no_room(const lk_cpu *c, size_t bytes, double room)
{
    return lk_fail(LK_E_SYSTEM, "out of memory: a buffer of %.0f MiB beside %.0f MiB, %.0f MiB are "
                   "available to a rank here; make the model, the batch or the context smaller "
                   "('lockstep train RUN.yaml --plan' tells what takes how much), or take a larger "
                   "machine or fewer ranks", (double)bytes / 0x1p20,
                   (double)c->device.allocated / 0x1p20, room / 0x1p20);
}

/* The kernel gives out more than there is, and kills who then uses it. Ranks of this host may ask
 * at the same time, so what there was when they began counts too, in equal shares. */
static lk_status check_room(const lk_cpu *c, size_t bytes)
{
    double now = lk_machine_available(""), share = c->room;
    double room = share > 0 && share < now ? share : now;
    return now <= 0 || (double)bytes <= room ? LK_OK : no_room(c, bytes, room);
}

static lk_status host_alloc(lk_device *d, size_t bytes, void **memory)
{
    size_t whole = (bytes + ALIGN) / ALIGN * ALIGN;
    if (whole >= LARGE) LK_TRY(check_room((const lk_cpu *)d, whole));
    void *p = aligned_alloc(ALIGN, whole);
    if (!p) return no_room((const lk_cpu *)d, whole, fmax(lk_machine_available(""), 0));
    memset(p, 0, whole);
    *memory = p;
    return LK_OK;
}

static lk_status add(lk_device *d, float *dst, const float *src, int64_t n)
{
    (void)d;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i += 16 * LK_CPU_BLOCK) {
        int64_t end = n - i < 16 * LK_CPU_BLOCK ? n : i + 16 * LK_CPU_BLOCK;
        for (int64_t k = i; k < end; k++) dst[k] += src[k];
    }
    return LK_OK;
}

static size_t (*const scratch_of[LK_OPS])(const lk_node *) = {
    [LK_OP_ATTENTION] = lk_cpu_attention_scratch,
    [LK_OP_ATTENTION_GRAD] = lk_cpu_attention_grad_scratch,
    [LK_OP_BATCH_APPLY] = lk_cpu_batch_apply_scratch,
    [LK_OP_BATCH_MOMENTS] = lk_cpu_batch_moments_scratch,
    [LK_OP_BATCH_NORM] = lk_cpu_batch_norm_scratch,
    [LK_OP_BATCH_NORM_GRAD] = lk_cpu_batch_norm_grad_scratch,
    [LK_OP_CHANNEL_CONV] = lk_cpu_channel_conv_scratch,
    [LK_OP_CHANNEL_CONV_GRAD] = lk_cpu_channel_conv_grad_scratch,
    [LK_OP_CONV] = lk_cpu_conv_scratch,
    [LK_OP_CONV_DW] = lk_cpu_conv_dw_scratch,
    [LK_OP_CONV_DX] = lk_cpu_conv_dx_scratch,
    [LK_OP_DWCONV] = lk_cpu_dwconv_scratch,
    [LK_OP_DWCONV_GRAD] = lk_cpu_dwconv_grad_scratch,
    [LK_OP_EMBED] = lk_cpu_embed_scratch,
    [LK_OP_EXCITE] = lk_cpu_excite_scratch,
    [LK_OP_EXCITE_DW] = lk_cpu_excite_dw_scratch,
    [LK_OP_EXCITE_DX] = lk_cpu_excite_dx_scratch,
    [LK_OP_GATE_NORM_GRAD] = lk_cpu_gate_norm_grad_scratch,
    [LK_OP_GRAD_NORM] = lk_cpu_grad_norm_scratch,
    [LK_OP_IMAGES] = lk_cpu_images_scratch,
    [LK_OP_LINEAR] = lk_cpu_linear_scratch,
    [LK_OP_LINEAR_DW] = lk_cpu_linear_dw_scratch,
    [LK_OP_LINEAR_DX] = lk_cpu_linear_dx_scratch,
    [LK_OP_LINEAR_MOMENTS] = lk_cpu_linear_moments_scratch,
    [LK_OP_NORM] = lk_cpu_norm_scratch,
    [LK_OP_NORM_DWCONV] = lk_cpu_norm_dwconv_scratch,
    [LK_OP_NORM_DWCONV_GRAD] = lk_cpu_norm_dwconv_grad_scratch,
    [LK_OP_NORM_GATE] = lk_cpu_norm_gate_scratch,
    [LK_OP_NORM_GRAD] = lk_cpu_norm_grad_scratch,
    [LK_OP_RESIDUAL_NORM] = lk_cpu_norm_scratch,
    [LK_OP_RESIDUAL_NORM_GRAD] = lk_cpu_residual_norm_grad_scratch,
    [LK_OP_ROPE] = lk_cpu_rope_scratch,
    [LK_OP_SOFT_XENT] = lk_cpu_soft_xent_scratch,
    [LK_OP_SQUEEZE_EXCITE] = lk_cpu_squeeze_excite_scratch,
    [LK_OP_SQUEEZE_EXCITE_DX] = lk_cpu_squeeze_excite_dx_scratch,
    [LK_OP_XENT] = lk_cpu_xent_scratch,
    [LK_OP_XENT_FUSED] = lk_cpu_xent_scratch,
    [LK_OP_XENT_GRAD] = lk_cpu_xent_scratch,
};

static lk_status prepare(lk_device *d, const lk_node *n, size_t *scratch)
{
    (void)d;
    *scratch = scratch_of[n->op] ? scratch_of[n->op](n) : 0;
    return LK_OK;
}

/* Nothing is chosen on the CPU: the text only names the backend and its library. */
static lk_status choices_get(lk_device *d, char **text)
{
    (void)d;
    int n = asprintf(text, "backend\tcpu\nlibrary\t%s\n", lk_cpu_matmul_library());
    return n >= 0 ? LK_OK : lk_fail(LK_E_SYSTEM, "out of memory");
}

static lk_status choices_set(lk_device *d, const char *text)
{
    (void)d;
    if (strncmp(text, "backend\tcpu\n", 12) != 0)
        return lk_fail(LK_E_INPUT, "the run was made on another kind of device, and would not "
                       "continue with the same bits on the CPU; resume it where it was started, "
                       "or set train.reduce to fast to do without");
    return LK_OK;
}

const lk_backend lk_backend_cpu = {
    .name = "cpu",
    .open = device_open,
    .close = device_close,
    .describe = describe,
    .alloc = lk_device_host_alloc,
    .release = lk_device_host_release,
    .host_alloc = host_alloc,
    .host_release = lk_device_host_free,
    .upload = lk_device_host_copy,
    .download = lk_device_host_copy,
    .sync = lk_device_host_sync,
    .add = add,
    .record = lk_device_host_event,
    .wait = lk_device_host_event,
    .prepare = prepare,
    .kernel = {
#define LK_OP(upper, lower, policy) [LK_OP_##upper] = lk_cpu_##lower,
#include "ops/ops.def"
#undef LK_OP
    },
    .choices_get = choices_get,
    .choices_set = choices_set,
    .measure = lk_cpu_measure_range,
    .tracer = &lk_cpu_tracer,
};
