/*
 * report_page.h - a page of curves from the logs of training runs: one file, no scripts, nothing fetched.
 */
#ifndef TRAIN_REPORT_PAGE_H
#define TRAIN_REPORT_PAGE_H

#include "common/base/err.h"

enum { REPORT_RUNS = 8 };

/* Reads run[i]/log.jsonl, n <= REPORT_RUNS, and writes the page.  A last line that was cut is left out.
 * Fails: TY_ENOTFOUND, TY_EFORMAT (a line, by number), TY_EIO. */
ty_status report_page(const char *const *run, int n, const char *out, ty_err *err);

#endif
