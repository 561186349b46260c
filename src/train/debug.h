/* Training runs that go wrong: --detect-anomaly and --launch-blocking. */
#ifndef LK_TRAIN_DEBUG_H
#define LK_TRAIN_DEBUG_H

#include "program/program.h"
#include "train/session.h"

typedef struct lk_debug lk_debug;

typedef struct lk_debug_options {
    lk_comm *comm;
    lk_io *io;
    const lk_run *run;
    lk_program *program; /* of the training step */
    lk_graph *graph;     /* for detect_anomaly planned with `apart` */
    lk_store *store;
    const lk_loader *loader;
    int local_leaves;
    bool detect_anomaly, launch_blocking;
} lk_debug_options;

/* Watch the program. At the first value of a step that is not finite (trace/anomaly.h says what is
 * judged) the step fails, and its tensors lie in DIRECTORY/anomaly.h5 (io/tensor_file.h), or those
 * of rank N above 0 in anomaly-N.h5. Files of an earlier search are removed. *debug NULL: neither
 * was asked for. */
lk_status lk_debug_open(const lk_debug_options *o, lk_debug **debug);
void lk_debug_close(lk_debug *d); /* takes NULL; before the program */

#endif
