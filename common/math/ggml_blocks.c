/* ggml_blocks.c - see ggml_blocks.h. */
#include "common/math/ggml_blocks.h"

#include <string.h>

static float half_at(const uint8_t *p) {
    uint16_t v;
    memcpy(&v, p, 2);
    return ty_f16_to_f32(v);
}

/* ---- 32 elements: element i is the low nibble of byte i, i + 16 the high one ---- */

/* { f16 d, m; nibble[16] } */
static void read_q4_1(const uint8_t *b, float *y) {
    float d = half_at(b), m = half_at(b + 2);
    for (int i = 0; i < 16; i++) {
        y[i] = d * (float)(b[4 + i] & 15) + m;
        y[i + 16] = d * (float)(b[4 + i] >> 4) + m;
    }
}

/* Five bits: bit i of `high` above the nibble of element i. */
static void read_fives(const uint8_t *high, const uint8_t *nibble, int *q) {
    uint32_t h;
    memcpy(&h, high, 4);
    for (int i = 0; i < 16; i++) {
        q[i] = (nibble[i] & 15) | (int)(h >> i & 1) << 4;
        q[i + 16] = nibble[i] >> 4 | (int)(h >> (i + 16) & 1) << 4;
    }
}

/* { f16 d; high[4]; nibble[16] } */
static void read_q5_0(const uint8_t *b, float *y) {
    int q[32];
    float d = half_at(b);
    read_fives(b + 2, b + 6, q);
    for (int i = 0; i < 32; i++) y[i] = d * (float)(q[i] - 16);
}

/* { f16 d, m; high[4]; nibble[16] } */
static void read_q5_1(const uint8_t *b, float *y) {
    int q[32];
    float d = half_at(b), m = half_at(b + 2);
    read_fives(b + 4, b + 8, q);
    for (int i = 0; i < 32; i++) y[i] = d * (float)q[i] + m;
}

/* ---- 256 elements ---- */

/* { scale | min << 4 [16]; two bits [64]; f16 d, dmin }, a scale for 16 elements */
static void read_q2_k(const uint8_t *b, float *y) {
    const uint8_t *scale = b, *q = b + 16;
    float d = half_at(b + 80), dmin = half_at(b + 82);
    for (int g = 0; g < 16; g++) {
        const uint8_t *from = q + g / 8 * 32 + g % 2 * 16;
        float s = d * (float)(scale[g] & 15), m = dmin * (float)(scale[g] >> 4);
        for (int i = 0; i < 16; i++) *y++ = s * (float)(from[i] >> (g % 8 / 2 * 2) & 3) - m;
    }
}

/* { high bit [32]; low two bits [64]; six-bit scales [12]; f16 d }, a scale for 16 elements */
static void read_q3_k(const uint8_t *b, float *y) {
    const uint8_t *high = b, *q = b + 32, *scale = b + 96;
    float d = half_at(b + 108);
    for (int g = 0; g < 16; g++) {
        const uint8_t *from = q + g / 8 * 32 + g % 2 * 16, *top = high + g % 2 * 16;
        int low = g < 8 ? scale[g] & 15 : scale[g - 8] >> 4;
        int s = (low | (scale[8 + g % 4] >> (g / 4 * 2) & 3) << 4) - 32;
        for (int i = 0; i < 16; i++) {
            int v = from[i] >> (g % 8 / 2 * 2) & 3;
            if (!(top[i] >> (g / 2) & 1)) v -= 4;
            *y++ = d * (float)s * (float)v;
        }
    }
}

/* The six-bit scale and minimum of 32 elements, as q4_k and q5_k pack them in 12 bytes. */
static void scale_min(const uint8_t *p, int g, int *scale, int *min) {
    if (g < 4) {
        *scale = p[g] & 63;
        *min = p[g + 4] & 63;
    } else {
        *scale = (p[g + 4] & 15) | p[g - 4] >> 6 << 4;
        *min = p[g + 4] >> 4 | p[g] >> 6 << 4;
    }
}

/* { f16 d, dmin; scales [12]; nibble [128] }: nibbles of 64 elements in 32 bytes, low ones first */
static void read_q4_k(const uint8_t *b, float *y) {
    float d = half_at(b), dmin = half_at(b + 2);
    for (int g = 0; g < 8; g++) {
        const uint8_t *q = b + 16 + g / 2 * 32;
        int s, m;
        scale_min(b + 4, g, &s, &m);
        float ds = d * (float)s, dm = dmin * (float)m;
        for (int i = 0; i < 32; i++) *y++ = ds * (float)(q[i] >> (g % 2 * 4) & 15) - dm;
    }
}

/* { f16 d, dmin; scales [12]; high bit [32]; nibble [128] } */
static void read_q5_k(const uint8_t *b, float *y) {
    float d = half_at(b), dmin = half_at(b + 2);
    for (int g = 0; g < 8; g++) {
        const uint8_t *high = b + 16, *q = b + 48 + g / 2 * 32;
        int s, m;
        scale_min(b + 4, g, &s, &m);
        float ds = d * (float)s, dm = dmin * (float)m;
        for (int i = 0; i < 32; i++)
            *y++ = ds * (float)((q[i] >> (g % 2 * 4) & 15) | (high[i] >> g & 1) << 4) - dm;
    }
}

/* { low nibble [128]; high two bits [64]; int8 scale [16]; f16 d }: halves of 128 elements, in each
 * four runs of 32 */
static void read_q6_k(const uint8_t *b, float *y) {
    float d = half_at(b + 208);
    for (int g = 0; g < 8; g++) {
        int half = g / 4, run = g % 4;
        const uint8_t *low = b + half * 64 + run % 2 * 32, *high = b + 128 + half * 32;
        const uint8_t *scale = b + 192 + half * 8 + run * 2;
        for (int i = 0; i < 32; i++) {
            int q = (low[i] >> (run / 2 * 4) & 15) | (high[i] >> (run * 2) & 3) << 4;
            *y++ = d * (float)(int8_t)scale[i / 16] * (float)(q - 32);
        }
    }
}

ty_block_reader ty_ggml_block_reader(ty_dtype t) {
    switch ((int)t) {
    case TY_Q4_1: return read_q4_1;
    case TY_Q5_0: return read_q5_0;
    case TY_Q5_1: return read_q5_1;
    case TY_Q2_K: return read_q2_k;
    case TY_Q3_K: return read_q3_k;
    case TY_Q4_K: return read_q4_k;
    case TY_Q5_K: return read_q5_k;
    case TY_Q6_K: return read_q6_k;
    default: return NULL;
    }
}
