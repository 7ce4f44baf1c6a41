/*
 * kernel.c - which table: CPUID and XGETBV read directly (the compilers' own probes do not know every
 * feature's name), then the best that runs, or the one that TYTO_CPU asks for.
 */
#include "common/math/kernel.h"

#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

static bool always(void) {
    return true;
}

#if defined(__x86_64__)
#include <cpuid.h>

typedef struct {
    unsigned a, b, c, d;
} regs;

static regs cpuid(unsigned leaf, unsigned sub) {
    regs r = {0, 0, 0, 0};
    if (!__get_cpuid_count(leaf, sub, &r.a, &r.b, &r.c, &r.d)) return (regs){0, 0, 0, 0};
    return r;
}

static bool bit(unsigned value, int i) {
    return value >> i & 1u;
}

/* Does the system save these parts of the register state?  XCR0: 2 ymm, 5..7 zmm and masks. */
static bool os_saves(unsigned mask) {
    if (!bit(cpuid(1, 0).c, 27)) return false;
    unsigned lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return (lo & mask) == mask;
}

static bool has_avx2(void) {
    unsigned c1 = cpuid(1, 0).c;
    return os_saves(0x6) && bit(c1, 28) && bit(c1, 12) && bit(c1, 29) && bit(cpuid(7, 0).b, 5);
}

static bool has_avx512(void) {
    unsigned b = cpuid(7, 0).b;
    return has_avx2() && os_saves(0xe6) && bit(b, 16) && bit(b, 17) && bit(b, 30) && bit(b, 31);
}

static bool has_avx512vnni(void) {
    return has_avx512() && bit(cpuid(7, 0).c, 11);
}

static bool has_avx512bf16(void) {
    return has_avx512() && bit(cpuid(7, 1).a, 5);
}
#endif

static const struct {
    const ty_kernels *table;
    bool (*runs)(void);
} tables[] = {
#if defined(__x86_64__)
    {&ty_kernels_avx512vnni, has_avx512vnni},
    {&ty_kernels_avx512, has_avx512},
    {&ty_kernels_avx2, has_avx2},
#endif
    {&ty_kernels_ref, always},
};
enum { N_TABLES = sizeof tables / sizeof tables[0] };

const ty_kernels *ty_kernels_at(int i, bool *runs) {
    if (i < 0 || i >= N_TABLES) return NULL;
    if (runs) *runs = tables[i].runs();
    return tables[i].table;
}

const ty_kernels *ty_kernels_named(const char *name) {
    for (int i = 0; i < N_TABLES; i++)
        if (strcmp(tables[i].table->name, name) == 0)
            return tables[i].runs() ? tables[i].table : NULL;
    return NULL;
}

static const ty_kernels *choose(void) {
    const char *want = getenv("TYTO_CPU");
    const ty_kernels *k = want ? ty_kernels_named(want) : NULL;
    for (int i = 0; !k; i++)
        if (tables[i].runs()) k = tables[i].table;
    return k;
}

const ty_kernels *ty_kernels_get(void) {
    static _Atomic(const ty_kernels *) chosen; /* threads that race here choose the same */
    const ty_kernels *k = atomic_load_explicit(&chosen, memory_order_acquire);
    if (!k) {
        k = choose();
        atomic_store_explicit(&chosen, k, memory_order_release);
    }
    return k;
}

const ty_pair_kernels *ty_pair_kernels_get(void) {
#if defined(__x86_64__)
    static atomic_int has; /* 0 unknown, 1 no, 2 yes; CPUID is slow under a hypervisor */
    const ty_kernels *k = ty_kernels_get();
    if (atomic_load_explicit(&has, memory_order_relaxed) == 0)
        atomic_store_explicit(&has, has_avx512bf16() ? 2 : 1, memory_order_relaxed);
    if (atomic_load_explicit(&has, memory_order_relaxed) == 2 &&
        (k == &ty_kernels_avx512vnni || k == &ty_kernels_avx512))
        return &ty_pair_kernels_avx512bf16;
#endif
    return &ty_pair_kernels_ref;
}
