/*
 * dtype.h - element types of tensors, and a borrowed view of one.
 *
 * The numbers of the quantised types are GGUF's (ggml_type), so that a file's type field is a cast.
 * A quantised row is a run of blocks of 32 elements along the last dimension:
 *   Q8_0  { f16 d; int8 q[32]; }            34 bytes   x = d * q
 *   Q4_0  { f16 d; uint8 nibble[16]; }      18 bytes   x = d * (nibble - 8); element i (<16) is the
 *                                            low nibble of byte i, element i+16 its high nibble
 */
#ifndef TY_MATH_DTYPE_H
#define TY_MATH_DTYPE_H

#include "common/base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum {
    TY_F32 = 0,
    TY_F16 = 1,
    TY_Q4_0 = 2,
    TY_Q4_1 = 3, /* Q4_1 to Q6_K: read alone, see ggml_blocks.h */
    TY_Q5_0 = 6,
    TY_Q5_1 = 7,
    TY_Q8_0 = 8,
    TY_Q2_K = 10,
    TY_Q3_K = 11,
    TY_Q4_K = 12,
    TY_Q5_K = 13,
    TY_Q6_K = 14,
    TY_I8 = 24,
    TY_I16 = 25,
    TY_I32 = 26,
    TY_I64 = 27,
    TY_F64 = 28,
    TY_BF16 = 30,
    TY_U8 = 100,   /* not a ggml type: pictures, safetensors U8 */
    TY_BOOL = 101, /* not a ggml type: safetensors BOOL */
} ty_dtype;

enum { TY_QBLOCK = 32, TY_MAX_DIMS = 8 };

typedef struct {
    char name[8]; /* "f32", "q8_0": how options and messages name it */
    int block;    /* elements of a block: 1, 32 or 256 */
    int bytes;    /* bytes of a block */
} ty_dtype_info;

/* NULL for a number that is no type. */
const ty_dtype_info *ty_dtype_get(int dtype);
const char *ty_dtype_name(int dtype); /* "?" for no type */
/* "f32" -> TY_F32; -1 for an unknown name. */
int ty_dtype_parse(const char *name);
/* Bytes of n elements; n must be a multiple of the block. */
size_t ty_dtype_bytes(ty_dtype t, size_t n);

/* A borrowed view: shape is outermost first (as in safetensors and PyTorch; GGUF files store the
 * reverse, their reader turns it).  data is row-major, valid as long as its owner says. */
typedef struct {
    ty_dtype dtype;
    int n_dim;
    int64_t shape[TY_MAX_DIMS];
    const void *data;
    size_t size_bytes;
} ty_tensor;

int64_t ty_tensor_count(const ty_tensor *t); /* elements */
int64_t ty_tensor_rows(const ty_tensor *t);  /* product of all but the last dimension */
int64_t ty_tensor_cols(const ty_tensor *t);  /* last dimension; 1 for a scalar */
/* "[3,28,28]" into out; returns out. */
char *ty_tensor_shape_text(const ty_tensor *t, char *out, size_t size);

/* n elements starting at element `first` (both multiples of the block) -> float.  Every float
 * type, the integers and the quantised types.  Scalar code: for loading, not for the hot path. */
void ty_dtype_to_f32(ty_dtype t, const void *src, size_t first, size_t n, float *dst);
/* float -> t, rounding to nearest even (f16, bf16) or by blocks (Q8_0, Q4_0 as ggml's reference
 * quantisers do, bit for bit).  Only F32, F16, BF16, Q8_0, Q4_0. */
void ty_dtype_from_f32(ty_dtype t, const float *src, size_t n, void *dst);

float ty_f16_to_f32(uint16_t h);
uint16_t ty_f32_to_f16(float x);
static inline float ty_bf16_to_f32(uint16_t h) {
    union {
        uint32_t u;
        float f;
    } v = {.u = (uint32_t)h << 16};
    return v.f;
}
uint16_t ty_f32_to_bf16(float x);

#endif
