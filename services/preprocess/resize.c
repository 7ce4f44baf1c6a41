/* resize.c - see resize.h. */
#include "services/preprocess/resize.h"

#include "common/base/clock.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum {
    FRACTION_BITS = 22,
    SUPPORT = 2,
    LOW_BITS = 15, /* of a fixed-point weight, apart from the others */
    LANES = 8,     /* taps are padded to a multiple of it */
    DOT_RUN = 256, /* x 255 x 2^LOW_BITS is below 2^31 */
};

/* One direction: output element i of the window is a weighted sum of the count[i] inputs from
 * first[i]; its weights start at i * width. */
typedef struct {
    int n, width;
    int *first, *count;
    double *weight;
    int32_t *fixed;      /* weight in fixed point; NULL for 16-bit pictures */
    int16_t *low, *high; /* fixed = low + 2^LOW_BITS high, for the pass along the rows */
} taps;

static void taps_clear(taps *t) {
    free(t->first);
    free(t->count);
    free(t->weight);
    free(t->fixed);
    free(t->low);
    free(t->high);
    memset(t, 0, sizeof *t);
}

static double cubic(double x) {
    const double a = -0.5;
    x = fabs(x);
    if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
    if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * a;
    return 0.0;
}

static void fill_weights(taps *t, int i, double center, double widen) {
    double *w = t->weight + (size_t)i * (size_t)t->width, sum = 0;
    double narrow = 1.0 / widen;
    for (int k = 0; k < t->count[i]; k++) {
        w[k] = cubic((k + t->first[i] - center + 0.5) * narrow);
        sum += w[k];
    }
    for (int k = 0; k < t->count[i]; k++)
        if (sum != 0.0) w[k] /= sum;
}

static int32_t to_fixed(double w) {
    double scaled = w * (1 << FRACTION_BITS);
    return (int32_t)(w < 0 ? scaled - 0.5 : scaled + 0.5);
}

static ty_status fix_weights(taps *t, ty_err *err) {
    size_t n = (size_t)t->n * (size_t)t->width;
    t->fixed = malloc(n * sizeof *t->fixed);
    if (!t->fixed) return ty_fail(err, TY_ENOMEM, "resize: no memory for %zu weights", n);
    for (size_t k = 0; k < n; k++) t->fixed[k] = to_fixed(t->weight[k]);
    free(t->weight);
    t->weight = NULL;
    return TY_OK;
}

static ty_status split_weights(taps *t, ty_err *err) {
    size_t n = (size_t)t->n * (size_t)t->width;
    t->low = malloc(n * sizeof *t->low);
    t->high = malloc(n * sizeof *t->high);
    if (!t->low || !t->high) return ty_fail(err, TY_ENOMEM, "resize: no memory for %zu weights", n);
    for (size_t k = 0; k < n; k++) {
        t->low[k] = (int16_t)(t->fixed[k] & ((1 << LOW_BITS) - 1));
        t->high[k] = (int16_t)((t->fixed[k] - t->low[k]) / (1 << LOW_BITS));
    }
    return TY_OK;
}

/* Taps of the n outputs from `from` on, when in_size becomes out_size. */
static ty_status taps_init(taps *t, int in_size, int out_size, int from, int n, bool fixed,
                           ty_err *err) {
    double scale = (double)in_size / out_size;
    double widen = scale < 1.0 ? 1.0 : scale;
    double support = SUPPORT * widen;
    t->n = n;
    t->width = ((int)ceil(support) * 2 + 1 + LANES - 1) / LANES * LANES;
    t->first = malloc((size_t)n * sizeof *t->first);
    t->count = malloc((size_t)n * sizeof *t->count);
    t->weight = calloc((size_t)n * (size_t)t->width, sizeof *t->weight);
    if (!t->first || !t->count || !t->weight)
        return ty_fail(err, TY_ENOMEM, "resize: no memory for the weights of %d outputs", n);
    for (int i = 0; i < n; i++) {
        double center = (from + i + 0.5) * scale;
        int lo = (int)(center - support + 0.5), hi = (int)(center + support + 0.5);
        if (lo < 0) lo = 0;
        if (hi > in_size) hi = in_size;
        t->first[i] = lo;
        t->count[i] = hi - lo;
        fill_weights(t, i, center, widen);
    }
    return fixed ? fix_weights(t, err) : TY_OK;
}

static uint8_t clip_8(int32_t sum) {
    sum >>= FRACTION_BITS;
    return (uint8_t)(sum < 0 ? 0 : sum > 255 ? 255 : sum);
}

static uint16_t clip_16(double sum) {
    int v = (int)(sum + 0.5);
    return (uint16_t)(sum < 0 ? 0 : v > UINT16_MAX ? UINT16_MAX : v);
}

/* One row, its bands apart and widened: plane b is [stride], zeros behind the row's end.  Inlined with a constant
 * number of bands. */
static inline void spread_bands(const uint8_t *restrict src, int n, const int bands, size_t stride,
                                int16_t *restrict plane) {
    for (int x = 0; x < n; x++)
        for (int b = 0; b < bands; b++) plane[(size_t)b * stride + (size_t)x] = src[x * bands + b];
}

static void spread(const uint8_t *src, int n, int bands, size_t stride, int16_t *plane) {
    switch (bands) {
    case 1: spread_bands(src, n, 1, stride, plane); return;
    case 2: spread_bands(src, n, 2, stride, plane); return;
    case 3: spread_bands(src, n, 3, stride, plane); return;
    default: spread_bands(src, n, 4, stride, plane);
    }
}

/* sum of in[k] * (low[k] + 2^15 high[k]), n a multiple of LANES: products of 16 bits in sums of 32, which is one
 * instruction for several of them wherever there are vectors.  DOT_RUN low products stay below 2^31. */
static int64_t dot(const int16_t *in, const int16_t *low, const int16_t *high, int n) {
    int64_t sum = 0;
    for (int from = 0; from < n; from += DOT_RUN) {
        int end = n - from < DOT_RUN ? n : from + DOT_RUN;
        int32_t lo = 0, hi = 0;
        for (int k = from; k < end; k++) {
            lo += in[k] * low[k];
            hi += in[k] * high[k];
        }
        sum += lo + (int64_t)hi * (1 << LOW_BITS);
    }
    return sum;
}

/* A whole row of outputs along the row: one weighted sum for each output and band. */
static void row_across(const taps *t, int bands, const int16_t *plane, size_t stride,
                       uint8_t *dst) {
    for (int i = 0; i < t->n; i++) {
        size_t w = (size_t)i * (size_t)t->width;
        int n = (t->count[i] + LANES - 1) / LANES * LANES;
        for (int b = 0; b < bands; b++) {
            const int16_t *in = plane + (size_t)b * stride + t->first[i];
            int64_t sum = dot(in, t->low + w, t->high + w, n) + (1 << (FRACTION_BITS - 1));
            dst[i * bands + b] = clip_8((int32_t)sum);
        }
    }
}

/* Output row i down the columns: whole source rows are added up, which vectorises. */
static void row_down(const taps *t, int i, size_t n, const uint8_t *src, int32_t *sum,
                     uint8_t *dst) {
    const int32_t *w = t->fixed + (size_t)i * (size_t)t->width;
    for (size_t x = 0; x < n; x++) sum[x] = 1 << (FRACTION_BITS - 1);
    for (int k = 0; k < t->count[i]; k++) {
        const uint8_t *in = src + (size_t)(t->first[i] + k) * n;
        for (size_t x = 0; x < n; x++) sum[x] += in[x] * w[k];
    }
    for (size_t x = 0; x < n; x++) dst[x] = clip_8(sum[x]);
}

static void row_across_16(const taps *t, const uint16_t *src, uint16_t *dst) {
    for (int i = 0; i < t->n; i++) {
        const double *w = t->weight + (size_t)i * (size_t)t->width;
        double sum = 0;
        for (int k = 0; k < t->count[i]; k++) sum += src[t->first[i] + k] * w[k];
        dst[i] = clip_16(sum);
    }
}

static void row_down_16(const taps *t, int i, size_t n, const uint16_t *src, double *sum,
                        uint16_t *dst) {
    const double *w = t->weight + (size_t)i * (size_t)t->width;
    for (size_t x = 0; x < n; x++) sum[x] = 0;
    for (int k = 0; k < t->count[i]; k++) {
        const uint16_t *in = src + (size_t)(t->first[i] + k) * n;
        for (size_t x = 0; x < n; x++) sum[x] += in[x] * w[k];
    }
    for (size_t x = 0; x < n; x++) dst[x] = clip_16(sum[x]);
}

static ty_status check_time(const resize_plan *p, int y, ty_err *err) {
    if (y % 16 || ty_now_us() <= p->deadline_us) return TY_OK;
    return ty_fail(err, TY_ELIMIT, "resize: %d x %d took longer than the limit; send a smaller one",
                   p->src_w, p->src_h);
}

/* What both passes and both depths share.  size: bytes of a value. */
typedef struct {
    const resize_plan *plan;
    int bands, size;
} job;

/* src [rows, src_w] -> dst [rows, win_w]: filtered along each row, or cut when the width stays. */
static ty_status pass_across(const job *j, int rows, const uint8_t *src, uint8_t *dst,
                             ty_err *err) {
    const resize_plan *p = j->plan;
    size_t pixel = (size_t)j->bands * (size_t)j->size;
    size_t in = (size_t)p->src_w * pixel, out = (size_t)p->win_w * pixel;
    taps t = {0};
    ty_status st = TY_OK;
    int16_t *plane = NULL; /* of one row of 8 bits */
    size_t stride = (size_t)p->src_w + LANES;
    if (p->src_w != p->out_w)
        st = taps_init(&t, p->src_w, p->out_w, p->win_x, p->win_w, j->size == 1, err);
    if (st == TY_OK && t.fixed) {
        st = split_weights(&t, err);
        plane = calloc(stride * (size_t)j->bands, sizeof *plane);
        if (st == TY_OK && !plane) st = ty_fail(err, TY_ENOMEM, "resize: no memory for a row");
    }
    for (int y = 0; y < rows && st == TY_OK; y++, src += in, dst += out) {
        st = check_time(p, y, err);
        if (st != TY_OK) break;
        if (p->src_w == p->out_w) {
            memcpy(dst, src + (size_t)p->win_x * pixel, out);
        } else if (plane) {
            spread(src, p->src_w, j->bands, stride, plane);
            row_across(&t, j->bands, plane, stride, dst);
        } else {
            row_across_16(&t, (const uint16_t *)(const void *)src, (uint16_t *)(void *)dst);
        }
    }
    free(plane);
    taps_clear(&t);
    return st;
}

/* src [src_h, cols] -> dst [win_h, cols]: filtered down each column, or cut when the height stays. */
static ty_status pass_down(const job *j, int cols, const uint8_t *src, uint8_t *dst, ty_err *err) {
    const resize_plan *p = j->plan;
    size_t n = (size_t)cols * (size_t)j->bands, row = n * (size_t)j->size;
    if (p->src_h == p->out_h) {
        memcpy(dst, src + (size_t)p->win_y * row, row * (size_t)p->win_h);
        return TY_OK;
    }
    taps t = {0};
    void *sum = malloc(n * (j->size == 1 ? sizeof(int32_t) : sizeof(double)));
    ty_status st = sum ? TY_OK : ty_fail(err, TY_ENOMEM, "resize: no memory for a row");
    if (st == TY_OK) st = taps_init(&t, p->src_h, p->out_h, p->win_y, p->win_h, j->size == 1, err);
    for (int y = 0; y < p->win_h && st == TY_OK; y++, dst += row) {
        st = check_time(p, y, err);
        if (st != TY_OK) break;
        if (j->size == 1)
            row_down(&t, y, n, src, sum, dst);
        else
            row_down_16(&t, y, n, (const uint16_t *)(const void *)src, sum,
                        (uint16_t *)(void *)dst);
    }
    taps_clear(&t);
    free(sum);
    return st;
}

/* Pillow 13's choice: columns first when the height loses more than twice the rows that the width
 * loses columns.  The rounding between the passes makes the order visible. */
static bool down_first(const resize_plan *p) {
    return p->src_h > p->out_h && (int64_t)p->src_h - p->out_h > 2 * ((int64_t)p->src_w - p->out_w);
}

static ty_status bicubic(const job *j, const uint8_t *src, uint8_t *dst, ty_err *err) {
    const resize_plan *p = j->plan;
    bool down = down_first(p);
    int mid_w = down ? p->src_w : p->win_w, mid_h = down ? p->win_h : p->src_h;
    if (mid_w > p->max_pixels / mid_h)
        return ty_fail(err, TY_ELIMIT,
                       "resize: %d x %d to %d x %d needs more than the limit of %lld pixels on the "
                       "way; send a less extreme one",
                       p->src_w, p->src_h, p->out_w, p->out_h, (long long)p->max_pixels);
    uint8_t *mid = malloc((size_t)mid_w * (size_t)mid_h * (size_t)(j->bands * j->size));
    if (!mid) return ty_fail(err, TY_ENOMEM, "resize: no memory between the passes");
    ty_status st = down ? pass_down(j, mid_w, src, mid, err) : pass_across(j, mid_h, src, mid, err);
    if (st == TY_OK)
        st = down ? pass_across(j, mid_h, mid, dst, err) : pass_down(j, mid_w, mid, dst, err);
    free(mid);
    return st;
}

resize_plan resize_plan_whole(int src_w, int src_h, int out_w, int out_h, int64_t max_pixels,
                              int64_t deadline_us) {
    return (resize_plan){src_w, src_h, out_w, out_h, 0, 0, out_w, out_h, max_pixels, deadline_us};
}

ty_status resize_bicubic(const resize_plan *p, int bands, const uint8_t *src, uint8_t *dst,
                         ty_err *err) {
    return bicubic(&(job){p, bands, 1}, src, dst, err);
}

ty_status resize_bicubic_16(const resize_plan *p, const uint16_t *src, uint16_t *dst, ty_err *err) {
    return bicubic(&(job){p, 1, 2}, (const uint8_t *)src, (uint8_t *)dst, err);
}

/* The source index under the middle of output i, the steps added up as Pillow does (the sum's
 * rounding decides ties). */
static ty_status nearest_index(int in_size, int out_size, int **index, ty_err *err) {
    int *at = *index = malloc((size_t)out_size * sizeof *at);
    if (!at) return ty_fail(err, TY_ENOMEM, "resize: no memory for %d outputs", out_size);
    double step = (double)in_size / out_size, x = step * 0.5;
    for (int i = 0; i < out_size; i++) {
        at[i] = x < in_size ? (int)x : in_size - 1;
        x += step;
    }
    return TY_OK;
}

ty_status resize_nearest(const resize_plan *p, int bytes, const uint8_t *src, uint8_t *dst,
                         ty_err *err) {
    int *xs = NULL, *ys = NULL;
    ty_status st = nearest_index(p->src_w, p->out_w, &xs, err);
    if (st == TY_OK) st = nearest_index(p->src_h, p->out_h, &ys, err);
    for (int y = 0; y < p->out_h && st == TY_OK; y++) {
        const uint8_t *row = src + (size_t)ys[y] * (size_t)p->src_w * (size_t)bytes;
        for (int x = 0; x < p->out_w; x++, dst += bytes)
            memcpy(dst, row + (size_t)xs[x] * (size_t)bytes, (size_t)bytes);
    }
    free(xs);
    free(ys);
    return st;
}
