/* progress.c - see progress.h. */
#include "orchestration/progress.h"

#include "common/base/clock.h"

#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

enum { WIDTH = 30, REDRAW_US = 50000 };

static void wipe(progress *p) {
    if (p->drawn) fputs("\r\033[K", stderr);
    p->drawn = false;
}

static void draw(progress *p, const char *what) {
    static const char full[] = "##############################";
    static const char none[] = "..............................";
    double part = p->total ? (double)p->done / (double)p->total : 1;
    int n = (int)(part * WIDTH);
    fprintf(stderr, "\r\033[K[%.*s%.*s] %3.0f %%  %.0f of %.0f MiB  %.48s", n, full, WIDTH - n,
            none, part * 100, (double)p->done / 1048576, (double)p->total / 1048576, what);
    p->drawn = true;
}

void progress_start(progress *p, uint64_t total_bytes) {
    *p = (progress){.total = total_bytes, .terminal = isatty(STDERR_FILENO) == 1};
}

void progress_add(progress *p, uint64_t bytes, const char *what) {
    p->done += bytes;
    int64_t now = ty_now_us();
    if (!p->terminal || now - p->last_us < REDRAW_US) return;
    p->last_us = now;
    draw(p, what);
}

void progress_line(progress *p, const char *fmt, ...) {
    va_list ap;
    wipe(p);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
}

void progress_end(progress *p) {
    wipe(p);
}
