/*
 * dtype.c - element types: names, sizes and conversions.  Plain loops: files are read through
 * these once; what runs per token has its own code in the kernels.
 */
#include "common/math/dtype.h"
#include "common/math/ggml_blocks.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const struct {
    ty_dtype type;
    ty_dtype_info info;
} types[] = {
    {TY_F32, {"f32", 1, 4}},       {TY_F16, {"f16", 1, 2}},       {TY_BF16, {"bf16", 1, 2}},
    {TY_Q4_0, {"q4_0", 32, 18}},   {TY_Q8_0, {"q8_0", 32, 34}},   {TY_I8, {"i8", 1, 1}},
    {TY_I16, {"i16", 1, 2}},       {TY_I32, {"i32", 1, 4}},       {TY_I64, {"i64", 1, 8}},
    {TY_F64, {"f64", 1, 8}},       {TY_U8, {"u8", 1, 1}},         {TY_BOOL, {"bool", 1, 1}},
    {TY_Q4_1, {"q4_1", 32, 20}},   {TY_Q5_0, {"q5_0", 32, 22}},   {TY_Q5_1, {"q5_1", 32, 24}},
    {TY_Q2_K, {"q2_k", 256, 84}},  {TY_Q3_K, {"q3_k", 256, 110}}, {TY_Q4_K, {"q4_k", 256, 144}},
    {TY_Q5_K, {"q5_k", 256, 176}}, {TY_Q6_K, {"q6_k", 256, 210}},
};
enum { N_TYPES = sizeof types / sizeof types[0] };

const ty_dtype_info *ty_dtype_get(int dtype) {
    for (int i = 0; i < N_TYPES; i++)
        if ((int)types[i].type == dtype) return &types[i].info;
    return NULL;
}

const char *ty_dtype_name(int dtype) {
    const ty_dtype_info *info = ty_dtype_get(dtype);
    return info ? info->name : "?";
}

int ty_dtype_parse(const char *name) {
    for (int i = 0; i < N_TYPES; i++)
        if (strcmp(types[i].info.name, name) == 0) return (int)types[i].type;
    return -1;
}

size_t ty_dtype_bytes(ty_dtype t, size_t n) {
    const ty_dtype_info *info = ty_dtype_get((int)t);
    return info ? n / (size_t)info->block * (size_t)info->bytes : 0;
}

int64_t ty_tensor_count(const ty_tensor *t) {
    int64_t n = 1;
    for (int i = 0; i < t->n_dim; i++) n *= t->shape[i];
    return n;
}

int64_t ty_tensor_rows(const ty_tensor *t) {
    int64_t n = 1;
    for (int i = 0; i + 1 < t->n_dim; i++) n *= t->shape[i];
    return n;
}

int64_t ty_tensor_cols(const ty_tensor *t) {
    return t->n_dim > 0 ? t->shape[t->n_dim - 1] : 1;
}

char *ty_tensor_shape_text(const ty_tensor *t, char *out, size_t size) {
    size_t at = 0;
    if (size == 0) return out;
    out[0] = '\0';
    for (int i = 0; i < t->n_dim && at < size; i++) {
        int n = snprintf(out + at, size - at, "%s%lld", i ? "," : "[", (long long)t->shape[i]);
        at += n > 0 ? (size_t)n : 0;
    }
    if (at < size) snprintf(out + at, size - at, t->n_dim ? "]" : "[]");
    return out;
}

/* ---- 16-bit floats ---- */

typedef union {
    uint32_t u;
    float f;
} bits32;

float ty_f16_to_f32(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exp = h >> 10 & 31u, man = h & 0x3ffu;
    if (exp == 31) return (bits32){.u = sign | 0x7f800000u | man << 13}.f;
    if (exp != 0) return (bits32){.u = sign | (exp + 112u) << 23 | man << 13}.f;
    /* A subnormal is man * 2^-24, exact in f32. */
    float v = (float)man * 0x1p-24f;
    return sign ? -v : v;
}

uint16_t ty_f32_to_f16(float x) {
    uint32_t u = (bits32){.f = x}.u, sign = u >> 16 & 0x8000u, a = u & 0x7fffffffu;
    if (a > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u | (a >> 13 & 0x3ffu)); /* NaN stays quiet */
    if (a >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u);    /* rounds to 65536 or more */
    if (a < 0x38800000u) {
        /* Below 2^-14: adding 0.5 puts the last bit of a subnormal half at the last bit of the
         * float, so that the addition rounds to nearest even. */
        float v = (bits32){.u = a}.f + 0.5f;
        return (uint16_t)(sign | ((bits32){.f = v}.u - 0x3f000000u));
    }
    uint32_t odd = a >> 13 & 1u;
    return (uint16_t)(sign | ((a - 0x38000000u + 0xfffu + odd) >> 13));
}

uint16_t ty_f32_to_bf16(float x) {
    uint32_t u = (bits32){.f = x}.u;
    if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(u >> 16 | 0x40u);
    return (uint16_t)((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
}

/* ---- blocks of 32 ---- */

static uint16_t load_u16(const uint8_t *p) {
    uint16_t v;
    memcpy(&v, p, 2);
    return v;
}

static void q8_block_read(const uint8_t *b, float *dst) {
    float d = ty_f16_to_f32(load_u16(b));
    for (int i = 0; i < 32; i++) dst[i] = d * (float)(int8_t)b[2 + i];
}

static void q4_block_read(const uint8_t *b, float *dst) {
    float d = ty_f16_to_f32(load_u16(b));
    for (int i = 0; i < 16; i++) {
        dst[i] = d * (float)((b[2 + i] & 15) - 8);
        dst[i + 16] = d * (float)((b[2 + i] >> 4) - 8);
    }
}

static void q8_block_write(const float *x, uint8_t *b) {
    float amax = 0;
    for (int i = 0; i < 32; i++) amax = fmaxf(amax, fabsf(x[i]));
    float d = amax / 127.0f, id = d != 0.0f ? 1.0f / d : 0.0f;
    uint16_t h = ty_f32_to_f16(d);
    memcpy(b, &h, 2);
    for (int i = 0; i < 32; i++) b[2 + i] = (uint8_t)(int8_t)roundf(x[i] * id);
}

static uint8_t q4_level(float x, float id) {
    int q = (int)(x * id + 8.5f);
    return (uint8_t)(q > 15 ? 15 : q < 0 ? 0 : q);
}

static void q4_block_write(const float *x, uint8_t *b) {
    float amax = 0, max = 0;
    for (int i = 0; i < 32; i++)
        if (fabsf(x[i]) > amax) {
            amax = fabsf(x[i]);
            max = x[i];
        }
    float d = max / -8.0f, id = d != 0.0f ? 1.0f / d : 0.0f;
    uint16_t h = ty_f32_to_f16(d);
    memcpy(b, &h, 2);
    for (int i = 0; i < 16; i++)
        b[2 + i] = (uint8_t)(q4_level(x[i], id) | q4_level(x[i + 16], id) << 4);
}

/* ---- whole runs ---- */

#define WIDEN(ctype)                                                                               \
    for (size_t i = 0; i < n; i++) {                                                               \
        ctype v;                                                                                   \
        memcpy(&v, p + i * sizeof v, sizeof v);                                                    \
        dst[i] = (float)v;                                                                         \
    }                                                                                              \
    break

static void read_blocks(ty_dtype t, const uint8_t *p, size_t n, float *dst) {
    const ty_dtype_info *info = ty_dtype_get((int)t);
    ty_block_reader read = ty_ggml_block_reader(t);
    for (; n > 0; n -= (size_t)info->block, p += info->bytes, dst += info->block) read(p, dst);
}

void ty_dtype_to_f32(ty_dtype t, const void *src, size_t first, size_t n, float *dst) {
    const uint8_t *p = (const uint8_t *)src + ty_dtype_bytes(t, first);
    switch (t) {
    case TY_F32: memcpy(dst, p, n * sizeof *dst); break;
    case TY_F16:
        for (size_t i = 0; i < n; i++) dst[i] = ty_f16_to_f32(load_u16(p + 2 * i));
        break;
    case TY_BF16:
        for (size_t i = 0; i < n; i++) dst[i] = ty_bf16_to_f32(load_u16(p + 2 * i));
        break;
    case TY_Q8_0:
        for (size_t i = 0; i < n / 32; i++) q8_block_read(p + 34 * i, dst + 32 * i);
        break;
    case TY_Q4_0:
        for (size_t i = 0; i < n / 32; i++) q4_block_read(p + 18 * i, dst + 32 * i);
        break;
    case TY_Q4_1:
    case TY_Q5_0:
    case TY_Q5_1:
    case TY_Q2_K:
    case TY_Q3_K:
    case TY_Q4_K:
    case TY_Q5_K:
    case TY_Q6_K: read_blocks(t, p, n, dst); break;
    case TY_F64: WIDEN(double);
    case TY_I8: WIDEN(int8_t);
    case TY_I16: WIDEN(int16_t);
    case TY_I32: WIDEN(int32_t);
    case TY_I64: WIDEN(int64_t);
    case TY_U8:
    case TY_BOOL: WIDEN(uint8_t);
    }
}

void ty_dtype_from_f32(ty_dtype t, const float *src, size_t n, void *dst) {
    uint8_t *p = dst;
    switch (t) {
    case TY_F32: memcpy(dst, src, n * sizeof *src); break;
    case TY_F16:
        for (size_t i = 0; i < n; i++) {
            uint16_t h = ty_f32_to_f16(src[i]);
            memcpy(p + 2 * i, &h, 2);
        }
        break;
    case TY_BF16:
        for (size_t i = 0; i < n; i++) {
            uint16_t h = ty_f32_to_bf16(src[i]);
            memcpy(p + 2 * i, &h, 2);
        }
        break;
    case TY_Q8_0:
        for (size_t i = 0; i < n / 32; i++) q8_block_write(src + 32 * i, p + 34 * i);
        break;
    case TY_Q4_0:
        for (size_t i = 0; i < n / 32; i++) q4_block_write(src + 32 * i, p + 18 * i);
        break;
    default: break; /* the header names the five that can be written */
    }
}
