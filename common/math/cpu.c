/* cpu.c - the machine's name and the kernel table in use, for people to read. */
#include "common/math/cpu.h"
#include "common/base/options.h"
#include "common/math/blas.h"
#include "common/math/kernel.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>

static void brand(char out[49]) {
    unsigned r[12] = {0}, top = __get_cpuid_max(0x80000000u, NULL);
    if (top < 0x80000004u) return;
    for (unsigned i = 0; i < 3; i++)
        __get_cpuid(0x80000002u + i, &r[4 * i], &r[4 * i + 1], &r[4 * i + 2], &r[4 * i + 3]);
    memcpy(out, r, 48);
}
#else
static void brand(char out[49]) {
    out[0] = '\0';
}
#endif

const char *ty_cpu_name(void) {
    static char name[49];
    static atomic_int state; /* 0 unknown, 1 being filled, 2 ready */
    int expected = 0;
    if (atomic_compare_exchange_strong(&state, &expected, 1)) {
        char raw[49] = {0};
        brand(raw);
        const char *s = raw + strspn(raw, " ");
        snprintf(name, sizeof name, "%s", *s ? s : "unknown CPU");
        for (size_t n = strlen(name); n > 0 && name[n - 1] == ' '; n--) name[n - 1] = '\0';
        atomic_store(&state, 2);
    }
    return atomic_load(&state) == 2 ? name : "unknown CPU";
}

const char *ty_cpu_kernels(void) {
    return ty_kernels_get()->name;
}

ty_status ty_cpu_check(ty_err *err) {
    const char *want = getenv("TYTO_CPU");
    if (!want || ty_kernels_named(want)) return ty_blas_wanted(NULL, err);
    char list[128] = "";
    size_t at = 0;
    bool runs = false;
    const ty_kernels *k;
    for (int i = 0; (k = ty_kernels_at(i, &runs)) != NULL; i++)
        if (runs && at < sizeof list)
            at += (size_t)snprintf(list + at, sizeof list - at, " %s", k->name);
    return ty_fail(err, TY_EINVAL,
                   "TYTO_CPU=%s: no such kernels on this machine; those that run here:%s", want,
                   list);
}

const char *ty_arithmetic(const char *compute) {
    static char text[160];
    snprintf(text, sizeof text, "%s %s %s " TYTO_VERSION, *compute ? compute : "-",
             ty_cpu_kernels(), ty_blas_name());
    return text;
}
