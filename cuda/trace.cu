/* Times of nodes on the GPU: CUPTI's activity records of the kernels and copies of a captured step.
 *
 * A record of a replay names the node of the executable graph that it comes from. So: while a step
 * is captured, the graph's nodes that are new at each mark belong to the mark before (mark_nodes);
 * when the graph is made executable, CUPTI tells of each clone of a node (on_clone), which inherits
 * its mark; a record is looked up by the clone's id. Where no clone was told of, the executable
 * graph's nodes are taken in the order of their ids, which is that of the captured ones, if they
 * are as many (pair_by_order). Records of one replay share a correlation id, in order of time: that
 * gives the run. CUPTI's callbacks have no context, hence one static trace, of one device, at a
 * time. */
#include "cuda/device.cuh"

#include <cupti.h>
#include <pthread.h>

enum { LANES = 16, BUFFER = 1 << 22 };

typedef struct id_mark {
    uint64_t id;
    int mark;
    int works; /* a kernel or copy, of which there will be records */
} id_mark;

typedef struct id_list {
    id_mark *item;
    int64_t count, room;
} id_list;

typedef struct record {
    uint64_t node, start, end; /* ns of CUPTI's clock */
    uint32_t correlation;
} record;

typedef struct lk_cuda_trace {
    lk_cuda *device;
    CUpti_SubscriberHandle subscriber;
    int runs, most_runs;
    uint64_t opened;
    cudaEvent_t *event; /* [2 most_runs]: before and after each run */
    int mark;           /* what is captured now */
    cudaGraphNode_t *seen, *list; /* nodes of the graph being captured; room for as many */
    size_t seen_count, list_room;
    id_list captured, cloned;
    int64_t sorted;     /* items of `captured` that are in order */
    record *record;
    int64_t records, room;
    int64_t dropped; /* records that CUPTI had no room for */
    int failed;      /* no memory for a record or a node */
} lk_cuda_trace;

static lk_cuda_trace *current;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of `record`: CUPTI has a thread */

static lk_status cupti(CUptiResult r, const char *what)
{
    const char *text = "unknown error";
    if (r == CUPTI_SUCCESS) return LK_OK;
    cuptiGetResultString(r, &text);
    if (r == CUPTI_ERROR_MULTIPLE_SUBSCRIBERS_NOT_SUPPORTED)
        return lk_fail(LK_E_DEVICE, "%s: another profiler is at work in this process; run without "
                       "it, or leave the trace to it", what);
    return lk_fail(LK_E_DEVICE, "%s: %s", what, text);
}
#define LK_CUPTI(call) LK_TRY(cupti(call, #call))

static lk_cuda_trace *trace_of(lk_device *d) { return ((lk_cuda *)d)->trace; }

/* ---- lists ----------------------------------------------------------------------------------- */

static int append_id(id_list *l, uint64_t id, int mark, int works)
{
    if (l->count == l->room) {
        int64_t room = l->room ? 2 * l->room : 4096;
        id_mark *grown = (id_mark *)realloc(l->item, (size_t)room * sizeof *grown);
        if (!grown) return 0;
        l->item = grown;
        l->room = room;
    }
    l->item[l->count++] = (id_mark){id, mark, works};
    return 1;
}

static int by_id(const void *a, const void *b)
{
    uint64_t x = ((const id_mark *)a)->id, y = ((const id_mark *)b)->id;
    return x < y ? -1 : x > y;
}

static int by_start(const void *a, const void *b)
{
    uint64_t x = ((const record *)a)->start, y = ((const record *)b)->start;
    return x < y ? -1 : x > y;
}

static int compare_numbers(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static const id_mark *find_id(const id_list *sorted, uint64_t id)
{
    id_mark key = {id, 0, 0};
    if (sorted->count == 0) return NULL;
    return (const id_mark *)bsearch(&key, sorted->item, (size_t)sorted->count, sizeof key, by_id);
}

static void sort_ids(id_list *l)
{
    if (l->count > 0) qsort(l->item, (size_t)l->count, sizeof *l->item, by_id);
}

static void sort_captured(lk_cuda_trace *t)
{
    if (t->sorted != t->captured.count) sort_ids(&t->captured);
    t->sorted = t->captured.count;
}

/* ---- what CUPTI calls ------------------------------------------------------------------------ */

/* A node of an executable graph is made of a captured one. On the thread that instantiates. */
static void CUPTIAPI on_clone(void *context, CUpti_CallbackDomain domain, CUpti_CallbackId id,
                              const void *data)
{
    lk_cuda_trace *t = (lk_cuda_trace *)context;
    if (domain != CUPTI_CB_DOMAIN_RESOURCE || id != CUPTI_CBID_RESOURCE_GRAPHNODE_CLONED) return;
    const CUpti_GraphData *g =
        (const CUpti_GraphData *)((const CUpti_ResourceData *)data)->resourceDescriptor;
    uint64_t original = 0, clone = 0;
    if (cuptiGetGraphNodeId(g->originalNode, &original) != CUPTI_SUCCESS ||
        cuptiGetGraphNodeId(g->node, &clone) != CUPTI_SUCCESS)
        return;
    sort_captured(t);
    const id_mark *from = find_id(&t->captured, original);
    if (from && !append_id(&t->cloned, clone, from->mark, from->works)) t->failed = 1;
}

static void CUPTIAPI give_buffer(uint8_t **buffer, size_t *size, size_t *most)
{
    *buffer = (uint8_t *)aligned_alloc(8, BUFFER);
    *size = *buffer ? (size_t)BUFFER : 0;
    *most = 0;
}

static void keep(lk_cuda_trace *t, uint64_t node, uint64_t start, uint64_t end,
                 uint32_t correlation)
{
    if (node == 0 || end < start) return; /* not of a graph: no part of a step */
    if (t->records == t->room) {
        int64_t room = t->room ? 2 * t->room : 65536;
        record *grown = (record *)realloc(t->record, (size_t)room * sizeof *grown);
        if (!grown) {
            t->failed = 1;
            return;
        }
        t->record = grown;
        t->room = room;
    }
    t->record[t->records++] = (record){node, start, end, correlation};
}

/* The structs have grown at their end from version to version; these fields are in all of them. */
static void keep_activity(lk_cuda_trace *t, const CUpti_Activity *a)
{
    if (a->kind == CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) {
        const CUpti_ActivityKernel9 *k = (const CUpti_ActivityKernel9 *)a;
        keep(t, k->graphNodeId, k->start, k->end, k->correlationId);
    } else if (a->kind == CUPTI_ACTIVITY_KIND_MEMCPY) {
        const CUpti_ActivityMemcpy5 *m = (const CUpti_ActivityMemcpy5 *)a;
        keep(t, m->graphNodeId, m->start, m->end, m->correlationId);
    } else if (a->kind == CUPTI_ACTIVITY_KIND_MEMSET) {
        const CUpti_ActivityMemset4 *m = (const CUpti_ActivityMemset4 *)a;
        keep(t, m->graphNodeId, m->start, m->end, m->correlationId);
    }
}

static void CUPTIAPI take_buffer(CUcontext context, uint32_t stream, uint8_t *buffer, size_t size,
                                 size_t valid)
{
    CUpti_Activity *a = NULL;
    (void)size;
    pthread_mutex_lock(&lock);
    while (current && valid > 0 &&
           cuptiActivityGetNextRecord(buffer, valid, &a) == CUPTI_SUCCESS)
        keep_activity(current, a);
    size_t dropped = 0;
    if (current && cuptiActivityGetNumDroppedRecords(context, stream, &dropped) == CUPTI_SUCCESS)
        current->dropped += (int64_t)dropped;
    pthread_mutex_unlock(&lock);
    free(buffer);
}

/* ---- opening and closing --------------------------------------------------------------------- */

static const CUpti_ActivityKind kinds[] = {CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL,
                                           CUPTI_ACTIVITY_KIND_MEMCPY, CUPTI_ACTIVITY_KIND_MEMSET};

static void trace_close(lk_device *d)
{
    lk_cuda_trace *t = trace_of(d);
    if (!t) return;
    for (int i = 0; i < 3; i++) cuptiActivityDisable(kinds[i]);
    cuptiActivityFlushAll(1);
    if (t->subscriber) cuptiUnsubscribe(t->subscriber);
    pthread_mutex_lock(&lock);
    current = NULL;
    pthread_mutex_unlock(&lock);
    for (int i = 0; t->event && i < 2 * t->most_runs; i++)
        if (t->event[i]) cudaEventDestroy(t->event[i]);
    free(t->event);
    free(t->seen);
    free(t->list);
    free(t->captured.item);
    free(t->cloned.item);
    free(t->record);
    free(t);
    ((lk_cuda *)d)->trace = NULL;
}

static lk_status start(lk_cuda_trace *t)
{
    for (int i = 0; i < 2 * t->most_runs; i++) LK_CUDA(cudaEventCreate(&t->event[i]));
    LK_CUPTI(cuptiSubscribe(&t->subscriber, (CUpti_CallbackFunc)on_clone, t));
    LK_CUPTI(cuptiEnableCallback(1, t->subscriber, CUPTI_CB_DOMAIN_RESOURCE,
                                 CUPTI_CBID_RESOURCE_GRAPHNODE_CLONED));
    LK_CUPTI(cuptiActivityRegisterCallbacks(give_buffer, take_buffer));
    for (int i = 0; i < 3; i++) LK_CUPTI(cuptiActivityEnable(kinds[i]));
    LK_CUPTI(cuptiGetTimestamp(&t->opened));
    return LK_OK;
}

static lk_status trace_open(lk_device *d, int runs)
{
    LK_CUDA(cudaSetDevice(((lk_cuda *)d)->index));
    trace_close(d);
    if (current) return lk_fail(LK_E_INTERNAL, "two devices of a process cannot be traced");
    lk_cuda_trace *t = (lk_cuda_trace *)calloc(1, sizeof *t);
    if (t) t->event = (cudaEvent_t *)calloc(2 * (size_t)runs, sizeof *t->event);
    if (!t || !t->event) {
        free(t);
        return lk_fail(LK_E_SYSTEM, "out of memory for a trace");
    }
    t->device = (lk_cuda *)d;
    t->most_runs = runs;
    t->mark = -1;
    ((lk_cuda *)d)->trace = current = t;
    lk_status status = start(t);
    if (status != LK_OK) trace_close(d);
    return status;
}

/* ---- capturing ------------------------------------------------------------------------------- */

/* The graph that the main stream is being captured into; NULL: none. */
static lk_status capturing(lk_cuda_trace *t, cudaGraph_t *graph)
{
    cudaStreamCaptureStatus status;
    unsigned long long id;
    *graph = NULL;
#if CUDART_VERSION >= 13000
    LK_CUDA(cudaStreamGetCaptureInfo(t->device->main, &status, &id, graph, NULL, NULL, NULL));
#else
    LK_CUDA(cudaStreamGetCaptureInfo_v2(t->device->main, &status, &id, graph, NULL, NULL));
#endif
    if (status != cudaStreamCaptureStatusActive) *graph = NULL;
    return LK_OK;
}

static int was_seen(const lk_cuda_trace *t, cudaGraphNode_t node)
{
    for (size_t i = t->seen_count; i-- > 0;)
        if (t->seen[i] == node) return 1;
    return 0;
}

/* Nodes are listed in the order in which they were made, as far as is known; where they are not,
 * each is looked for. */
static lk_status mark_new(lk_cuda_trace *t, size_t count)
{
    int kept = memcmp(t->list, t->seen, t->seen_count * sizeof *t->list) == 0;
    for (size_t i = kept ? t->seen_count : 0; i < count && t->mark >= 0; i++) {
        cudaGraphNodeType type;
        uint64_t id = 0;
        if (!kept && was_seen(t, t->list[i])) continue;
        LK_CUDA(cudaGraphNodeGetType(t->list[i], &type));
        LK_CUPTI(cuptiGetGraphNodeId((CUgraphNode)t->list[i], &id));
        int works = type == cudaGraphNodeTypeKernel || type == cudaGraphNodeTypeMemcpy ||
                    type == cudaGraphNodeTypeMemset;
        if (!append_id(&t->captured, id, t->mark, works))
            return lk_fail(LK_E_SYSTEM, "out of memory for a trace");
    }
    memcpy(t->seen, t->list, count * sizeof *t->list);
    t->seen_count = count;
    return LK_OK;
}

static lk_status mark_nodes(lk_cuda_trace *t)
{
    cudaGraph_t graph;
    size_t count = 0;
    LK_TRY(capturing(t, &graph));
    if (!graph) return LK_OK;
    LK_CUDA(cudaGraphGetNodes(graph, NULL, &count));
    if (count == t->seen_count) return LK_OK;
    if (count > t->list_room) {
        size_t room = 2 * count;
        cudaGraphNode_t *seen = (cudaGraphNode_t *)realloc(t->seen, room * sizeof *seen);
        if (seen) t->seen = seen;
        cudaGraphNode_t *list = (cudaGraphNode_t *)realloc(t->list, room * sizeof *list);
        if (list) t->list = list;
        if (!seen || !list) return lk_fail(LK_E_SYSTEM, "out of memory for a trace");
        t->list_room = room;
    }
    LK_CUDA(cudaGraphGetNodes(graph, t->list, &count));
    return mark_new(t, count);
}

static lk_status trace_mark(lk_device *d, int mark)
{
    lk_cuda_trace *t = trace_of(d);
    LK_TRY(mark_nodes(t));
    t->mark = mark;
    return LK_OK;
}

static lk_status run_begin(lk_device *d)
{
    lk_cuda_trace *t = trace_of(d);
    if (t->runs == t->most_runs)
        return lk_fail(LK_E_INTERNAL, "a trace of %d runs goes on", t->most_runs);
    LK_CUDA(cudaEventRecord(t->event[2 * t->runs], t->device->main));
    return LK_OK;
}

static lk_status run_end(lk_device *d)
{
    lk_cuda_trace *t = trace_of(d);
    LK_CUDA(cudaEventRecord(t->event[2 * t->runs + 1], t->device->main));
    t->runs++;
    return LK_OK;
}

/* ---- reading --------------------------------------------------------------------------------- */

/* No clone was told of: the nodes of the records, in the order of their ids, are those captured. */
static lk_status pair_by_order(lk_cuda_trace *t)
{
    uint64_t *id = (uint64_t *)malloc(((size_t)t->records + 1) * sizeof *id);
    if (!id) return lk_fail(LK_E_SYSTEM, "out of memory for a trace");
    int64_t distinct = 0, works = 0, k = 0;
    for (int64_t i = 0; i < t->records; i++) id[i] = t->record[i].node;
    qsort(id, (size_t)t->records, sizeof *id, compare_numbers);
    for (int64_t i = 0; i < t->records; i++)
        if (i == 0 || id[i] != id[i - 1]) id[distinct++] = id[i];
    for (int64_t i = 0; i < t->captured.count; i++) works += t->captured.item[i].works;
    int good = distinct == works;
    for (int64_t i = 0; i < t->captured.count && good; i++)
        if (t->captured.item[i].works)
            good = append_id(&t->cloned, id[k++], t->captured.item[i].mark, 1);
    free(id);
    if (good) return LK_OK;
    return lk_fail(LK_E_DEVICE, "CUPTI has records of %lld nodes of graphs, but %lld were "
                   "captured: this version of CUDA cannot be traced; use nsys, to which steps and "
                   "nodes are named", (long long)distinct, (long long)works);
}

/* Which of the runs seen so far a correlation id stands for; a new one is the next. */
static int run_of(const uint32_t *seen, int *runs, int most, uint32_t correlation)
{
    for (int i = *runs; i-- > 0;)
        if (seen[i] == correlation) return i;
    return *runs < most ? (*runs)++ : -1;
}

/* The first lane that is free again, so that spans of a lane do not overlap. */
static int lane_of(double end[LANES], double begin, double seconds)
{
    int lane = 0;
    while (lane < LANES - 1 && end[lane] > begin) lane++;
    if (begin + seconds > end[lane]) end[lane] = begin + seconds;
    return lane;
}

static lk_status take_records(lk_cuda_trace *t, lk_device_record *r, uint32_t *correlation)
{
    double end[LANES] = {0};
    int runs = 0;
    for (int i = 0; i < LANES; i++) end[i] = -1e30;
    for (int64_t i = 0; i < t->records; i++) {
        const record *x = &t->record[i];
        const id_mark *m = find_id(&t->cloned, x->node);
        if (!m) m = find_id(&t->captured, x->node);
        if (!m) { /* of another graph, or work of this one that no node has done */
            for (int k = 0; k < runs; k++) r->lost += correlation[k] == x->correlation;
            continue;
        }
        int before = runs, run = run_of(correlation, &runs, t->runs, x->correlation);
        if (run < 0) return lk_fail(LK_E_DEVICE, "CUPTI has records of more than %d runs", t->runs);
        double begin = 1e-9 * ((double)x->start - (double)t->opened);
        double seconds = 1e-9 * (double)(x->end - x->start);
        if (runs > before) {
            correlation[run] = x->correlation;
            r->begin[run] = begin;
        }
        r->span[r->spans++] =
            (lk_device_span){m->mark, run, lane_of(end, begin, seconds), begin, seconds};
    }
    if (runs == t->runs) return LK_OK;
    return lk_fail(LK_E_DEVICE, "CUPTI has records of %d of %d steps; trace fewer", runs, t->runs);
}

static lk_status attribute(lk_cuda_trace *t, lk_device_record *r)
{
    uint32_t *correlation = (uint32_t *)calloc((size_t)t->runs + 1, sizeof *correlation);
    r->span = (lk_device_span *)malloc(((size_t)t->records + 1) * sizeof *r->span);
    r->begin = (double *)calloc((size_t)t->runs + 1, sizeof *r->begin);
    r->seconds = (double *)calloc((size_t)t->runs + 1, sizeof *r->seconds);
    r->runs = t->runs;
    r->lost = t->dropped;
    lk_status status = correlation && r->span && r->begin && r->seconds && !t->failed
                           ? LK_OK
                           : lk_fail(LK_E_SYSTEM, "out of memory for a trace");
    sort_captured(t);
    if (status == LK_OK && t->cloned.count == 0 && t->records > 0 &&
        !find_id(&t->captured, t->record[0].node))
        status = pair_by_order(t);
    sort_ids(&t->cloned);
    if (status == LK_OK) status = take_records(t, r, correlation);
    for (int i = 0; i < t->runs && status == LK_OK; i++) {
        float ms = 0;
        cudaError_t e = cudaEventElapsedTime(&ms, t->event[2 * i], t->event[2 * i + 1]);
        if (e != cudaSuccess)
            status = lk_fail(LK_E_DEVICE, "cudaEventElapsedTime: %s", cudaGetErrorString(e));
        r->seconds[i] = 1e-3 * (double)ms;
    }
    free(correlation);
    return status;
}

static lk_status trace_read(lk_device *d, lk_device_record *result)
{
    lk_cuda_trace *t = trace_of(d);
    lk_device_record r = {NULL, 0, 0, NULL, NULL, 0};
    LK_CUDA(cudaDeviceSynchronize());
    LK_CUPTI(cuptiActivityFlushAll(1));
    pthread_mutex_lock(&lock); /* CUPTI's thread is done with what was before */
    if (t->records > 0) qsort(t->record, (size_t)t->records, sizeof *t->record, by_start);
    lk_status status = attribute(t, &r);
    pthread_mutex_unlock(&lock);
    if (status != LK_OK) {
        free(r.span);
        free(r.begin);
        free(r.seconds);
        return status;
    }
    *result = r;
    trace_close(d);
    return LK_OK;
}

extern "C" const lk_device_tracer lk_cuda_tracer = {trace_open, trace_mark, run_begin,
                                                   run_end,    trace_read, trace_close};
