/*
 * simde_avx512.h - AVX-512 intrinsics in plain C, by SIMDe under the native names, and those that SIMDe
 * 0.7.4 lacks written out here lane by lane.  So the 512-bit kernels run, and are tested, on any machine.
 */
#ifndef TY_SIMDE_AVX512_H
#define TY_SIMDE_AVX512_H

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpedantic"
#pragma GCC diagnostic ignored "-Wundef"
#pragma GCC diagnostic ignored "-Wshadow"
#pragma GCC diagnostic ignored "-Wdouble-promotion"
#pragma GCC diagnostic ignored "-Wextra"
#pragma GCC diagnostic ignored "-Wall"
#define SIMDE_NO_NATIVE
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#include <simde/x86/f16c.h>
#include <simde/x86/fma.h>
#pragma GCC diagnostic pop

#include "common/math/dtype.h"

#include <math.h>
#include <string.h>

#define TY_EMULATE_AVX512

#ifndef __AVX512F__
typedef simde__mmask8 __mmask8;
typedef simde__mmask16 __mmask16;
typedef simde__mmask64 __mmask64;
#endif

/* Aliases that SIMDe has wrong or not at all. */
#undef _mm512_madd_epi16
#define _mm512_madd_epi16(a, b) simde_mm512_madd_epi16(a, b)
#ifndef _MM_FROUND_NO_EXC
#define _MM_FROUND_NO_EXC SIMDE_MM_FROUND_NO_EXC
#endif

#define SHIM static inline __attribute__((unused))

SHIM simde__m512 shim_maskz_loadu_ps(simde__mmask16 on, const float *p) {
    float v[16] = {0};
    for (int i = 0; i < 16; i++)
        if (on >> i & 1) v[i] = p[i];
    return simde_mm512_loadu_ps(v);
}
#define _mm512_maskz_loadu_ps shim_maskz_loadu_ps

SHIM void shim_mask_storeu_ps(float *p, simde__mmask16 on, simde__m512 x) {
    float v[16];
    simde_mm512_storeu_ps(v, x);
    for (int i = 0; i < 16; i++)
        if (on >> i & 1) p[i] = v[i];
}
#define _mm512_mask_storeu_ps shim_mask_storeu_ps

SHIM simde__m512 shim_cvtph_ps(simde__m256i h) {
    uint16_t in[16];
    float v[16];
    memcpy(in, &h, sizeof in);
    for (int i = 0; i < 16; i++) v[i] = ty_f16_to_f32(in[i]);
    return simde_mm512_loadu_ps(v);
}
#define _mm512_cvtph_ps shim_cvtph_ps

SHIM simde__m256i shim_cvtps_ph(simde__m512 x, int rounding) {
    float v[16];
    uint16_t out[16];
    simde__m256i h;
    (void)rounding;
    simde_mm512_storeu_ps(v, x);
    for (int i = 0; i < 16; i++) out[i] = ty_f32_to_f16(v[i]);
    memcpy(&h, out, sizeof h);
    return h;
}
#define _mm512_cvtps_ph shim_cvtps_ph

SHIM simde__m512i shim_cvtepu16_epi32(simde__m256i h) {
    uint16_t in[16];
    int32_t v[16];
    memcpy(in, &h, sizeof in);
    for (int i = 0; i < 16; i++) v[i] = in[i];
    return simde_mm512_loadu_si512(v);
}
#define _mm512_cvtepu16_epi32 shim_cvtepu16_epi32

SHIM simde__m512 shim_cvtepi32_ps(simde__m512i x) {
    int32_t in[16];
    float v[16];
    memcpy(in, &x, sizeof in);
    for (int i = 0; i < 16; i++) v[i] = (float)in[i];
    return simde_mm512_loadu_ps(v);
}
#define _mm512_cvtepi32_ps shim_cvtepi32_ps

SHIM simde__m512i shim_cvtps_epi32(simde__m512 x) {
    float in[16];
    int32_t v[16];
    simde_mm512_storeu_ps(in, x);
    for (int i = 0; i < 16; i++) v[i] = fabsf(in[i]) < 2e9f ? (int32_t)rintf(in[i]) : INT32_MIN;
    return simde_mm512_loadu_si512(v);
}
#define _mm512_cvtps_epi32 shim_cvtps_epi32

SHIM simde__m128i shim_cvtepi32_epi8(simde__m512i x) {
    int32_t in[16];
    int8_t v[16];
    simde__m128i out;
    memcpy(in, &x, sizeof in);
    for (int i = 0; i < 16; i++) v[i] = (int8_t)in[i];
    memcpy(&out, v, sizeof out);
    return out;
}
#define _mm512_cvtepi32_epi8 shim_cvtepi32_epi8

SHIM simde__m512d shim_cvtps_pd(simde__m256 x) {
    float in[8];
    double v[8];
    memcpy(in, &x, sizeof in);
    for (int i = 0; i < 8; i++) v[i] = (double)in[i];
    return simde_mm512_loadu_pd(v);
}
#define _mm512_cvtps_pd shim_cvtps_pd

/* SIMDe's own fused multiply-add is a product and a sum where the machine has no FMA. */
SHIM simde__m512 shim_fmadd_ps(simde__m512 a, simde__m512 b, simde__m512 c) {
    float x[16], y[16], z[16];
    simde_mm512_storeu_ps(x, a);
    simde_mm512_storeu_ps(y, b);
    simde_mm512_storeu_ps(z, c);
    for (int i = 0; i < 16; i++) z[i] = fmaf(x[i], y[i], z[i]);
    return simde_mm512_loadu_ps(z);
}
#undef _mm512_fmadd_ps
#define _mm512_fmadd_ps shim_fmadd_ps

SHIM simde__m512 shim_fnmadd_ps(simde__m512 a, simde__m512 b, simde__m512 c) {
    return shim_fmadd_ps(simde_mm512_sub_ps(simde_mm512_setzero_ps(), a), b, c);
}
#undef _mm512_fnmadd_ps
#define _mm512_fnmadd_ps shim_fnmadd_ps

#endif
