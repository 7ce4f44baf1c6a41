/* harness.c - see harness.h. */
#include "bench/harness.h"

#include "bench/limits.h"

#include "common/base/clock.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

void bench_stop(const char *what, const char *why) {
    fprintf(stderr, "bench: %s: %s\n", what, why);
    exit(1);
}

void bench_make_parents(const char *path) {
    char part[4096];
    if (strlen(path) >= sizeof part) bench_stop(path, "too long a path");
    for (const char *slash = path; (slash = strchr(slash, '/')); slash++) {
        if (slash == path) continue;
        snprintf(part, sizeof part, "%.*s", (int)(slash - path), path);
        if (mkdir(part, 0777) != 0 && errno != EEXIST) bench_stop(part, strerror(errno));
    }
}

bool bench_wanted(const char *only, const char *what) {
    return !*only || strcmp(only, what) == 0;
}

float *bench_floats(size_t n) {
    float *x = malloc(n * sizeof *x);
    uint32_t state = 1;
    if (!x) bench_stop("numbers", "out of memory");
    for (size_t i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u; /* Numerical Recipes' generator */
        x[i] = (float)(state >> 8) / (float)(1 << 23) - 1;
    }
    return x;
}

void bench_model(char *dir, size_t size, const char *tyto, const char *models, const char *name,
                 const char *const *args) {
    const char *argv[24] = {tyto, "synth", dir};
    int n = 3, status = 0;
    snprintf(dir, size, "%s/%s", models, name);
    if (access(dir, F_OK) == 0) return;
    while (*args && n < 23) argv[n++] = *args++;
    bench_make_parents(dir);
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        if (freopen("/dev/null", "w", stdout)) execv(tyto, (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    if (pid < 0) bench_stop("fork", strerror(errno));
    if (waitpid(pid, &status, 0) != pid || status != 0)
        bench_stop(tyto, "synth failed; run make first");
}

bench_time bench_best_of(int n, void (*run)(void *), void *ctx) {
    double best = 1e30, sum = 0;
    run(ctx);
    double cpu = limits_cpu_seconds();
    for (int i = 0; i < n; i++) {
        int64_t t = ty_now_us();
        run(ctx);
        double ms = (double)(ty_now_us() - t) * 1e-3;
        sum += ms;
        if (ms < best) best = ms;
    }
    return (bench_time){best, (limits_cpu_seconds() - cpu) * 1e3 / sum};
}
