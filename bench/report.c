/* report.c - prints the rows and keeps them as JSON. */
#include "bench/report.h"

#include "bench/harness.h"

#include "common/math/blas.h"
#include "common/math/cpu.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>

struct report {
    json_t *root, *rows; /* rows is borrowed from root */
    char group[64];
    int missed;
};

static double round3(double x) {
    char text[40];
    snprintf(text, sizeof text, "%.4g", x);
    return strtod(text, NULL);
}

static void put(json_t *o, const char *key, double x) {
    json_object_set_new(o, key, json_real(round3(x)));
}

static double load_average(void) {
    double load[1] = {0};
    return getloadavg(load, 1) == 1 ? load[0] : 0;
}

report *report_open(const limits *l, int threads) {
    report *r = calloc(1, sizeof *r);
    if (!r) return NULL;
    r->root = json_object();
    r->rows = json_array();
    json_object_set_new(r->root, "cpu", json_string(ty_cpu_name()));
    json_object_set_new(r->root, "kernels", json_string(ty_cpu_kernels()));
    json_object_set_new(r->root, "threads", json_integer(threads));
    json_object_set_new(r->root, "int8_peak_is", json_string(l->int8_idiom));
    put(r->root, "f32_peak_gflops", l->f32_gflops);
    put(r->root, "int8_peak_gops", l->int8_gops);
    put(r->root, "read_gbs_1_thread", l->read_gbs_1);
    put(r->root, "read_gbs", l->read_gbs);
    put(r->root, "load_at_start", load_average());
    json_object_set_new(r->root, "peer", json_string(ty_blas_name()));
    json_object_set_new(r->root, "rows", r->rows);
    printf("%s, kernels %s, %d threads, load %.1f\n", ty_cpu_name(), ty_cpu_kernels(), threads,
           load_average());
    printf("peaks measured now: f32 %.0f GFLOP/s, int8 %.0f GOP/s (%s), read %.1f GB/s (1 thread "
           "%.1f)\n",
           l->f32_gflops, l->int8_gops, l->int8_idiom, l->read_gbs, l->read_gbs_1);
    return r;
}

static void print_group(report *r, const char *group) {
    if (strcmp(r->group, group) == 0) return;
    snprintf(r->group, sizeof r->group, "%s", group);
    printf("\n%-44s %9s %6s %8s %7s %8s %7s\n", group, "ms", "cores", "GFLOP/s", "peak", "GB/s",
           "read");
}

static void print_share(double rate, double of) {
    if (rate > 0)
        printf(" %8.1f", rate);
    else
        printf(" %8s", "");
    if (rate > 0 && of > 0)
        printf(" %5.0f %%", 100 * rate / of);
    else
        printf(" %7s", "");
}

void report_add(report *r, const report_row *row) {
    double gops = row->ops / row->ms * 1e-6, gbs = row->bytes / row->ms * 1e-6;
    double share = row->peak_gops > 0 ? gops / row->peak_gops : 0;
    double read = row->read_gbs > 0 ? gbs / row->read_gbs : 0;
    double judged = row->read_gbs > 0 ? read : share;
    int missed = row->floor > 0 && judged < row->floor;
    json_t *o = json_object();
    print_group(r, row->group);
    printf("%-44s %9.3f %6.2f", row->name, row->ms, row->cores);
    print_share(gops, row->peak_gops);
    print_share(gbs, row->read_gbs);
    if (row->floor > 0) printf("  floor %.0f %%%s", 100 * row->floor, missed ? ": MISSED" : "");
    printf("\n");
    fflush(stdout);
    json_object_set_new(o, "group", json_string(row->group));
    json_object_set_new(o, "name", json_string(row->name));
    put(o, "ms", row->ms);
    put(o, "cores", row->cores);
    if (row->ops > 0) put(o, "gops", gops);
    if (share > 0) put(o, "share_of_peak", share);
    if (row->bytes > 0) put(o, "gbs", gbs);
    if (read > 0) put(o, "share_of_read", read);
    if (row->floor > 0) put(o, "floor", row->floor);
    json_array_append_new(r->rows, o);
    r->missed += missed;
}

void report_note(report *r, const char *text) {
    (void)r;
    printf("  %s\n", text);
}

int report_close(report *r, const char *path) {
    int missed = r->missed;
    put(r->root, "load_at_end", load_average());
    bench_make_parents(path);
    if (json_dump_file(r->root, path, JSON_INDENT(1)) != 0) {
        fprintf(stderr, "bench: write %s: %s\n", path, strerror(errno));
        missed = -1;
    } else {
        printf("\nwritten to %s; %d floors missed\n", path, missed);
    }
    json_decref(r->root);
    free(r);
    return missed;
}
