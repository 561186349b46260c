/* Bytes as trace.h5: loaded, summed up, exported. */
#include "io/trace_file.h"
#include "tests/fuzz/fuzz.h"

#include <stdio.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_start();
    static FILE *null;
    if (!null) null = fopen("/dev/null", "w");
    lk_trace t = {.device = NULL};
    lk_trace_summary s;
    if (!fuzz_read(lk_trace_load(fuzz_io, fuzz_file("trace.h5", data, size), &t), "load")) return 0;
    for (int depth = 1; depth < 4; depth += 2)
        if (fuzz_read(lk_trace_summarise(&t, depth, &s), "summary")) lk_trace_summary_clear(&s);
    fuzz_read(lk_trace_perfetto(&t, null), "export");
    lk_trace_clear(&t);
    return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t room, unsigned seed)
{
    return fuzz_h5_mutate(FUZZ_TRACE, 1, data, size, room, seed);
}

bool fuzz_seed(int i, const char *path) { return fuzz_h5_seed(FUZZ_TRACE, 1, i, path); }
