/* blas.c - finds, opens and calls OpenBLAS. */
#include "common/math/blas.h"
#include "common/math/kernel.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

enum { ROW_MAJOR = 101, PLAIN = 111, TRANSPOSED = 112 }; /* cblas.h's numbers */

typedef void cblas_sgemm_fn(int order, int trans_a, int trans_b, int m, int n, int k, float alpha,
                            const float *a, int lda, const float *b, int ldb, float beta, float *c,
                            int ldc);

static struct {
    pthread_mutex_t mutex;
    bool tried, one_at_a_time;
    cblas_sgemm_fn *sgemm;
    char name[96];
} blas = {.mutex = PTHREAD_MUTEX_INITIALIZER, .name = "none"};

static bool is_amd(void) {
#if defined(__x86_64__)
    unsigned a, b, c, d;
    return __get_cpuid(0, &a, &b, &c, &d) && b == signature_AMD_ebx;
#else
    return false;
#endif
}

/* The name by which OpenBLAS knows the best kernels that run here; NULL leaves it to guess. */
static const char *core_type(void) {
    if (ty_kernels_named("avx512")) return "SkylakeX";
    if (ty_kernels_named("avx2")) return is_amd() ? "Zen" : "Haswell";
    return NULL;
}

static void *open_library(void) {
    static const char *const paths[] = {
        "/usr/lib/x86_64-linux-gnu/openblas-pthread/libopenblas.so.0",
        "/usr/lib/aarch64-linux-gnu/openblas-pthread/libopenblas.so.0",
        "libopenblas.so.0",
    };
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
        void *lib = dlopen(paths[i], RTLD_NOW | RTLD_LOCAL);
        if (lib) return lib;
    }
    return NULL;
}

/* A symbol as a function pointer: C has no cast for it. */
static void find(void *lib, const char *symbol, void *fn) {
    void *p = dlsym(lib, symbol);
    memcpy(fn, &p, sizeof p);
}

static void open_once(void) {
    char *(*config)(void) = NULL, *(*core)(void) = NULL;
    int (*parallel)(void) = NULL;
    const char *type = core_type();
    if (type) setenv("OPENBLAS_CORETYPE", type, 0);
    setenv("OPENBLAS_NUM_THREADS", "1",
           1); /* its threads, which would start as it loads, fight ours */
    void *lib = open_library();
    if (!lib) return;
    find(lib, "cblas_sgemm", &blas.sgemm);
    find(lib, "openblas_get_config", &config);
    find(lib, "openblas_get_corename", &core);
    find(lib, "openblas_get_parallel", &parallel);
    blas.one_at_a_time = !parallel || parallel() == 0;
    char version[24] = "?";
    if (config) (void)sscanf(config(), "OpenBLAS %23s", version);
    snprintf(blas.name, sizeof blas.name, "openblas %s %s", version, core ? core() : "?");
}

ty_status ty_blas_open(ty_err *err) {
    pthread_mutex_lock(&blas.mutex);
    if (!blas.tried) open_once();
    blas.tried = true;
    bool ok = blas.sgemm != NULL;
    pthread_mutex_unlock(&blas.mutex);
    if (ok) return TY_OK;
    return ty_fail(err, TY_EUNSUPPORTED, "no OpenBLAS here: install libopenblas0-pthread");
}

ty_status ty_blas_wanted(bool *on, ty_err *err) {
    const char *v = getenv("TYTO_BLAS");
    bool want = v && strcmp(v, "openblas") == 0;
    if (on) *on = false;
    if (v && !want && *v && strcmp(v, "own") != 0)
        return ty_fail(err, TY_EINVAL, "TYTO_BLAS=%s: want own or openblas", v);
    if (want && ty_blas_open(err) != TY_OK)
        return ty_fail(
            err, TY_EINVAL,
            "TYTO_BLAS=openblas: no OpenBLAS here: install libopenblas0-pthread, or unset "
            "TYTO_BLAS");
    if (on) *on = want;
    return TY_OK;
}

void ty_blas_gemm(int M, int N, int K, const float *x, int64_t ldx, const float *w, int64_t ldw,
                  float *y, int64_t ldy) {
    if (blas.one_at_a_time) pthread_mutex_lock(&blas.mutex);
    blas.sgemm(ROW_MAJOR, PLAIN, TRANSPOSED, M, N, K, 1.0f, x, (int)ldx, w, (int)ldw, 0.0f, y,
               (int)ldy);
    if (blas.one_at_a_time) pthread_mutex_unlock(&blas.mutex);
}

const char *ty_blas_name(void) {
    return blas.name;
}
