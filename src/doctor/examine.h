/* Private to src/doctor/: one examination, as examine.c and measure.c see it. */
#ifndef LK_DOCTOR_EXAMINE_H
#define LK_DOCTOR_EXAMINE_H

#include "cuda/nvml.h"
#include "doctor/doctor.h"

typedef struct lk_examination {
    lk_comm *comm;
    lk_io *io;
    const lk_doctor_options *options;
    lk_nvml *nvml;
    lk_device *device; /* NULL: none could be opened */
    char pci[32];      /* of the device, "" for the CPU */
    bool gpu;
    json_t *facts;
} lk_examination;

/* Add a member; takes `value`, NULL when memory ended. */
lk_status lk_examine_put(json_t *object, const char *name, json_t *value);
/* The text of an error that became a fact; it is no error any more. */
json_t *lk_examine_error(void);
/* What follows may hang, with a driver, a network or a file system: `stage` says what it is. */
void lk_examine_begin(lk_examination *x, const char *stage);

/* Add "speed": copies between host and GPU, and the all-reduce. Collective. measure.c */
lk_status lk_measure_speed(lk_examination *x);
/* Add "directory", with its speed if that is to be measured. Collective. measure.c */
lk_status lk_measure_directory(lk_examination *x);

#endif
