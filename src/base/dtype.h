/* Element types. */
#ifndef LK_BASE_DTYPE_H
#define LK_BASE_DTYPE_H

#include <stddef.h>

typedef enum lk_dtype {
    LK_F32,
    LK_F16,
    LK_BF16,
    LK_I32,
    LK_U8,
    LK_U16,
    LK_DTYPES
} lk_dtype;

static inline size_t lk_dtype_size(lk_dtype t)
{
    static const unsigned char size[LK_DTYPES] = {4, 2, 2, 4, 1, 2};
    return size[t];
}

static inline const char *lk_dtype_name(lk_dtype t)
{
    static const char *const name[LK_DTYPES] = {"f32", "f16", "bf16", "i32", "u8", "u16"};
    return name[t];
}

#endif
