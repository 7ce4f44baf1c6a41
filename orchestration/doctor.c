/*
 * doctor.c - `tyto doctor`: can this machine run Tyto, and this pipeline?  One line for each thing looked
 * at: ok, warn or FAIL, with the remedy.  Exit code 1 when a line says FAIL.
 */
#include "orchestration/commands.h"
#include "orchestration/fleet.h"

#include "common/base/options.h"
#include "common/math/cpu.h"

#include <dlfcn.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

typedef struct {
    int warnings, failures;
} findings;

typedef enum { GOOD, WARN, BAD } verdict;

/* Adds " <prefix><word>" to a list, as far as there is room. */
static void add_word(char *list, size_t size, const char *prefix, const char *word) {
    size_t n = strlen(list);
    snprintf(list + n, size - n, " %s%s", prefix, word);
}

__attribute__((format(printf, 4, 5))) static void say(findings *f, verdict v, const char *what,
                                                      const char *fmt, ...) {
    static const char *const words[] = {"ok  ", "warn", "FAIL"};
    va_list ap;
    f->warnings += v == WARN;
    f->failures += v == BAD;
    printf("%s  %-10s ", words[v], what);
    va_start(ap, fmt);
    vprintf(fmt, ap);
    va_end(ap);
    putchar('\n');
}

/* ---- the machine ---- */

static void check_machine(findings *f) {
    struct utsname u;
    cpu_set_t set;
    int cores = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 0;
    if (uname(&u) == 0) say(f, GOOD, "system", "%s %s %s", u.sysname, u.release, u.machine);
    say(f, cores > 1 ? GOOD : WARN, "cores", "%d%s", cores,
        cores > 1 ? "" : ": the stages share one core; expect slow answers");
}

static void check_cpu(findings *f) {
    ty_err err = {0};
    const char *kernels = ty_cpu_kernels();
    bool slow = strcmp(kernels, "ref") == 0;
    say(f, slow ? WARN : GOOD, "cpu", "%s, kernels: %s%s", ty_cpu_name(), kernels,
        slow ? " (plain C: no AVX2 here, or TYTO_CPU=ref; correct but slow)" : "");
    if (ty_cpu_check(&err) != TY_OK) say(f, BAD, "cpu", "%s", err.text);
}

/* One number of /proc/meminfo, in bytes; -1 when it is not there. */
static int64_t meminfo(const char *key) {
    char line[256];
    long long kib = -1;
    FILE *in = fopen("/proc/meminfo", "re");
    if (!in) return -1;
    size_t n = strlen(key);
    while (kib < 0 && fgets(line, sizeof(line), in))
        if (strncmp(line, key, n) == 0 && line[n] == ':') kib = strtoll(line + n + 1, NULL, 10);
    fclose(in);
    return kib < 0 ? -1 : kib * 1024;
}

static double gib(int64_t bytes) {
    return (double)bytes / (1 << 30);
}

/* A container may have less than the machine (cgroup v2). */
static int64_t memory_available(void) {
    int64_t here = meminfo("MemAvailable");
    long long limit = -1, used = -1;
    FILE *in = fopen("/sys/fs/cgroup/memory.max", "re");
    if (in) {
        if (fscanf(in, "%lld", &limit) != 1) limit = -1; /* "max" */
        fclose(in);
    }
    in = limit > 0 ? fopen("/sys/fs/cgroup/memory.current", "re") : NULL;
    if (in) {
        if (fscanf(in, "%lld", &used) != 1) used = -1;
        fclose(in);
    }
    if (used >= 0 && limit - used < here) return limit - used;
    return here;
}

static void check_memory(findings *f) {
    int64_t all = meminfo("MemTotal"), available = memory_available();
    if (all < 0 || available < 0)
        say(f, WARN, "memory", "/proc/meminfo cannot be read");
    else
        say(f, GOOD, "memory", "%.1f GiB, %.1f GiB available", gib(all), gib(available));
}

static void check_files_limit(findings *f) {
    struct rlimit r;
    if (getrlimit(RLIMIT_NOFILE, &r) != 0) return;
    bool few = r.rlim_cur < 1024;
    say(f, few ? WARN : GOOD, "files", "%llu open files allowed%s", (unsigned long long)r.rlim_cur,
        few ? ": many clients need more; `ulimit -n 4096`" : "");
}

/* ---- software ---- */

static bool installed(const char *package) {
    char command[256];
    snprintf(command, sizeof(command),
             "dpkg-query -W -f='${db:Status-Status}' '%.100s' 2>/dev/null | grep -qx installed",
             package);
    return system(command) == 0; /* NOLINT: the names are packages.txt's, checked below */
}

static bool plain_name(const char *s) {
    return *s && s[strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789.+-")] == '\0';
}

/* packages.txt of the source tree that the program was built in: build/[mode/]bin/tyto. */
static FILE *open_packages(const char *bin_dir) {
    static const char *const up[] = {"..", "../..", "../../.."};
    for (int i = 0; i < 3; i++) {
        char path[STATE_PATH + 64];
        snprintf(path, sizeof(path), "%s/%s/packages.txt", bin_dir, up[i]);
        FILE *in = fopen(path, "re");
        if (in) return in;
    }
    return NULL;
}

static void check_packages(findings *f, const char *bin_dir) {
    char line[128], missing[2048] = "";
    int n = 0, n_missing = 0;
    FILE *in = open_packages(bin_dir);
    if (!in) {
        say(f, GOOD, "packages",
            "no source tree here: only the libraries are needed, and they are loaded");
        return;
    }
    bool debian = access("/usr/bin/dpkg-query", X_OK) == 0;
    while (debian && fgets(line, sizeof(line), in)) {
        line[strcspn(line, " \r\n")] = '\0';
        if (!plain_name(line)) continue;
        n++;
        if (installed(line) || strlen(missing) + strlen(line) + 2 > sizeof(missing)) continue;
        n_missing++;
        add_word(missing, sizeof(missing), "", line);
    }
    fclose(in);
    if (!debian)
        say(f, WARN, "packages", "not a Debian system: see packages.txt for what is needed");
    else if (n_missing > 0)
        say(f, WARN, "packages", "%d of %d are missing: apt-get install%s", n_missing, n, missing);
    else
        say(f, GOOD, "packages", "all %d of packages.txt are installed", n);
}

static void check_openblas(findings *f) {
    static const char *const names[] = {"libopenblas.so.0", "libopenblas.so"};
    for (int i = 0; i < 2; i++) {
        void *h = dlopen(names[i], RTLD_LAZY | RTLD_LOCAL);
        if (!h) continue;
        char *(*config)(void);
        *(void **)&config = dlsym(h, "openblas_get_config");
        say(f, GOOD, "openblas", "%s", config ? config() : names[i]);
        dlclose(h);
        return;
    }
    say(f, WARN, "openblas",
        "not found: large f32 products use our own kernels; apt-get install libopenblas0-pthread");
}

static void check_programs(findings *f, const char *bin_dir) {
    static const char *const names[] = {"broker", "gateway",    "preprocess",
                                        "vit",    "abstractor", "decoder"};
    char missing[256] = "";
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        char path[STATE_PATH + 64];
        snprintf(path, sizeof(path), "%s/tyto-%s", bin_dir, names[i]);
        if (access(path, X_OK) != 0) add_word(missing, sizeof(missing), "tyto-", names[i]);
    }
    if (*missing)
        say(f, BAD, "programs", "missing in %s:%s; build them with `make`", bin_dir, missing);
    else
        say(f, GOOD, "programs", "all beside tyto in %s", bin_dir);
}

static void check_redis(findings *f) {
    char program[STATE_PATH];
    if (stores_find_server("redis-server", program))
        say(f, GOOD, "redis", "%s", program);
    else
        say(f, WARN, "redis",
            "redis-server is not found: `tyto up` needs it for conversations and the cache; "
            "apt-get "
            "install redis-server, or name servers with TYTO_REDIS_URL and TYTO_CACHE_URL");
}

/* ---- what would run ---- */

static void check_port(findings *f, const char *listen) {
    fleet fl = {0};
    ty_err err = {0};
    ty_status st = fleet_parse_listen(&fl, listen, &err);
    if (st == TY_OK) st = fleet_check_ports(&fl, &err);
    if (st == TY_OK)
        say(f, GOOD, "port", "%s is free", listen);
    else
        say(f, WARN, "port", "%s", err.text);
}

static void check_state(findings *f, const char *given) {
    char dir[STATE_PATH];
    ty_err err = {0};
    pid_t pid;
    if (state_resolve(given, dir, &err) != TY_OK)
        say(f, BAD, "state", "%s", err.text);
    else if (state_owner(dir, &pid, &err) == TY_OK)
        say(f, WARN, "state", "%s is in use by a running `tyto up` (pid %d)", dir, (int)pid);
    else
        say(f, GOOD, "state", "%s is free", dir);
}

static void check_pipeline(findings *f, const char *dir) {
    ty_err err = {0};
    int64_t bytes = 0, available = memory_available();
    ty_pipeline *p = calloc(1, sizeof(*p));
    if (!p || ty_pipeline_load(p, dir, &err) != TY_OK) {
        say(f, BAD, "pipeline", "%s", p ? err.text : "out of memory");
        free(p);
        return;
    }
    say(f, GOOD, "pipeline", "%s (%s)", p->name, p->family);
    for (int k = 0; k < TY_STAGE_COUNT; k++) {
        struct stat sb;
        if (!p->path[k][0] || stat(p->path[k], &sb) != 0) continue;
        bytes += sb.st_size;
        say(f, GOOD, ty_stage_name((ty_stage_kind)k), "%.1f MiB, %s",
            (double)sb.st_size / (1 << 20), p->model_id[k]);
    }
    /* weights are repacked at load: about the file's size again, for each process of a stage */
    if (available >= 0 && bytes > available)
        say(f, BAD, "memory",
            "the weights are %.1f GiB, %.1f GiB are available: import with --type q8_0 or q4_0",
            gib(bytes), gib(available));
    else if (available >= 0 && bytes + bytes / 2 > available)
        say(f, WARN, "memory",
            "the weights are %.1f GiB of %.1f GiB available: little is left for KV", gib(bytes),
            gib(available));
    free(p);
}

int cmd_doctor(int argc, char **argv) {
    static struct { const char *pipeline, *listen, *state; } opt;
    static const ty_option table[] = {
        TY_OPT_STR("pipeline", "TYTO_PIPELINE", opt.pipeline, NULL, "DIR", "look at this one too"),
        TY_OPT_STR("listen", "TYTO_LISTEN", opt.listen, "127.0.0.1:8080", "HOST:PORT",
                   "address to look at"),
        TY_OPT_STR("state", "TYTO_STATE", opt.state, NULL, "DIR", "state directory to look at"),
        TY_OPT_END};
    ty_options_next next = ty_options_parse(
        table, "tyto doctor [--pipeline DIR]",
        "Looks at what Tyto needs on this machine and says what is missing.", argc, argv, NULL);
    if (next != TY_OPTIONS_GO) return next == TY_OPTIONS_DONE ? 0 : 2;
    findings f = {0};
    char bin_dir[STATE_PATH];
    ty_err err = {0};
    printf("tyto %s\n", TYTO_VERSION);
    check_machine(&f);
    check_cpu(&f);
    check_memory(&f);
    check_files_limit(&f);
    if (fleet_bin_dir(bin_dir, &err) == TY_OK) {
        check_packages(&f, bin_dir);
        check_programs(&f, bin_dir);
    }
    check_openblas(&f);
    check_redis(&f);
    check_state(&f, opt.state);
    check_port(&f, opt.listen);
    if (opt.pipeline) check_pipeline(&f, opt.pipeline);
    printf("%d failed, %d warnings\n", f.failures, f.warnings);
    return f.failures > 0;
}
