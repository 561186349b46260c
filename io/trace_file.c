/* Traces as HDF5: columns, each rank writing its rows. */
#include "io/trace_file.h"
#include "base/replace.h"
#include "base/utf8.h"
#include "io/hdf5.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { HOST = 64, MOST_RANKS = 1 << 16, MOST_STEPS = 1 << 20, MOST_LEAVES = 1 << 20 };
#define MOST_NUMBER ((uint64_t)1 << 62) /* of what is counted */

/* A column: a member of every element of an array of structs. */
typedef struct column {
    const char *path;
    lk_h5_type type;
    size_t offset;
} column;

static const column node_columns[] = {
    {"node/section", LK_H5_I32, offsetof(lk_trace_node, section)},
    {"node/flops", LK_H5_F64, offsetof(lk_trace_node, flops)},
    {"node/bytes", LK_H5_F64, offsetof(lk_trace_node, bytes)},
    {"node/live", LK_H5_F64, offsetof(lk_trace_node, live)},
    {"node/scratch", LK_H5_F64, offsetof(lk_trace_node, scratch)},
};
static const column step_columns[] = {
    {"step/begin", LK_H5_F64, offsetof(lk_trace_step, begin)},
    {"step/seconds", LK_H5_F64, offsetof(lk_trace_step, seconds)},
};
static const column span_columns[] = {
    {"span/rank", LK_H5_I32, offsetof(lk_trace_span, rank)},
    {"span/step", LK_H5_I32, offsetof(lk_trace_span, step)},
    {"span/node", LK_H5_I32, offsetof(lk_trace_span, node)},
    {"span/leaf", LK_H5_I32, offsetof(lk_trace_span, leaf)},
    {"span/lane", LK_H5_I32, offsetof(lk_trace_span, lane)},
    {"span/begin", LK_H5_F64, offsetof(lk_trace_span, begin)},
    {"span/seconds", LK_H5_F64, offsetof(lk_trace_span, seconds)},
};
#define COUNT(array) (sizeof(array) / sizeof *(array))
_Static_assert(sizeof(lk_section) == 4, "a section is written as i32");

static size_t size_of(lk_h5_type t) { return t == LK_H5_F64 ? sizeof(double) : sizeof(int32_t); }

/* ---- writing --------------------------------------------------------------------------------- */

typedef struct saving {
    MPI_Comm comm;
    int rank, ranks;
    const char *path, *host;
    char *part;
    const lk_trace *mine;
    hid_t file;
    /* gathered: the same on all ranks, which all write the attributes */
    char *device, *version, *names, **hosts; /* names: [ranks, HOST]; hosts: [ranks] in it */
    double ceiling[2];
    int64_t spans, lost; /* of all */
    int64_t before;      /* spans of the ranks before this one */
} saving;

/* Rows of a dataset that this rank writes: [first, first + count) of `all`, `each` elements long
 * (0: the dataset has one dimension). */
typedef struct rows {
    hsize_t all, first, count, each;
} rows;

static lk_status create_column(const saving *s, const column *c, const rows *r, hid_t *dataset)
{
    hsize_t dim[2] = {r->all, r->each};
    return lk_h5_dataset_create(s->file, s->part, c->path, c->type, r->each ? 2 : 1, dim, 0,
                                dataset);
}

static lk_status write_rows(const saving *s, const column *c, hid_t dataset, const rows *r,
                            const void *data)
{
    LK_H5_AUTO hid_t file_space = -1, memory_space = -1, transfer = -1;
    hsize_t start[2] = {r->first, 0}, size[2] = {r->count, r->each}, one = 1;
    LK_H5(LK_E_SYSTEM, transfer = H5Pcreate(H5P_DATASET_XFER), "%s: transfer list", s->part);
    LK_H5(LK_E_SYSTEM, H5Pset_dxpl_mpio(transfer, H5FD_MPIO_COLLECTIVE), "%s: transfer list",
          s->part);
    LK_H5(LK_E_SYSTEM, file_space = H5Dget_space(dataset), "%s: '%s'", s->part, c->path);
    bool none = r->count == 0;
    LK_H5(LK_E_SYSTEM,
          memory_space = H5Screate_simple(none || !r->each ? 1 : 2, none ? &one : size, NULL),
          "%s: '%s'", s->part, c->path);
    if (none && (H5Sselect_none(file_space) < 0 || H5Sselect_none(memory_space) < 0))
        return lk_h5_fail(LK_E_INTERNAL, "%s: '%s'", s->part, c->path);
    if (!none)
        LK_H5(LK_E_INTERNAL,
              H5Sselect_hyperslab(file_space, H5S_SELECT_SET, start, NULL, size, NULL), "%s: '%s'",
              s->part, c->path);
    LK_H5(LK_E_SYSTEM,
          H5Dwrite(dataset, lk_h5_type_id(c->type), memory_space, file_space, transfer, data),
          "%s: cannot write '%s'; check the disk's free space and quota", s->part, c->path);
    return LK_OK;
}

/* Collective. `from`: the first of this rank's structs, `stride` bytes apart. */
static lk_status write_column(const saving *s, const column *c, const rows *r, const void *from,
                              size_t stride)
{
    LK_H5_AUTO hid_t dataset = -1;
    size_t each = r->each ? r->each : 1, n = r->count * each, size = size_of(c->type);
    char *packed = malloc(n * size + 1);
    for (size_t i = 0; i < n && packed; i++)
        memcpy(packed + i * size, (const char *)from + i * stride + c->offset, size);
    lk_status status = lk_h5_agree(s->comm, packed ? create_column(s, c, r, &dataset)
                                                   : lk_fail(LK_E_SYSTEM, "out of memory"));
    if (status == LK_OK) status = lk_h5_agree(s->comm, write_rows(s, c, dataset, r, packed));
    free(packed);
    return status;
}

/* What rank 0 has is for all. */
static lk_status broadcast(const saving *s, void *bytes, int size)
{
    return MPI_Bcast(bytes, size, MPI_BYTE, 0, s->comm) == MPI_SUCCESS
               ? LK_OK : lk_fail(LK_E_COMM, "MPI_Bcast failed");
}

/* Texts, and numbers that ranks measure for themselves, are those of rank 0; what the others had
 * is not looked at. */
static lk_status gather(saving *s)
{
    const lk_trace *t = s->mine;
    int64_t mine[2] = {t->spans, t->lost}, all[2];
    int device = s->rank == 0 ? (int)strlen(t->device) + 1 : 0;
    int version = s->rank == 0 ? (int)strlen(t->version) + 1 : 0;
    LK_TRY(broadcast(s, &device, sizeof device));
    LK_TRY(broadcast(s, &version, sizeof version));
    s->device = calloc(1, (size_t)device);
    s->version = calloc(1, (size_t)version);
    s->names = calloc((size_t)s->ranks, HOST);
    s->hosts = calloc((size_t)s->ranks, sizeof *s->hosts);
    bool room = s->device && s->version && s->names && s->hosts;
    LK_TRY(lk_h5_agree(s->comm, room ? LK_OK : lk_fail(LK_E_SYSTEM, "out of memory")));
    if (s->rank == 0) {
        memcpy(s->device, t->device, (size_t)device);
        memcpy(s->version, t->version, (size_t)version);
    }
    s->ceiling[0] = t->ceiling.rate;
    s->ceiling[1] = t->ceiling.bandwidth;
    LK_TRY(broadcast(s, s->device, device));
    LK_TRY(broadcast(s, s->version, version));
    LK_TRY(broadcast(s, s->ceiling, sizeof s->ceiling));
    for (int i = 0; i < s->ranks; i++) s->hosts[i] = s->names + (size_t)i * HOST;
    snprintf(s->hosts[s->rank], HOST, "%s", s->host);
    if (MPI_Allgather(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, s->names, HOST, MPI_CHAR, s->comm) !=
            MPI_SUCCESS ||
        MPI_Allreduce(mine, all, 2, MPI_INT64_T, MPI_SUM, s->comm) != MPI_SUCCESS ||
        MPI_Scan(&mine[0], &s->before, 1, MPI_INT64_T, MPI_SUM, s->comm) != MPI_SUCCESS)
        return lk_fail(LK_E_COMM, "MPI_Allgather, MPI_Allreduce or MPI_Scan failed");
    s->before -= mine[0]; /* MPI_Scan counts this rank's too */
    s->spans = all[0];
    s->lost = all[1];
    return LK_OK;
}

static lk_status write_names(const saving *s)
{
    const lk_trace *t = s->mine;
    int most = t->nodes > t->memories ? t->nodes : t->memories;
    char **name = calloc((size_t)most + 1, sizeof *name);
    double *bytes = calloc((size_t)t->memories + 1, sizeof *bytes);
    lk_status status = name && bytes ? LK_OK : lk_fail(LK_E_SYSTEM, "out of memory");
    for (int i = 0; i < t->nodes && status == LK_OK; i++) name[i] = t->node[i].scope;
    if (status == LK_OK) status = lk_h5_set_texts(s->file, s->part, "node_scope", name, t->nodes);
    for (int i = 0; i < t->nodes && status == LK_OK; i++) name[i] = t->node[i].op;
    if (status == LK_OK) status = lk_h5_set_texts(s->file, s->part, "node_op", name, t->nodes);
    for (int i = 0; i < t->memories && status == LK_OK; i++) {
        name[i] = t->memory[i].name;
        bytes[i] = t->memory[i].bytes;
    }
    if (status == LK_OK)
        status = lk_h5_set_texts(s->file, s->part, "memory_name", name, t->memories);
    if (status == LK_OK)
        status = lk_h5_set_f64s(s->file, s->part, "memory_bytes", bytes, t->memories);
    free(name);
    free(bytes);
    return status;
}

static lk_status write_attributes(const saving *s)
{
    const lk_trace *t = s->mine;
    LK_TRY(lk_h5_set_text(s->file, s->part, "device", s->device));
    LK_TRY(lk_h5_set_text(s->file, s->part, "code_version", s->version));
    LK_TRY(lk_h5_set_texts(s->file, s->part, "hosts", s->hosts, s->ranks));
    LK_TRY(lk_h5_set_u64(s->file, s->part, "leaves", (uint64_t)t->leaves));
    LK_TRY(lk_h5_set_u64(s->file, s->part, "first_step", (uint64_t)t->first_step));
    LK_TRY(lk_h5_set_u64(s->file, s->part, "lost", (uint64_t)s->lost));
    LK_TRY(lk_h5_set_f64s(s->file, s->part, "ceiling", s->ceiling, 2));
    return write_names(s);
}

static lk_status write_all(saving *s)
{
    const lk_trace *t = s->mine;
    LK_TRY(gather(s));
    LK_TRY(lk_h5_agree(s->comm, lk_h5_create(s->part, s->comm, LK_SCHEMA_TRACE, &s->file)));
    LK_TRY(lk_h5_agree(s->comm, write_attributes(s)));
    rows nodes = {(hsize_t)t->nodes, 0, s->rank == 0 ? (hsize_t)t->nodes : 0, 0};
    rows steps = {(hsize_t)s->ranks, (hsize_t)s->rank, 1, (hsize_t)t->steps};
    rows spans = {(hsize_t)s->spans, (hsize_t)s->before, (hsize_t)t->spans, 0};
    for (size_t i = 0; i < COUNT(node_columns); i++)
        LK_TRY(write_column(s, &node_columns[i], &nodes, t->node, sizeof *t->node));
    for (size_t i = 0; i < COUNT(step_columns); i++)
        LK_TRY(write_column(s, &step_columns[i], &steps, t->step, sizeof *t->step));
    for (size_t i = 0; i < COUNT(span_columns); i++)
        LK_TRY(write_column(s, &span_columns[i], &spans, t->span, sizeof *t->span));
    LK_TRY(lk_h5_agree(s->comm, lk_h5_close(s->part, &s->file)));
    return lk_h5_agree(s->comm, s->rank == 0 ? lk_replace_publish(s->part, s->path) : LK_OK);
}

static lk_status save_job(void *argument)
{
    saving *s = argument;
    lk_status status = write_all(s);
    if (status != LK_OK) {
        lk_h5_abandon(s->part, s->comm, &s->file);
        if (s->rank == 0) unlink(s->part);
    }
    free(s->device);
    free(s->version);
    free(s->names);
    free(s->hosts);
    return status;
}

lk_status lk_trace_save(lk_io *io, MPI_Comm world, const char *path, const char *host,
                        const lk_trace *mine)
{
    saving s = {.path = path, .host = host, .mine = mine, .file = -1};
    LK_TRY(lk_h5_comm(world, &s.comm));
    MPI_Comm_rank(s.comm, &s.rank);
    MPI_Comm_size(s.comm, &s.ranks);
    lk_status status = lk_h5_agree(s.comm, lk_replace_part(path, &s.part));
    if (status == LK_OK) status = lk_io_call(io, save_job, &s);
    free(s.part);
    MPI_Comm_free(&s.comm);
    return status;
}

/* ---- reading --------------------------------------------------------------------------------- */

typedef struct loading {
    const char *path;
    lk_trace t;
    hid_t file;
} loading;

static lk_status damaged(const loading *l, const char *what)
{
    return lk_fail(LK_E_INPUT, "%s: %s; the file is damaged, trace the run again", l->path, what);
}

static lk_status read_column(const loading *l, const column *c, int dims, int64_t count, void *to,
                             size_t stride)
{
    lk_h5_dataset d = {.id = -1};
    LK_TRY(lk_h5_dataset_open(l->file, l->path, c->path, 0, &d));
    size_t size = size_of(c->type);
    lk_status status = lk_h5_dataset_expect(&d, l->path, c->path, c->type, dims);
    if (status == LK_OK && d.bytes != (size_t)count * size)
        status = lk_fail(LK_E_INPUT,
                         "%s: '%s': expected %lld elements, found %zu; the file is "
                         "damaged, trace the run again",
                         l->path, c->path, (long long)count, d.bytes / size);
    char *packed = status == LK_OK ? malloc(d.bytes + 1) : NULL;
    if (status == LK_OK && !packed) status = lk_fail(LK_E_SYSTEM, "out of memory for a trace");
    if (status == LK_OK) status = lk_h5_dataset_rows(&d, l->path, c->path, 0, d.dim[0], packed);
    for (int64_t i = 0; i < count && status == LK_OK; i++)
        memcpy((char *)to + (size_t)i * stride + c->offset, packed + (size_t)i * size, size);
    free(packed);
    lk_h5_release(&d.id);
    return status;
}

static lk_status read_sizes(loading *l)
{
    lk_h5_dataset d = {.id = -1};
    LK_TRY(lk_h5_dataset_open(l->file, l->path, "step/seconds", 0, &d));
    lk_h5_release(&d.id);
    LK_TRY(lk_h5_dataset_expect(&d, l->path, "step/seconds", LK_H5_F64, 2));
    if (d.dim[0] < 1 || d.dim[0] > MOST_RANKS || d.dim[1] < 1 || d.dim[1] > MOST_STEPS)
        return damaged(l, "the number of ranks or steps makes no sense");
    l->t.ranks = (int)d.dim[0];
    l->t.steps = (int)d.dim[1];
    LK_TRY(lk_h5_dataset_open(l->file, l->path, "span/seconds", 0, &d));
    lk_h5_release(&d.id);
    LK_TRY(lk_h5_dataset_expect(&d, l->path, "span/seconds", LK_H5_F64, 1));
    l->t.spans = (int64_t)d.dim[0];
    return LK_OK;
}

static lk_status read_names(loading *l)
{
    lk_trace *t = &l->t;
    char **scope = NULL, **op = NULL, **memory = NULL, **host = NULL;
    double *bytes = NULL;
    int64_t scopes = 0, ops = 0, memories = 0, hosts = 0;
    lk_status status = lk_h5_get_texts(l->file, l->path, "node_scope", &scope, &scopes);
    if (status == LK_OK) status = lk_h5_get_texts(l->file, l->path, "node_op", &op, &ops);
    if (status == LK_OK)
        status = lk_h5_get_texts(l->file, l->path, "memory_name", &memory, &memories);
    if (status == LK_OK) status = lk_h5_get_texts(l->file, l->path, "hosts", &host, &hosts);
    if (status == LK_OK && (scopes != ops || scopes < 1 || hosts != t->ranks))
        status = damaged(l, "its lists of nodes, ops and hosts do not fit");
    if (status == LK_OK) {
        t->node = calloc((size_t)scopes, sizeof *t->node);
        t->memory = calloc((size_t)memories, sizeof *t->memory);
        bytes = calloc((size_t)memories, sizeof *bytes);
        if (!t->node || !t->memory || !bytes)
            status = lk_fail(LK_E_SYSTEM, "out of memory for a trace");
    }
    if (status == LK_OK) status = lk_h5_get_f64s(l->file, l->path, "memory_bytes", bytes, memories);
    if (status == LK_OK) { /* take the texts over */
        t->nodes = (int)scopes;
        t->memories = (int)memories;
        for (int i = 0; i < t->nodes; i++) {
            t->node[i].scope = scope[i];
            t->node[i].op = op[i];
            scope[i] = op[i] = NULL;
        }
        for (int i = 0; i < t->memories; i++) {
            t->memory[i] = (lk_trace_memory){memory[i], bytes[i]};
            memory[i] = NULL;
        }
        t->host = host;
        host = NULL;
    }
    lk_h5_free_texts(scope, scopes);
    lk_h5_free_texts(op, ops);
    lk_h5_free_texts(memory, memories);
    lk_h5_free_texts(host, hosts);
    free(bytes);
    return status;
}

static lk_status read_numbers(loading *l)
{
    lk_trace *t = &l->t;
    uint64_t leaves = 0, first = 0, lost = 0;
    LK_TRY(lk_h5_get_text(l->file, l->path, "device", &t->device));
    LK_TRY(lk_h5_get_text(l->file, l->path, "code_version", &t->version));
    LK_TRY(lk_h5_get_u64(l->file, l->path, "leaves", &leaves));
    LK_TRY(lk_h5_get_u64(l->file, l->path, "first_step", &first));
    LK_TRY(lk_h5_get_u64(l->file, l->path, "lost", &lost));
    double ceiling[2];
    LK_TRY(lk_h5_get_f64s(l->file, l->path, "ceiling", ceiling, 2));
    t->ceiling = (lk_roofline){.rate = ceiling[0], .bandwidth = ceiling[1]};
    if (leaves < 1 || leaves > MOST_LEAVES || first > MOST_NUMBER || lost > MOST_NUMBER)
        return damaged(l, "the number of leaves, the first step or what was lost makes no sense");
    t->leaves = (int)leaves;
    t->first_step = (int64_t)first;
    t->lost = (int64_t)lost;
    return LK_OK;
}

static bool amount(double x) { return isfinite(x) && x >= 0; }

/* What is only shown: numbers and names that every format can hold. */
static lk_status check_nodes(const loading *l)
{
    const lk_trace *t = &l->t;
    for (int i = 0; i < t->nodes; i++) {
        const lk_trace_node *n = &t->node[i];
        if (!amount(n->flops) || !amount(n->bytes) || !amount(n->live) || !amount(n->scratch))
            return damaged(l, "the cost of a node makes no sense");
        if (!lk_utf8_valid(n->scope) || !lk_utf8_valid(n->op))
            return damaged(l, "the name of a node is not UTF-8");
    }
    for (int i = 0; i < t->ranks; i++)
        if (!lk_utf8_valid(t->host[i])) return damaged(l, "the name of a host is not UTF-8");
    for (int i = 0; i < t->memories; i++)
        if (!amount(t->memory[i].bytes)) return damaged(l, "a kind of memory makes no sense");
    if (!amount(t->ceiling.rate) || !amount(t->ceiling.bandwidth))
        return damaged(l, "the ceilings make no sense");
    return LK_OK;
}

/* Nothing that is used as an index or added up may lead astray. */
static lk_status check_values(const loading *l)
{
    const lk_trace *t = &l->t;
    for (int64_t i = 0; i < t->spans; i++) {
        const lk_trace_span *s = &t->span[i];
        if (s->rank < 0 || s->rank >= t->ranks || s->step < 0 || s->step >= t->steps ||
            s->node < 0 || s->node >= t->nodes || s->lane < 0 || s->lane > 4096 ||
            !(s->seconds >= 0 && s->seconds < 1e9) || !(s->begin > -1e9 && s->begin < 1e9))
            return lk_fail(LK_E_INPUT,
                           "%s: span %lld makes no sense; the file is damaged, trace "
                           "the run again",
                           l->path, (long long)i);
    }
    for (int64_t i = 0; i < (int64_t)t->ranks * t->steps; i++)
        if (!(t->step[i].seconds >= 0 && t->step[i].seconds < 1e9) ||
            !(t->step[i].begin > -1e9 && t->step[i].begin < 1e9))
            return damaged(l, "the time of a step makes no sense");
    return check_nodes(l);
}

static lk_status read_all(loading *l)
{
    lk_trace *t = &l->t;
    LK_TRY(lk_h5_open(l->path, LK_SCHEMA_TRACE, &l->file));
    LK_TRY(read_sizes(l));
    LK_TRY(read_names(l));
    LK_TRY(read_numbers(l));
    int64_t steps = (int64_t)t->ranks * t->steps;
    t->step = calloc((size_t)steps, sizeof *t->step);
    t->span = calloc((size_t)t->spans + 1, sizeof *t->span);
    if (!t->step || !t->span) return lk_fail(LK_E_SYSTEM, "out of memory for a trace");
    for (size_t i = 0; i < COUNT(node_columns); i++)
        LK_TRY(read_column(l, &node_columns[i], 1, t->nodes, t->node, sizeof *t->node));
    for (size_t i = 0; i < COUNT(step_columns); i++)
        LK_TRY(read_column(l, &step_columns[i], 2, steps, t->step, sizeof *t->step));
    for (size_t i = 0; i < COUNT(span_columns); i++)
        LK_TRY(read_column(l, &span_columns[i], 1, t->spans, t->span, sizeof *t->span));
    return check_values(l);
}

static lk_status load_job(void *argument)
{
    loading *l = argument;
    lk_status status = read_all(l);
    if (l->file >= 0) H5Fclose(l->file); /* read only: nothing to lose */
    return status;
}

lk_status lk_trace_load(lk_io *io, const char *path, lk_trace *trace)
{
    loading l = {.path = path, .file = -1};
    lk_status status = lk_io_call(io, load_job, &l);
    if (status != LK_OK) lk_trace_clear(&l.t);
    else *trace = l.t;
    return status;
}
