/*
 * train_log.h - what a run says about itself: OUT/log.jsonl, a line for each step, and on stderr a bar that
 * moves on a terminal, or a line now and then elsewhere.
 */
#ifndef TRAIN_TRAIN_LOG_H
#define TRAIN_TRAIN_LOG_H

#include "common/base/err.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

typedef struct {
    int64_t step;
    double epoch, loss, lr, grad_norm;
    int64_t tokens, targets, skipped;
    double flops; /* of the step, all ranks */
} train_line;

typedef struct {
    FILE *file;
    bool terminal;
    int64_t total, first, last_us, shown_us, start_us;
} train_log;

/* Lines of steps behind `step` go: they are done again. */
ty_status train_log_open(train_log *l, const char *out, int64_t step, int64_t total, ty_err *err);
ty_status train_log_step(train_log *l, const train_line *line, ty_err *err);
void train_log_close(train_log *l);

#endif
