/* metrics.c - see metrics.h.  Series are found by a linear search: a family has a handful. */
#include "common/watch/metrics.h"

#include <ctype.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef enum { COUNTER, GAUGE, HISTOGRAM } kind;
static const char *const kind_names[] = {"counter", "gauge", "histogram"};

typedef struct {
    char *value[TY_METRIC_LABELS_MAX];
    double number;    /* counter, gauge; histogram: the sum */
    uint64_t count;   /* histogram */
    uint64_t *bucket; /* histogram: observations per bound, not accumulated; last is +Inf */
} series;

struct ty_metric {
    kind kind;
    char *name, *help, *labels;
    const char *label[TY_METRIC_LABELS_MAX]; /* into labels */
    int n_label;
    double bound[TY_METRIC_BUCKETS_MAX];
    int n_bound;
    series *series;
    int n, cap;
    ty_metric *next;
};

struct ty_metrics {
    ty_metric *first, *last;
};

ty_metrics *ty_metrics_create(void) {
    return calloc(1, sizeof(ty_metrics));
}

static void series_clear(series *s) {
    for (int i = 0; i < TY_METRIC_LABELS_MAX; i++) free(s->value[i]);
    free(s->bucket);
}

static void family_destroy(ty_metric *f) {
    if (!f) return;
    ty_metric_reset(f);
    free(f->series);
    free(f->name);
    free(f->help);
    free(f->labels);
    free(f);
}

void ty_metrics_destroy(ty_metrics **m) {
    if (!m || !*m) return;
    for (ty_metric *f = (*m)->first, *next; f; f = next) {
        next = f->next;
        family_destroy(f);
    }
    free(*m);
    *m = NULL;
}

static bool name_ok(const char *name, bool colon) {
    if (!*name || isdigit((unsigned char)*name)) return false;
    for (const char *p = name; *p; p++)
        if (!isalnum((unsigned char)*p) && *p != '_' && !(colon && *p == ':')) return false;
    return true;
}

/* Cuts "a,b" into f->label. */
static bool split_labels(ty_metric *f) {
    char *save = NULL;
    for (char *p = strtok_r(f->labels, ",", &save); p; p = strtok_r(NULL, ",", &save)) {
        if (f->n_label == TY_METRIC_LABELS_MAX || !name_ok(p, false)) return false;
        f->label[f->n_label++] = p;
    }
    return true;
}

static ty_metric *family_create(ty_metrics *m, kind k, const char *name, const char *help,
                                const char *labels) {
    if (!m || !name_ok(name, true)) return NULL;
    for (ty_metric *f = m->first; f; f = f->next)
        if (strcmp(f->name, name) == 0) return NULL;
    ty_metric *f = calloc(1, sizeof(*f));
    if (!f) return NULL;
    f->kind = k;
    f->name = strdup(name);
    f->help = strdup(help);
    f->labels = strdup(labels ? labels : "");
    if (!f->name || !f->help || !f->labels || !split_labels(f)) {
        family_destroy(f);
        return NULL;
    }
    if (m->last)
        m->last->next = f;
    else
        m->first = f;
    m->last = f;
    return f;
}

ty_metric *ty_metrics_counter(ty_metrics *m, const char *name, const char *help,
                              const char *labels) {
    return family_create(m, COUNTER, name, help, labels);
}

ty_metric *ty_metrics_gauge(ty_metrics *m, const char *name, const char *help, const char *labels) {
    return family_create(m, GAUGE, name, help, labels);
}

ty_metric *ty_metrics_histogram(ty_metrics *m, const char *name, const char *help,
                                const char *labels, const double *bounds, int n_bound) {
    if (n_bound < 1 || n_bound > TY_METRIC_BUCKETS_MAX) return NULL;
    for (int i = 1; i < n_bound; i++)
        if (!(bounds[i] > bounds[i - 1])) return NULL;
    ty_metric *f = family_create(m, HISTOGRAM, name, help, labels);
    if (!f) return NULL;
    memcpy(f->bound, bounds, (size_t)n_bound * sizeof(*bounds));
    f->n_bound = n_bound;
    return f;
}

static const char *label_value(const char *const *values, int i) {
    return values && values[i] ? values[i] : "";
}

static bool same_labels(const ty_metric *f, const series *s, const char *const *values) {
    for (int i = 0; i < f->n_label; i++)
        if (strcmp(s->value[i], label_value(values, i)) != 0) return false;
    return true;
}

static bool grow(ty_metric *f) {
    if (f->n < f->cap) return true;
    int cap = f->cap ? 2 * f->cap : 4;
    series *p = realloc(f->series, (size_t)cap * sizeof(*p));
    if (!p) return false;
    f->series = p;
    f->cap = cap;
    return true;
}

static series *series_create(ty_metric *f, const char *const *values) {
    if (f->n >= TY_METRIC_SERIES_MAX || !grow(f)) return NULL;
    series *s = &f->series[f->n];
    *s = (series){0};
    bool ok = true;
    for (int i = 0; i < f->n_label; i++) {
        s->value[i] = strdup(label_value(values, i));
        ok = ok && s->value[i];
    }
    if (f->kind == HISTOGRAM) {
        s->bucket = calloc((size_t)f->n_bound + 1, sizeof(*s->bucket));
        ok = ok && s->bucket;
    }
    if (!ok) {
        series_clear(s);
        return NULL;
    }
    f->n++;
    return s;
}

static series *series_find(ty_metric *f, const char *const *values) {
    for (int i = 0; i < f->n; i++)
        if (same_labels(f, &f->series[i], values)) return &f->series[i];
    return series_create(f, values);
}

void ty_metric_add(ty_metric *f, double amount, const char *const *values) {
    if (!f || f->kind == HISTOGRAM || (f->kind == COUNTER && !(amount >= 0))) return;
    series *s = series_find(f, values);
    if (s) s->number += amount;
}

void ty_metric_set(ty_metric *f, double value, const char *const *values) {
    if (!f || f->kind != GAUGE) return;
    series *s = series_find(f, values);
    if (s) s->number = value;
}

void ty_metric_observe(ty_metric *f, double value, const char *const *values) {
    if (!f || f->kind != HISTOGRAM || isnan(value)) return;
    series *s = series_find(f, values);
    if (!s) return;
    int i = 0;
    while (i < f->n_bound && value > f->bound[i]) i++;
    s->bucket[i]++;
    s->count++;
    s->number += value;
}

void ty_metric_reset(ty_metric *f) {
    if (!f) return;
    for (int i = 0; i < f->n; i++) series_clear(&f->series[i]);
    f->n = 0;
}

/* Backslash and newline always, the quote in label values only. */
static void put_escaped(ty_buf *out, const char *text, bool quote) {
    for (const char *p = text; *p; p++) {
        if (*p == '\\')
            ty_buf_puts(out, "\\\\");
        else if (*p == '\n')
            ty_buf_puts(out, "\\n");
        else if (*p == '"' && quote)
            ty_buf_puts(out, "\\\"");
        else
            ty_buf_append(out, p, 1);
    }
}

static void put_number(ty_buf *out, double v) {
    if (isinf(v))
        ty_buf_puts(out, v > 0 ? "+Inf" : "-Inf");
    else if (isnan(v))
        ty_buf_puts(out, "NaN");
    else if (v == floor(v) && fabs(v) < 1e15)
        ty_buf_printf(out, "%.0f", v);
    else
        ty_buf_printf(out, "%.9g", v);
}

/* name_suffix{labels,le="..."} value; le NULL: none */
static void put_sample(ty_buf *out, const ty_metric *f, const series *s, const char *suffix,
                       const double *le, double value) {
    ty_buf_printf(out, "%s%s", f->name, suffix);
    bool open = false;
    for (int i = 0; i < f->n_label; i++) {
        ty_buf_printf(out, "%s%s=\"", open ? "," : "{", f->label[i]);
        put_escaped(out, s->value[i], true);
        ty_buf_puts(out, "\"");
        open = true;
    }
    if (le) {
        ty_buf_printf(out, "%sle=\"", open ? "," : "{");
        put_number(out, *le);
        ty_buf_puts(out, "\"");
        open = true;
    }
    ty_buf_puts(out, open ? "} " : " ");
    put_number(out, value);
    ty_buf_puts(out, "\n");
}

static void put_histogram(ty_buf *out, const ty_metric *f, const series *s) {
    uint64_t sum = 0;
    double inf = (double)INFINITY;
    for (int i = 0; i <= f->n_bound; i++) {
        sum += s->bucket[i];
        put_sample(out, f, s, "_bucket", i < f->n_bound ? &f->bound[i] : &inf, (double)sum);
    }
    put_sample(out, f, s, "_sum", NULL, s->number);
    put_sample(out, f, s, "_count", NULL, (double)s->count);
}

ty_status ty_metrics_write(const ty_metrics *m, ty_buf *out) {
    for (const ty_metric *f = m->first; f; f = f->next) {
        ty_buf_printf(out, "# HELP %s ", f->name);
        put_escaped(out, f->help, false);
        ty_buf_printf(out, "\n# TYPE %s %s\n", f->name, kind_names[f->kind]);
        for (int i = 0; i < f->n; i++) {
            if (f->kind == HISTOGRAM)
                put_histogram(out, f, &f->series[i]);
            else
                put_sample(out, f, &f->series[i], "", NULL, f->series[i].number);
        }
    }
    return out->failed;
}
