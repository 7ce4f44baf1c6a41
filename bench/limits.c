/* limits.c - loops that do nothing but what is measured.  Vector code by the functions' target
 * attribute: only the loop of the table in use is called. */
#include "bench/limits.h"

#include "common/base/clock.h"
#include "common/math/cpu.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

enum { ROUNDS = 300000, LANES = 12, BUFFER = 512 << 20, CHUNKS = 256 };

typedef struct {
    double ops_per_round; /* of one call's loop */
    void (*loop)(int rounds);
    const char *idiom;
} peak;

static volatile int64_t sink;

#if defined(__x86_64__)
#include <immintrin.h>

/* The compiler may neither drop nor fold what passes through here. */
#define KEEP(v)  __asm__ volatile("" : "+x"(v))
#define KEEPZ(v) __asm__ volatile("" : "+v"(v))

__attribute__((target("avx2,fma"))) static void fma_avx2(int rounds) {
    __m256 a[LANES], x = _mm256_set1_ps(1.0f);
    for (int i = 0; i < LANES; i++) a[i] = _mm256_setzero_ps();
    for (int r = 0; r < rounds; r++) {
#pragma GCC unroll 12
        for (int i = 0; i < LANES; i++) a[i] = _mm256_fmadd_ps(x, x, a[i]);
        KEEP(x);
    }
#pragma GCC unroll 12
    for (int i = 0; i < LANES; i++) KEEP(a[i]);
}

__attribute__((target("avx2"))) static void maddubs_add16_avx2(int rounds) {
    __m256i a[LANES], x = _mm256_set1_epi8(1);
    for (int i = 0; i < LANES; i++) a[i] = _mm256_setzero_si256();
    for (int r = 0; r < rounds; r++) {
#pragma GCC unroll 12
        for (int i = 0; i < LANES; i++) {
            __m256i p = _mm256_maddubs_epi16(x, x);
            KEEP(p); /* the same product each time otherwise */
            a[i] = _mm256_add_epi16(a[i], p);
        }
    }
#pragma GCC unroll 12
    for (int i = 0; i < LANES; i++) KEEP(a[i]);
}

__attribute__((target("avx512f"))) static void fma_avx512(int rounds) {
    __m512 a[LANES], x = _mm512_set1_ps(1.0f);
    for (int i = 0; i < LANES; i++) a[i] = _mm512_setzero_ps();
    for (int r = 0; r < rounds; r++) {
#pragma GCC unroll 12
        for (int i = 0; i < LANES; i++) a[i] = _mm512_fmadd_ps(x, x, a[i]);
        KEEPZ(x);
    }
#pragma GCC unroll 12
    for (int i = 0; i < LANES; i++) KEEPZ(a[i]);
}

__attribute__((target("avx512f,avx512bw"))) static void maddubs_add16_avx512(int rounds) {
    __m512i a[LANES], x = _mm512_set1_epi8(1);
    for (int i = 0; i < LANES; i++) a[i] = _mm512_setzero_si512();
    for (int r = 0; r < rounds; r++) {
#pragma GCC unroll 12
        for (int i = 0; i < LANES; i++) {
            __m512i p = _mm512_maddubs_epi16(x, x);
            KEEPZ(p);
            a[i] = _mm512_add_epi16(a[i], p);
        }
    }
#pragma GCC unroll 12
    for (int i = 0; i < LANES; i++) KEEPZ(a[i]);
}

__attribute__((target("avx512f,avx512vnni"))) static void dpbusd_avx512(int rounds) {
    __m512i a[LANES], x = _mm512_set1_epi8(1);
    for (int i = 0; i < LANES; i++) a[i] = _mm512_setzero_si512();
    for (int r = 0; r < rounds; r++) {
#pragma GCC unroll 12
        for (int i = 0; i < LANES; i++) a[i] = _mm512_dpbusd_epi32(a[i], x, x);
        KEEPZ(x);
    }
#pragma GCC unroll 12
    for (int i = 0; i < LANES; i++) KEEPZ(a[i]);
}
#endif

/* What plain C gets from the baseline's vectors: multiply, then add. */
static void plain_float(int rounds) {
    float a[48] = {0}, x = 1.0f;
    for (int r = 0; r < rounds; r++) {
        __asm__ volatile("" : "+m"(x));
        for (int i = 0; i < 48; i++) a[i] += x * (float)i;
    }
    sink = (int64_t)a[7];
}

static void plain_int(int rounds) {
    int32_t a[48] = {0};
    int16_t x = 1;
    for (int r = 0; r < rounds; r++) {
        __asm__ volatile("" : "+m"(x));
        for (int i = 0; i < 48; i++) a[i] += x * (int16_t)i;
    }
    sink = a[7];
}

static peak f32_peak(const char *table) {
#if defined(__x86_64__)
    if (strcmp(table, "avx2") == 0) return (peak){LANES * 16.0, fma_avx2, "vfmadd ymm"};
    if (strncmp(table, "avx512", 6) == 0) return (peak){LANES * 32.0, fma_avx512, "vfmadd zmm"};
#endif
    (void)table;
    return (peak){96.0, plain_float, "plain C"};
}

static peak int8_peak(const char *table) {
#if defined(__x86_64__)
    if (strcmp(table, "avx2") == 0)
        return (peak){LANES * 64.0, maddubs_add16_avx2, "vpmaddubsw + vpaddw ymm"};
    if (strcmp(table, "avx512") == 0)
        return (peak){LANES * 128.0, maddubs_add16_avx512, "vpmaddubsw + vpaddw zmm"};
    if (strncmp(table, "avx512", 6) == 0)
        return (peak){LANES * 128.0, dpbusd_avx512, "vpdpbusd zmm"};
#endif
    (void)table;
    return (peak){96.0, plain_int, "plain C"};
}

typedef struct {
    peak p;
    double *seconds; /* CPU time of each task, by its own thread's clock */
} peak_job;

static double clock_seconds(clockid_t id) {
    struct timespec t = {0};
    clock_gettime(id, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

double limits_cpu_seconds(void) {
    return clock_seconds(CLOCK_PROCESS_CPUTIME_ID);
}

static void peak_task(void *ctx, int task, int member) {
    const peak_job *j = ctx;
    (void)member;
    double t = clock_seconds(CLOCK_THREAD_CPUTIME_ID);
    j->p.loop(ROUNDS);
    j->seconds[task] = clock_seconds(CLOCK_THREAD_CPUTIME_ID) - t;
}

/* All members at it at once; the rate while a core is ours, so that a neighbour on it does not lower the
 * bar.  Best of several runs. */
static double measure_peak(ty_pool *pool, peak p) {
    double best = 0;
    int size = ty_pool_size(pool), tasks = 8 * size;
    peak_job j = {.p = p, .seconds = calloc((size_t)tasks, sizeof(double))};
    if (!j.seconds) return 0;
    for (int i = 0; i < 6; i++) {
        double sum = 0;
        ty_pool_run(pool, tasks, peak_task, &j);
        for (int t = 0; t < tasks; t++) sum += j.seconds[t];
        double rate = p.ops_per_round * ROUNDS * tasks / sum * size * 1e-9;
        if (rate > best) best = rate;
    }
    free(j.seconds);
    return best;
}

static uint64_t *buffer;

static void read_task(void *ctx, int task, int member) {
    (void)ctx;
    (void)member;
    size_t n = BUFFER / CHUNKS / 8;
    const uint64_t *p = buffer + (size_t)task * n;
    uint64_t s[16] = {0}, all = 0;
    for (size_t i = 0; i < n; i += 16)
        for (int k = 0; k < 16; k++) s[k] += p[i + (size_t)k];
    for (int k = 0; k < 16; k++) all += s[k];
    sink = (int64_t)all;
}

double limits_read_gbs(ty_pool *pool, int threads) {
    double best = 0;
    if (!buffer) return 0;
    for (int i = 0; i < 4; i++) {
        int64_t t = ty_now_us();
        ty_pool_run(threads > 1 ? pool : NULL, CHUNKS, read_task, NULL);
        double rate = (double)BUFFER / (double)(ty_now_us() - t) * 1e-3;
        if (rate > best) best = rate;
    }
    return best;
}

int limits_measure(ty_pool *pool, limits *out) {
    const char *table = ty_cpu_kernels();
    peak i8 = int8_peak(table);
    if (!buffer) buffer = aligned_alloc(2 << 20, BUFFER);
    if (!buffer) return 0;
    (void)madvise(buffer, BUFFER, MADV_HUGEPAGE);
    memset(buffer, 1, BUFFER);
    *out = (limits){.f32_gflops = measure_peak(pool, f32_peak(table)),
                    .int8_gops = measure_peak(pool, i8),
                    .read_gbs_1 = limits_read_gbs(pool, 1),
                    .read_gbs = limits_read_gbs(pool, ty_pool_size(pool)),
                    .int8_idiom = i8.idiom};
    return 1;
}

void limits_close(void) {
    free(buffer);
    buffer = NULL;
}
