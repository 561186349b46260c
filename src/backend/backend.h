/* lk_backend: what a program needs of a machine to run nodes. Implementations: cpu, cuda, null.
 *
 * Device work is enqueued on one stream of the device and runs in order, but for what is put on its
 * branch; host functions that read results call sync() first. The CPU backend runs everything at
 * the call. */
#ifndef LK_BACKEND_BACKEND_H
#define LK_BACKEND_BACKEND_H

#include "graph/graph.h"

typedef struct lk_device lk_device; /* defined by each backend, beginning with its lk_backend * */
typedef struct lk_comm lk_comm;     /* src/comm/comm.h */
typedef struct lk_backend lk_backend;
typedef struct lk_block lk_block;   /* memory.c */

/* What a kernel sees besides its node. */
typedef struct lk_exec {
    lk_device *device;
    lk_comm *comm;
    uint64_t seed;
    int leaf;       /* global number of the leaf being computed */
    int local_leaf; /* its number among this rank's leaves */
    char *base[LK_REGIONS];
    char **input;        /* device address of each INPUT tensor, by tensor id */
} lk_exec;

typedef lk_status (*lk_kernel)(lk_exec *x, const lk_node *n);

/* Address of a tensor's bytes on the device (NULL tensor: NULL). */
static inline void *lk_data(const lk_exec *x, const lk_tensor *t)
{
    if (!t) return NULL;
    while (t->base) t = t->base;
    if (t->region == LK_REGION_INPUT) return x->input[t->id];
    return x->base[t->region] + t->offset;
}

/* What a float tensor holds. */
typedef struct lk_range {
    int64_t bad;     /* the first element that is not finite; -1: all are */
    int64_t bads;    /* how many are not */
    float low, high; /* of the finite ones; low > high: there are none */
} lk_range;

/* Work of a step as the device did it: a kernel or a copy; on the CPU a whole node. */
typedef struct lk_device_span {
    int mark;              /* as given to mark() */
    int run;               /* of the program, from 0, since open() */
    int lane;              /* what overlaps in time lies on different ones, from 0 */
    double begin, seconds; /* since open() */
} lk_device_span;

/* What a tracer hands over. */
typedef struct lk_device_record {
    lk_device_span *span; /* by lane, then begin; malloc'ed */
    int64_t spans;
    int64_t lost;         /* pieces of the program's work that belong to no mark */
    double *seconds;      /* of each run, from before its first to after its last work; malloc'ed */
    double *begin;        /* of each run; malloc'ed */
    int runs;
} lk_device_record;

/* Times of nodes, taken on the device. What is captured while a tracer is open is traced when it is
 * replayed, so a program is captured anew after open(), and once more after close(). */
typedef struct lk_device_tracer {
    /* Collect, for at most `runs` runs of one program. */
    lk_status (*open)(lk_device *d, int runs);
    /* What is enqueued or captured from here on belongs to `mark` >= 0, or -1: to nothing. */
    lk_status (*mark)(lk_device *d, int mark);
    lk_status (*run_begin)(lk_device *d);
    lk_status (*run_end)(lk_device *d);
    /* Wait for the device and hand over everything since open(). */
    lk_status (*read)(lk_device *d, lk_device_record *record);
    void (*close)(lk_device *d); /* also of one that is not open */
} lk_device_tracer;

/* How the matrix products run, one for each shape, as it was chosen since open(). */
typedef struct lk_tuning {
    int tuned;      /* by running those that the library proposes */
    int first;      /* of these, kept the one that it proposes first */
    int cut;        /* of these, were not tried with all, for want of time or memory */
    int reused;     /* algorithms, by choices_set() */
    int own;        /* by kernels of ours, chosen or by choices_set() */
    double seconds; /* that tuning took */
} lk_tuning;

struct lk_backend {
    const char *name;

    /* Open device number `index`; CPU: the number of ranks on this host, which divide its cores
     * among them. The caller closes it. */
    lk_status (*open)(int index, lk_device **device);
    void (*close)(lk_device *d); /* takes NULL */
    /* One line for logs: "NVIDIA H200, 140 GiB" or "AMD EPYC, 2 threads a rank, ...". */
    void (*describe)(lk_device *d, char *text, size_t size);

    lk_status (*alloc)(lk_device *d, size_t bytes, void **memory); /* zeroed, 256-byte aligned */
    void (*release)(lk_device *d, void *memory);
    lk_status (*host_alloc)(lk_device *d, size_t bytes, void **memory); /* pinned where it helps */
    void (*host_release)(lk_device *d, void *memory);
    /* Enqueued; the host memory must stay untouched until sync() unless it is pageable. */
    lk_status (*upload)(lk_device *d, void *device, const void *host, size_t bytes);
    lk_status (*download)(lk_device *d, void *host, const void *device, size_t bytes);
    lk_status (*sync)(lk_device *d);

    /* dst += src over n floats, enqueued. The addition of the reduction tree. */
    lk_status (*add)(lk_device *d, float *dst, const float *src, int64_t n);

    /* Event: mark a point of the stream, then wait for it on the host. `slot` 0..7. */
    lk_status (*record)(lk_device *d, int slot);
    lk_status (*wait)(lk_device *d, int slot);

    /* A second stream, for work beside the main one: what is enqueued between begin and end waits
     * for all that was enqueued on the main stream before, join makes the main stream wait for the
     * branch. Nothing on the branch may use the scratch region. NULL functions: there is none. */
    lk_status (*branch_begin)(lk_device *d);
    lk_status (*branch_end)(lk_device *d);
    lk_status (*branch_join)(lk_device *d);

    /* Workspace bytes a node needs (may also prepare: choose a library algorithm). */
    lk_status (*prepare)(lk_device *d, const lk_node *n, size_t *scratch);
    lk_kernel kernel[LK_OPS]; /* NULL: this backend cannot run the op */

    /* Capture of a replayable sequence; NULL functions: the backend always runs directly. */
    lk_status (*capture_begin)(lk_device *d);
    lk_status (*capture_end)(lk_device *d, void **replayable);
    lk_status (*replay)(lk_device *d, void *replayable);
    void (*replayable_destroy)(lk_device *d, void *replayable);

    /* Library algorithm choices made so far, as text lines; a caller frees *text. set() before
     * prepare() makes them binding: the same choices give the same bits. A line "library" TAB NAME
     * is told of, not binding. */
    lk_status (*choices_get)(lk_device *d, char **text);
    lk_status (*choices_set)(lk_device *d, const char *text);
    /* What prepare() did to choose. NULL: there is nothing to choose. */
    void (*tuning)(lk_device *d, lk_tuning *tuning);

    /* What `count` elements of a float type on the device hold; synchronises. For the search for
     * what is not finite. NULL: there is none. */
    lk_status (*measure)(lk_device *d, lk_dtype type, const void *data, int64_t count,
                         lk_range *range);
    const lk_device_tracer *tracer; /* NULL: times of nodes cannot be had */
    /* A named range for a profiler that looks on, around what the host enqueues; NULL ends it. */
    void (*annotate)(lk_device *d, const char *name);
};

/* Every device struct begins with this. */
struct lk_device {
    const lk_backend *backend;
    lk_dtype compute;  /* working type of products: set by the program before prepare() */
    int tf32;          /* f32 products may use TF32 */
    size_t allocated;  /* bytes by alloc() that are not released; host_alloc() does not count */
    size_t kept;       /* of these, the backend's own until close(): a library's workspace, tables
                        * that prepare() made */
    size_t peak;       /* the most that it was, with what the backend took for a while */
    lk_block *block;   /* memory.c: what `allocated` consists of */
    int blocks, room;
};

/* ---- memory.c: the accounts of a device, for backends ---------------------------------------- */

/* alloc() has made `memory`, release() gives it back (NULL: nothing). */
lk_status lk_device_took(lk_device *d, const void *memory, size_t bytes);
void lk_device_gave(lk_device *d, const void *memory);
/* So many bytes are in use for a while beside what is allocated. */
void lk_device_used(lk_device *d, size_t bytes);
/* Before close(). */
void lk_device_forget(lk_device *d);
/* alloc() and release() of a backend whose memory is the host's: by its host_alloc(), counted. */
lk_status lk_device_host_alloc(lk_device *d, size_t bytes, void **memory);
void lk_device_host_release(lk_device *d, void *memory);
/* Its host_release(); upload() and download(); sync(), record() and wait(), with nothing to wait
 * for. */
void lk_device_host_free(lk_device *d, void *memory);
lk_status lk_device_host_copy(lk_device *d, void *to, const void *from, size_t bytes);
lk_status lk_device_host_sync(lk_device *d);
lk_status lk_device_host_event(lk_device *d, int slot);

extern const lk_backend lk_backend_cpu, lk_backend_null;
#ifdef LK_HAVE_CUDA
extern const lk_backend lk_backend_cuda;
#endif

/* Declarations of the kernels of each backend. */
#define LK_OP(upper, lower, policy) lk_status lk_cpu_##lower(lk_exec *x, const lk_node *n);
#include "ops/ops.def"
#undef LK_OP
#ifdef LK_HAVE_CUDA
#define LK_OP(upper, lower, policy) lk_status lk_cuda_##lower(lk_exec *x, const lk_node *n);
#include "ops/ops.def"
#undef LK_OP
#endif

#endif
