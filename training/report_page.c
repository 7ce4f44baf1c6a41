/*
 * report_page.c - see report_page.h.  A curve is at most POINTS means over equal runs of steps, with the
 * span between smallest and largest behind it, so that a long run stays a small page and spikes stay visible.
 */
#include "training/report_page.h"
#include "common/base/buf.h"
#include "common/base/file.h"

#include <jansson.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { POINTS = 400, WIDTH = 760, HEIGHT = 240, LEFT = 70, RIGHT = 10, TOP = 10, BOTTOM = 30 };

static const struct {
    const char *key, *title;
} CURVES[] = {{"loss", "loss"},
              {"grad_norm", "norm of the gradient"},
              {"lr", "learning rate"},
              {"tokens_per_s", "tokens/s"},
              {"gflops", "GFLOP/s of matrix products"}};
enum { N_CURVE = sizeof CURVES / sizeof *CURVES };

static const char *const COLOUR[REPORT_RUNS] = {"#1f6fb4", "#d1622b", "#3a8f4d", "#8a4fb0",
                                                "#b03a4c", "#5c6470", "#b08a1e", "#1e9aa8"};

typedef struct {
    const char *name;
    double *step, *value[N_CURVE];
    double last_epoch, tokens, skipped, seconds;
    int n, cap;
} series;

static void series_clear(series *s) {
    free(s->step);
    for (int c = 0; c < N_CURVE; c++) free(s->value[c]);
}

static bool grow(double **x, int cap) {
    double *more = realloc(*x, (size_t)cap * sizeof *more);
    if (more) *x = more;
    return more != NULL;
}

static double number(const json_t *line, const char *key) {
    return json_number_value(json_object_get(line, key));
}

static ty_status add_line(series *s, const json_t *line, ty_err *err) {
    if (s->n == s->cap) {
        s->cap = s->cap ? 2 * s->cap : 1024;
        bool ok = grow(&s->step, s->cap);
        for (int c = 0; c < N_CURVE; c++) ok = grow(&s->value[c], s->cap) && ok;
        if (!ok) return ty_fail(err, TY_ENOMEM, "no memory for %d steps", s->cap);
    }
    s->step[s->n] = number(line, "step");
    for (int c = 0; c < N_CURVE; c++) s->value[c][s->n] = number(line, CURVES[c].key);
    s->last_epoch = number(line, "epoch");
    s->tokens += number(line, "tokens");
    s->skipped += number(line, "skipped");
    s->seconds += number(line, "seconds");
    s->n++;
    return TY_OK;
}

static ty_status read_run(series *s, const char *dir, ty_err *err) {
    char path[4200], *text = NULL;
    size_t size;
    int at = 0;
    s->name = dir;
    snprintf(path, sizeof path, "%s/log.jsonl", dir);
    ty_status st = ty_file_read(path, (size_t)4 << 30, &text, &size, err);
    if (st != TY_OK) return st;
    for (char *line = text, *end; st == TY_OK && (end = strchr(line, '\n')); line = end + 1) {
        json_t *o = json_loadb(line, (size_t)(end - line), 0, NULL);
        at++;
        st = json_is_object(o) && json_is_number(json_object_get(o, "step"))
                 ? add_line(s, o, err)
                 : ty_fail(err, TY_EFORMAT, "%s: line %d is no step of a run", path, at);
        json_decref(o);
    }
    free(text);
    if (st == TY_OK && s->n == 0) st = ty_fail(err, TY_EFORMAT, "%s has no steps yet", path);
    return st;
}

/* ---- the page ---- */

static void put_escaped(ty_buf *b, const char *text) {
    for (; *text; text++) {
        const char *as = *text == '<'   ? "&lt;"
                         : *text == '&' ? "&amp;"
                         : *text == '"' ? "&quot;"
                                        : NULL;
        if (as)
            ty_buf_puts(b, as);
        else
            ty_buf_append(b, text, 1);
    }
}

/* A drawing's axes: what its edges stand for. */
typedef struct {
    double x0, x1, y0, y1;
} frame;

static double x_of(const frame *f, double x) {
    return LEFT + (x - f->x0) / (f->x1 - f->x0) * (WIDTH - LEFT - RIGHT);
}
static double y_of(const frame *f, double y) {
    return HEIGHT - BOTTOM - (y - f->y0) / (f->y1 - f->y0) * (HEIGHT - TOP - BOTTOM);
}

static frame frame_of(const series *s, int n, int curve) {
    frame f = {HUGE_VAL, -HUGE_VAL, HUGE_VAL, -HUGE_VAL};
    for (int i = 0; i < n; i++)
        for (int k = 0; k < s[i].n; k++) {
            double y = s[i].value[curve][k];
            f.x0 = fmin(f.x0, s[i].step[k]);
            f.x1 = fmax(f.x1, s[i].step[k]);
            if (!isfinite(y)) continue;
            f.y0 = fmin(f.y0, y);
            f.y1 = fmax(f.y1, y);
        }
    if (!(f.x1 > f.x0)) f.x1 = f.x0 + 1;
    if (!(f.y1 > f.y0)) f.y1 = f.y0 + (f.y0 != 0 ? fabs(f.y0) : 1);
    return f;
}

/* Steps of 1, 2 or 5 times a power of ten, four to ten of them. */
static double tick(double span) {
    double power = pow(10, floor(log10(span)));
    return span / power < 2 ? power / 5 : span / power < 5 ? power / 2 : power;
}

static void put_axes(ty_buf *b, const frame *f) {
    double dy = tick(f->y1 - f->y0), dx = fmax(1, tick(f->x1 - f->x0));
    for (long k = lround(ceil(f->y0 / dy)); (double)k * dy <= f->y1; k++) {
        double y = (double)k * dy;
        ty_buf_printf(b,
                      "<line class=\"g\" x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\"/><text "
                      "x=\"%d\" y=\"%.1f\" "
                      "text-anchor=\"end\">%g</text>\n",
                      LEFT, WIDTH - RIGHT, y_of(f, y), y_of(f, y), LEFT - 6, y_of(f, y) + 4,
                      k == 0 ? 0 : y);
    }
    for (long k = lround(ceil(f->x0 / dx)); (double)k * dx <= f->x1; k++)
        ty_buf_printf(b, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%g</text>\n",
                      x_of(f, (double)k * dx), HEIGHT - 10, (double)k * dx);
}

static void put_curve(ty_buf *b, const frame *f, const series *s, int curve, const char *colour) {
    int per = (s->n + POINTS - 1) / POINTS, n = (s->n + per - 1) / per;
    double *low = malloc((size_t)n * sizeof *low);
    ty_buf line = ty_buf_make((size_t)1 << 20);
    if (!low) {
        b->failed = TY_ENOMEM;
        return;
    }
    ty_buf_puts(b, "<polygon points=\"");
    for (int i = 0; i < n; i++) {
        int first = i * per, end = first + per < s->n ? first + per : s->n;
        double sum = 0, high = -HUGE_VAL;
        low[i] = HUGE_VAL;
        for (int k = first; k < end; k++) {
            double y = fmin(fmax(s->value[curve][k], f->y0), f->y1);
            sum += y;
            low[i] = fmin(low[i], y);
            high = fmax(high, y);
        }
        ty_buf_printf(b, "%.1f,%.1f ", x_of(f, s->step[first]), y_of(f, high));
        ty_buf_printf(&line, "%.1f,%.1f ", x_of(f, s->step[first]), y_of(f, sum / (end - first)));
    }
    for (int i = n - 1; i >= 0; i--)
        ty_buf_printf(b, "%.1f,%.1f ", x_of(f, s->step[i * per]), y_of(f, low[i]));
    ty_buf_printf(b,
                  "\" fill=\"%s\" fill-opacity=\"0.2\"/>\n<polyline points=\"%s\" fill=\"none\" "
                  "stroke=\"%s\"/>\n",
                  colour, line.data ? line.data : "", colour);
    if (line.failed) b->failed = line.failed;
    ty_buf_clear(&line);
    free(low);
}

static void put_table(ty_buf *b, const series *s, int n) {
    ty_buf_puts(b, "<table><tr><th>run<th>steps<th>epochs<th>last "
                   "loss<th>lowest<th>tokens<th>hours<th>tokens/s<th>left "
                   "out</tr>\n");
    for (int i = 0; i < n; i++) {
        double lowest = HUGE_VAL;
        for (int k = 0; k < s[i].n; k++) lowest = fmin(lowest, s[i].value[0][k]);
        ty_buf_printf(b, "<tr><td style=\"color:%s\">", COLOUR[i]);
        put_escaped(b, s[i].name);
        ty_buf_printf(b, "<td>%.0f<td>%.2f<td>%.4f<td>%.4f<td>%.0f<td>%.2f<td>%.0f<td>%.0f</tr>\n",
                      s[i].step[s[i].n - 1], s[i].last_epoch, s[i].value[0][s[i].n - 1], lowest,
                      s[i].tokens, s[i].seconds / 3600,
                      s[i].seconds > 0 ? s[i].tokens / s[i].seconds : 0, s[i].skipped);
    }
    ty_buf_puts(b, "</table>\n");
}

static void put_page(ty_buf *b, const series *s, int n) {
    ty_buf_puts(b, "<!doctype html><meta charset=\"utf-8\"><title>Tyto: "
                   "training</title>\n<style>body{font:15px "
                   "sans-serif;margin:2em "
                   "auto;max-width:800px;color:#222;background:#fff}table{border-collapse:collapse}"
                   "td,th{padding:3px 10px;text-align:right;border-bottom:1px solid "
                   "#ddd}td:first-child,th:first-child{"
                   "text-align:left}svg{width:100%}svg "
                   "text{font-size:11px;fill:#666}.g{stroke:#e4e4e4}</style>\n"
                   "<h1>Training</h1>\n");
    put_table(b, s, n);
    for (int c = 0; c < N_CURVE; c++) {
        frame f = frame_of(s, n, c);
        ty_buf_printf(
            b,
            "<h2>%s</h2>\n<svg viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"%s over steps\">\n",
            CURVES[c].title, WIDTH, HEIGHT, CURVES[c].title);
        put_axes(b, &f);
        for (int i = 0; i < n; i++) put_curve(b, &f, &s[i], c, COLOUR[i]);
        ty_buf_puts(b, "</svg>\n");
    }
}

ty_status report_page(const char *const *run, int n, const char *out, ty_err *err) {
    series s[REPORT_RUNS] = {0};
    ty_buf page = ty_buf_make((size_t)64 << 20);
    ty_status st = TY_OK;
    if (n < 1 || n > REPORT_RUNS) return ty_fail(err, TY_EINVAL, "want 1 to %d runs", REPORT_RUNS);
    for (int i = 0; i < n && st == TY_OK; i++) st = read_run(&s[i], run[i], err);
    if (st == TY_OK) put_page(&page, s, n);
    if (st == TY_OK && page.failed) st = ty_fail(err, page.failed, "the page is too long");
    if (st == TY_OK) st = ty_file_write_atomic(out, page.data, page.len, err);
    for (int i = 0; i < n; i++) series_clear(&s[i]);
    ty_buf_clear(&page);
    return st;
}
