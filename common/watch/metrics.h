/*
 * metrics.h - counters, gauges and histograms in Prometheus' text format 0.0.4.
 *
 *     ty_metrics *m = ty_metrics_create();
 *     ty_metric *f = ty_metrics_counter(m, "tyto_requests_total", "Requests by status code.", "code");
 *     ty_metric_add(f, 1, TY_LABELS("200"));
 *     ty_metrics_write(m, &buf);
 *
 * A family has its label names once; each new combination of label values makes a series, up to
 * TY_METRIC_SERIES_MAX (what comes after is dropped, so that no input can grow the registry without
 * end).  A family lives as long as its registry.  One thread.
 *
 * Names of metrics and labels are the program's own; a name outside Prometheus' alphabet is refused.
 * Help texts and label values may hold any bytes: they are escaped.
 */
#ifndef TY_WATCH_METRICS_H
#define TY_WATCH_METRICS_H

#include "common/base/buf.h"

enum { TY_METRIC_LABELS_MAX = 4, TY_METRIC_BUCKETS_MAX = 24, TY_METRIC_SERIES_MAX = 512 };

typedef struct ty_metrics ty_metrics;
typedef struct ty_metric ty_metric;

/* Label values in the order of the family's names. */
#define TY_LABELS(...) ((const char *const[]){__VA_ARGS__})

ty_metrics *ty_metrics_create(void); /* NULL: out of memory */
void ty_metrics_destroy(ty_metrics **m);

/* labels: names with commas between ("stage,model"), NULL or "" for none.  NULL: out of memory, a bad
 * name, or a name that is there already.  The functions on a NULL family do nothing. */
ty_metric *ty_metrics_counter(ty_metrics *m, const char *name, const char *help,
                              const char *labels);
ty_metric *ty_metrics_gauge(ty_metrics *m, const char *name, const char *help, const char *labels);
/* bounds: ascending upper bounds (inclusive), without +Inf. */
ty_metric *ty_metrics_histogram(ty_metrics *m, const char *name, const char *help,
                                const char *labels, const double *bounds, int n_bound);

/* values may be NULL for a family without labels; a NULL value is "". */
void ty_metric_add(ty_metric *f, double amount, const char *const *values); /* counter, gauge */
void ty_metric_set(ty_metric *f, double value, const char *const *values);  /* gauge */
void ty_metric_observe(ty_metric *f, double value, const char *const *values);
/* Forgets every series of a gauge: what is not set again is gone from the text. */
void ty_metric_reset(ty_metric *f);

/* Appends the whole exposition: HELP, TYPE and samples of each family, in order of creation. */
ty_status ty_metrics_write(const ty_metrics *m, ty_buf *out);

#endif
