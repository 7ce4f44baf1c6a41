/* report.h - a bench's rows: a table on stdout while it runs, and JSON for machines at the end. */
#ifndef TY_BENCH_REPORT_H
#define TY_BENCH_REPORT_H

#include "bench/limits.h"

typedef struct report report;

typedef struct {
    const char *group; /* "ViT-L/14", "7B decode" */
    const char *name;  /* "qkv 257x3072x1024 f32" */
    double ms;         /* best of the repetitions */
    double cores; /* CPU time of that run over its wall time: under the threads = others ran too */
    double ops;   /* operations of one run; 0 = not counted */
    double bytes; /* read from memory by one run, as far as it is the limit; 0 = not counted */
    double peak_gops; /* what ops are compared with; 0 = nothing */
    double read_gbs;  /* what bytes are compared with, measured in the same minute; 0 = nothing */
    double floor;     /* wanted share of the peak (or of the read rate), 0..1; 0 = none */
} report_row;

report *report_open(const limits *l, int threads);
void report_add(report *r, const report_row *row);
/* A sentence between the rows. */
void report_note(report *r, const char *text);
/* Writes path (its folder is made) and says how many floors were missed: the return value, -1 when the
 * file could not be written. */
int report_close(report *r, const char *path);

#endif
