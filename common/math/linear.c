/*
 * linear.c - linear layers: weights packed into the panels of kernel.h at load, and the blocking that
 * feeds the kernels.
 *
 * A layer is a list of segments, one per weight tensor, whose outputs stand side by side.  Few rows
 * (up to what one kernel call takes) stream each panel once over the whole of k: decoding is then as
 * fast as memory.  Many rows are cut into tasks of rows x panels that step through k, so that a piece
 * of a panel (widened to f32 where it is stored shorter) stays in L1 while the rows pass.  Both ways
 * add up in the same order (kernel.h), so the result does not depend on which was taken.
 */
#include "common/math/linear.h"
#include "common/base/big.h"
#include "common/math/blas.h"
#include "common/math/kernel.h"

#include <stdlib.h>
#include <string.h>

enum {
    K_BLOCK = 512,         /* k of a panel piece: 16 KiB of f32 at 16 columns */
    ROW_BLOCK = 120,       /* rows of a task: x piece 120 KiB, half of a small L2 */
    COLUMN_BLOCK = 256,    /* columns of a task with many rows */
    BLAS_ROWS = 32,        /* fewer than these never go to sgemm */
    TASK_MACS = 64 * 1024, /* under this a task is not worth another thread */
};

typedef struct {
    int64_t n, n_panel;
    int64_t first;  /* column of y where it starts */
    ty_dtype store; /* F32, F16, BF16, Q8_0, Q4_0 */
    bool int8;      /* quantised activations */
    bool bf16;      /* activations and widened weights rounded to bf16 */
    uint8_t *panels;
    int64_t panel_bytes;
    float *plain; /* [n, K] beside the panels when OpenBLAS is on, or NULL */
    float *bias;  /* n floats or NULL */
} segment;

struct ty_linear {
    const ty_kernels *kn;
    int64_t N, K, n_block;
    int n_seg;
    bool blas;            /* TYTO_BLAS=openblas */
    bool int8, bf16, f32; /* what some segment wants of the activations */
    void *memory;
    size_t bytes;
    segment seg[];
};

int ty_compute_parse(const char *name) {
    static const char *const names[] = {"auto", "f32", "bf16", "int8"};
    for (int i = 0; i < 4; i++)
        if (strcmp(name, names[i]) == 0) return i;
    return -1;
}

static int64_t align64(int64_t bytes) {
    return (bytes + 63) / 64 * 64;
}

/* ---- packing ---- */

static bool is_quantised(ty_dtype t) {
    return t == TY_Q8_0 || t == TY_Q4_0;
}

/* Blocks that have no kernel: they become Q8_0, or floats, as they are packed. */
static bool is_foreign(ty_dtype t) {
    return ty_dtype_get((int)t)->block > 1 && !is_quantised(t);
}

static bool is_weight(ty_dtype t) {
    return t == TY_F32 || t == TY_F16 || t == TY_BF16 || is_quantised(t) || is_foreign(t);
}

static void choose_form(segment *s, ty_dtype t, int64_t K, ty_compute compute) {
    bool blocks = K % TY_QBLOCK == 0;
    s->store = t;
    s->int8 = blocks && (compute == TY_COMPUTE_INT8 ||
                         (compute == TY_COMPUTE_AUTO && ty_dtype_get((int)t)->block > 1));
    s->bf16 = compute == TY_COMPUTE_BF16;
    if (s->int8 && !is_quantised(t)) s->store = TY_Q8_0;
    if (s->bf16 && !is_quantised(t)) s->store = TY_BF16;
    if (is_foreign(s->store)) s->store = TY_F32;
}

static int64_t panel_bytes(const ty_kernels *kn, ty_dtype t, int64_t K) {
    int64_t b = t == TY_Q8_0   ? K / TY_QBLOCK * ty_q8_block_bytes(kn->nr)
                : t == TY_Q4_0 ? K / TY_QBLOCK * ty_q4_block_bytes(kn->nr)
                               : K * kn->nr * (int64_t)ty_dtype_bytes(t, 1);
    return align64(b);
}

typedef struct {
    ty_linear *l;
    const ty_tensor *w;
    uint8_t *scratch; /* per member: one row as floats, then as blocks */
    int64_t member_bytes;
} pack_job;

/* One row of w in the segment's stored type; borrowed from the tensor or built in scratch. */
static const void *row_as(const segment *s, const ty_tensor *w, int64_t row, int64_t K,
                          uint8_t *scratch) {
    const uint8_t *src =
        (const uint8_t *)w->data + row * (int64_t)ty_dtype_bytes(w->dtype, (size_t)K);
    if (w->dtype == s->store) return src;
    float *wide = (float *)(void *)scratch;
    ty_dtype_to_f32(w->dtype, src, 0, (size_t)K, wide);
    if (s->store == TY_F32) return wide;
    ty_dtype_from_f32(s->store, wide, (size_t)K, wide + K);
    return wide + K;
}

static void put_floats(uint8_t *panel, int nr, int col, const void *row, int64_t K, ty_dtype t) {
    if (t == TY_F32) {
        const uint8_t *src = row;
        float *dst = (float *)(void *)panel + col;
        for (int64_t k = 0; k < K; k++) memcpy(dst + k * nr, src + 4 * k, 4);
    } else {
        const uint8_t *src = row;
        uint16_t *dst = (uint16_t *)(void *)panel + col;
        for (int64_t k = 0; k < K; k++) memcpy(dst + k * nr, src + 2 * k, 2);
    }
}

static void put_q8(uint8_t *panel, const ty_kernels *kn, int col, const uint8_t *row, int64_t nb) {
    int nr = kn->nr;
    uint8_t flip = kn->q8_zero ? 0x80 : 0;
    for (int64_t b = 0; b < nb; b++, row += 34, panel += ty_q8_block_bytes(nr)) {
        memcpy(panel + 2 * col, row, 2);
        for (int k = 0; k < 32; k++)
            panel[2 * nr + (k / 4 * nr + col) * 4 + k % 4] = row[2 + k] ^ flip;
    }
}

/* File byte i holds k = i (low) and k = i + 16 (high): the panel's order, spread over columns. */
static void put_q4(uint8_t *panel, const ty_kernels *kn, int col, const uint8_t *row, int64_t nb) {
    int nr = kn->nr;
    for (int64_t b = 0; b < nb; b++, row += 18, panel += ty_q4_block_bytes(nr)) {
        memcpy(panel + 2 * col, row, 2);
        for (int i = 0; i < 16; i++) panel[2 * nr + (i / 4 * nr + col) * 4 + i % 4] = row[2 + i];
    }
}

static void pack_task(void *ctx, int task, int member) {
    const pack_job *j = ctx;
    const ty_linear *l = j->l;
    const segment *s = l->seg;
    const ty_tensor *w = j->w;
    int64_t p = task;
    for (; p >= s->n_panel; s++, w++) p -= s->n_panel;
    int nr = l->kn->nr;
    uint8_t *panel = s->panels + p * s->panel_bytes;
    memset(panel, 0, (size_t)s->panel_bytes);
    for (int col = 0; col < nr && p * nr + col < s->n; col++) {
        const void *row = row_as(s, w, p * nr + col, l->K, j->scratch + member * j->member_bytes);
        if (s->plain) memcpy(s->plain + (p * nr + col) * l->K, row, (size_t)l->K * sizeof(float));
        if (s->store == TY_Q8_0)
            put_q8(panel, l->kn, col, row, l->n_block);
        else if (s->store == TY_Q4_0)
            put_q4(panel, l->kn, col, row, l->n_block);
        else
            put_floats(panel, nr, col, row, l->K, s->store);
    }
}

/* f32 layers alone: what is stored shorter is widened piece by piece, never as a whole. */
static bool uses_blas(const ty_linear *l, const segment *s) {
    return l->blas && s->store == TY_F32 && !s->int8 && !s->bf16;
}

static ty_status pack(ty_linear *l, const ty_tensor *w, ty_pool *pool, ty_err *err) {
    pack_job j = {.l = l, .w = w, .member_bytes = (l->K * 8 + 63) / 64 * 64 + 64};
    size_t bytes = (size_t)j.member_bytes * (size_t)ty_pool_size(pool);
    j.scratch = aligned_alloc(64, bytes);
    if (!j.scratch) return ty_fail(err, TY_ENOMEM, "linear: no memory to pack weights");
    int64_t panels = 0;
    for (int i = 0; i < l->n_seg; i++) panels += l->seg[i].n_panel;
    ty_pool_run(pool, (int)panels, pack_task, &j);
    free(j.scratch);
    return TY_OK;
}

static ty_status check(const ty_tensor *w, int n, ty_err *err) {
    char text[96];
    if (n < 1) return ty_fail(err, TY_ESHAPE, "linear: no weights");
    for (int i = 0; i < n; i++) {
        if (!is_weight(w[i].dtype))
            return ty_fail(err, TY_ESHAPE,
                           "linear: weight %d is %s, want a float or quantised type", i,
                           ty_dtype_name((int)w[i].dtype));
        if (w[i].n_dim < 1 || ty_tensor_cols(&w[i]) < 1 || ty_tensor_rows(&w[i]) < 1 ||
            ty_tensor_cols(&w[i]) != ty_tensor_cols(&w[0]))
            return ty_fail(err, TY_ESHAPE, "linear: weight %d is %s, want [N,%lld]", i,
                           ty_tensor_shape_text(&w[i], text, sizeof text),
                           (long long)ty_tensor_cols(&w[0]));
        if (w[i].size_bytes < ty_dtype_bytes(w[i].dtype, (size_t)ty_tensor_count(&w[i])))
            return ty_fail(err, TY_ESHAPE, "linear: weight %d has %zu bytes, want %zu", i,
                           w[i].size_bytes,
                           ty_dtype_bytes(w[i].dtype, (size_t)ty_tensor_count(&w[i])));
    }
    return TY_OK;
}

static void lay_out(ty_linear *l, const ty_tensor *w, const float *const *bias,
                    ty_compute compute) {
    int nr = l->kn->nr;
    for (int i = 0; i < l->n_seg; i++) {
        segment *s = &l->seg[i];
        s->n = ty_tensor_rows(&w[i]);
        s->n_panel = (s->n + nr - 1) / nr;
        s->first = l->N;
        choose_form(s, w[i].dtype, l->K, compute);
        s->panel_bytes = panel_bytes(l->kn, s->store, l->K);
        l->bytes += (size_t)(s->panel_bytes * s->n_panel);
        if (bias && bias[i]) l->bytes += (size_t)align64(s->n * 4);
        if (uses_blas(l, s)) l->bytes += (size_t)align64(s->n * l->K * 4);
        l->N += s->n;
        l->int8 |= s->int8;
        l->bf16 |= s->bf16 && !s->int8;
        l->f32 |= !s->int8;
    }
}

static void place(ty_linear *l, const float *const *bias) {
    uint8_t *at = l->memory;
    for (int i = 0; i < l->n_seg; i++) {
        segment *s = &l->seg[i];
        s->panels = at;
        at += s->panel_bytes * s->n_panel;
        if (uses_blas(l, s)) {
            s->plain = (float *)(void *)at;
            at += align64(s->n * l->K * 4);
        }
        if (!bias || !bias[i]) continue;
        s->bias = (float *)(void *)at;
        memcpy(s->bias, bias[i], (size_t)s->n * sizeof(float));
        at += align64(s->n * 4);
    }
}

ty_status ty_linear_create(ty_linear **out, const ty_tensor *w, const float *const *bias, int n,
                           ty_compute compute, ty_pool *pool, ty_err *err) {
    *out = NULL;
    ty_status st = check(w, n, err);
    if (st != TY_OK) return st;
    ty_linear *l = calloc(1, sizeof *l + (size_t)n * sizeof l->seg[0]);
    if (!l) return ty_fail(err, TY_ENOMEM, "linear: out of memory");
    st = ty_blas_wanted(&l->blas, err);
    if (st != TY_OK) goto done;
    l->kn = ty_kernels_get();
    l->n_seg = n;
    l->K = ty_tensor_cols(&w[0]);
    l->n_block = l->K / TY_QBLOCK;
    lay_out(l, w, bias, compute);
    l->memory = ty_big_alloc(l->bytes); /* 4 KiB pages cost decoding 5 to 35 % of the bandwidth */
    if (!l->memory) {
        st = ty_fail(err, TY_ENOMEM, "linear: no memory for %zu bytes of weights", l->bytes);
        goto done;
    }
    place(l, bias);
    st = pack(l, w, pool, err);
    if (st == TY_OK) {
        *out = l;
        l = NULL;
    }
done:
    ty_linear_destroy(&l);
    return st;
}

int64_t ty_linear_out(const ty_linear *l) {
    return l->N;
}

int64_t ty_linear_in(const ty_linear *l) {
    return l->K;
}

size_t ty_linear_bytes(const ty_linear *l) {
    return l->bytes;
}

void ty_linear_destroy(ty_linear **l) {
    if (!*l) return;
    free((*l)->memory);
    free(*l);
    *l = NULL;
}

/* ---- applying ---- */

typedef struct {
    const ty_linear *l;
    const segment *seg; /* those that are computed: [n_seg] */
    int n_seg;
    const float *x; /* f32 activations, or their bf16-rounded copy */
    const float *x_raw;
    int64_t ldx;
    ty_qrows q;
    int M;
    float *y;
    int64_t ldy;
    int n_row_block, row_block; /* tasks over rows */
    int64_t panels_per_task;
    float *members; /* per member: x piece, widened panel piece, output tile */
    int64_t member_floats, tile_at, panel_at;
    /* activation scratch, rows ld apart */
    float *rounded;
    int8_t *q8;
    float *d;
    int32_t *nsum;
} apply_job;

static int64_t min64(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* Row strides away from multiples of 4 KiB, on which rows would fight for the same cache sets. */
static int64_t padded(int64_t floats) {
    return (floats + 15) / 16 * 16 + 16;
}

static void round_task(void *ctx, int row, int member) {
    apply_job *j = ctx;
    (void)member;
    j->l->kn->round_bf16(j->x_raw + row * j->ldx, j->l->K, j->rounded + row * j->l->K);
}

static void quantize_task(void *ctx, int row, int member) {
    apply_job *j = ctx;
    (void)member;
    j->l->kn->quantize(j->x_raw + row * j->ldx, j->l->n_block, j->q8 + row * j->q.ldq,
                       j->d + row * j->q.ldd, j->nsum + row * j->q.ldd);
}

/* Output columns of panels [p, p + n) for rows [r, r + m): straight into y, or into the member's tile
 * when the last panel reaches past the segment. */
typedef struct {
    float *c;
    int64_t ldc;
    int64_t columns; /* that exist */
    bool tile;
} target;

static target aim(const apply_job *j, const segment *s, int64_t p, int64_t n, int64_t r,
                  int member) {
    int nr = j->l->kn->nr;
    target t = {.columns = min64(n * nr, s->n - p * nr)};
    t.tile = t.columns < n * nr;
    t.c = t.tile ? j->members + member * j->member_floats + j->tile_at
                 : j->y + r * j->ldy + s->first + p * nr;
    t.ldc = t.tile ? n * nr : j->ldy;
    return t;
}

static void move_tile(const apply_job *j, const segment *s, const target *t, int64_t p, int64_t r,
                      int m, bool out) {
    if (!t->tile) return;
    float *y = j->y + r * j->ldy + s->first + p * j->l->kn->nr;
    for (int i = 0; i < m; i++) {
        float *a = y + i * j->ldy, *b = t->c + i * t->ldc;
        memcpy(out ? a : b, out ? b : a, (size_t)t->columns * sizeof(float));
    }
}

/* Weights of panel p from k on, in elements of the stored float type. */
static const void *float_panel(const apply_job *j, const segment *s, int64_t p, int64_t k) {
    return s->panels + p * s->panel_bytes + k * j->l->kn->nr * (int64_t)ty_dtype_bytes(s->store, 1);
}

/* gemm on the panels as stored, m <= mr rows, whole k. */
static void stream_floats(const apply_job *j, const segment *s, const float *x, int64_t ldx, int m,
                          int64_t p, int64_t n, const target *t) {
    const ty_kernels *kn = j->l->kn;
    const void *w = float_panel(j, s, p, 0);
    int64_t K = j->l->K;
    if (s->store == TY_F32)
        kn->gemm_f32(m, K, x, ldx, w, s->panel_bytes / 4, (int)n, t->c, t->ldc, false);
    else if (s->store == TY_F16)
        kn->gemm_f16(m, K, x, ldx, w, s->panel_bytes / 2, (int)n, t->c, t->ldc, false);
    else
        kn->gemm_bf16(m, K, x, ldx, w, s->panel_bytes / 2, (int)n, t->c, t->ldc, false);
}

/* k of panel p from k0 as f32: in place, or widened into the member's buffer. */
static const float *widened(const apply_job *j, const segment *s, int64_t p, int64_t k0, int64_t kc,
                            int member) {
    const ty_kernels *kn = j->l->kn;
    float *buf = j->members + member * j->member_floats + j->panel_at;
    int64_t n = kc * kn->nr, b = k0 / TY_QBLOCK;
    const uint8_t *panel = s->panels + p * s->panel_bytes;
    switch (s->store) {
    case TY_F16: kn->widen_f16(float_panel(j, s, p, k0), n, buf); break;
    case TY_BF16: kn->widen_bf16(float_panel(j, s, p, k0), n, buf); break;
    case TY_Q8_0: kn->widen_q8(panel + b * ty_q8_block_bytes(kn->nr), kc / TY_QBLOCK, buf); break;
    case TY_Q4_0: kn->widen_q4(panel + b * ty_q4_block_bytes(kn->nr), kc / TY_QBLOCK, buf); break;
    default: return float_panel(j, s, p, k0);
    }
    if (s->bf16 && is_quantised(s->store)) kn->round_bf16(buf, n, buf);
    return buf;
}

/* Rows in runs of nearly equal length, each at most `most`. */
static int tile_rows(int64_t rows, int most) {
    int64_t tiles = (rows + most - 1) / most;
    return (int)((rows + tiles - 1) / tiles);
}

static void blocked_floats(const apply_job *j, const segment *s, int64_t r0, int64_t r1, int64_t p0,
                           int64_t p1, int member) {
    const ty_linear *l = j->l;
    const ty_kernels *kn = l->kn;
    const float *x = (s->bf16 ? j->x : j->x_raw) + r0 * (s->bf16 ? l->K : j->ldx);
    int64_t ldx = s->bf16 ? l->K : j->ldx, lda = padded(K_BLOCK);
    float *a = j->members + member * j->member_floats;
    int step = tile_rows(r1 - r0, kn->mr);
    for (int64_t k0 = 0; k0 < l->K; k0 += K_BLOCK) {
        int64_t kc = min64(K_BLOCK, l->K - k0);
        for (int64_t r = 0; r < r1 - r0; r++)
            memcpy(a + r * lda, x + r * ldx + k0, (size_t)kc * sizeof *a);
        for (int64_t p = p0; p < p1; p++) {
            const float *w = widened(j, s, p, k0, kc, member);
            for (int64_t r = r0; r < r1; r += step) {
                int m = (int)min64(step, r1 - r);
                target t = aim(j, s, p, 1, r, member);
                if (k0 > 0) move_tile(j, s, &t, p, r, m, false);
                kn->gemm_f32(m, kc, a + (r - r0) * lda, lda, w, 0, 1, t.c, t.ldc, k0 > 0);
                move_tile(j, s, &t, p, r, m, true);
            }
        }
    }
}

static void float_block(const apply_job *j, const segment *s, int64_t r0, int64_t r1, int64_t p0,
                        int64_t p1, int member) {
    const ty_linear *l = j->l;
    if (s->plain && j->M >= BLAS_ROWS) {
        int64_t c0 = p0 * l->kn->nr, c1 = min64(p1 * l->kn->nr, s->n);
        ty_blas_gemm((int)(r1 - r0), (int)(c1 - c0), (int)l->K, j->x_raw + r0 * j->ldx, j->ldx,
                     s->plain + c0 * l->K, l->K, j->y + r0 * j->ldy + s->first + c0, j->ldy);
        return;
    }
    if (r1 - r0 > l->kn->mr || is_quantised(s->store)) {
        blocked_floats(j, s, r0, r1, p0, p1, member);
        return;
    }
    int m = (int)(r1 - r0);
    bool odd = p1 * l->kn->nr > s->n; /* the last panel is partly past the end */
    const float *x = s->bf16 ? j->x + r0 * l->K : j->x_raw + r0 * j->ldx;
    int64_t ldx = s->bf16 ? l->K : j->ldx, whole = odd ? p1 - 1 : p1;
    for (int64_t p = p0; p<p1; p = whole> p ? whole : p1) {
        int64_t n = whole > p ? whole - p : 1;
        target t = aim(j, s, p, n, r0, member);
        stream_floats(j, s, x, ldx, m, p, n, &t);
        move_tile(j, s, &t, p, r0, m, true);
    }
}

static void quant_run(const apply_job *j, const segment *s, int64_t r, int m, int64_t p, int64_t n,
                      int member) {
    const ty_kernels *kn = j->l->kn;
    ty_qrows q = {.q = j->q8 + r * j->q.ldq,
                  .d = j->d + r * j->q.ldd,
                  .nsum = j->nsum + r * j->q.ldd,
                  .ldq = j->q.ldq,
                  .ldd = j->q.ldd};
    target t = aim(j, s, p, n, r, member);
    const uint8_t *w = s->panels + p * s->panel_bytes;
    (s->store == TY_Q8_0 ? kn->gemm_q8 : kn->gemm_q4)(m, j->l->n_block, &q, w, s->panel_bytes,
                                                      (int)n, t.c, t.ldc);
    move_tile(j, s, &t, p, r, m, true);
}

static void quant_block(const apply_job *j, const segment *s, int64_t r0, int64_t r1, int64_t p0,
                        int64_t p1, int member) {
    int step = tile_rows(r1 - r0, j->l->kn->qmr);
    bool once = r1 - r0 <= step;
    int64_t whole = p1 * j->l->kn->nr > s->n ? p1 - 1 : p1;
    for (int64_t p = p0; p < p1;) {
        /* With a single run of rows whole runs of panels go in one call. */
        int64_t n = once && whole > p ? whole - p : 1;
        for (int64_t r = r0; r < r1; r += step)
            quant_run(j, s, r, (int)min64(step, r1 - r), p, n, member);
        p += n;
    }
}

static void add_bias(const apply_job *j, const segment *s, int64_t r0, int64_t r1, int64_t p0,
                     int64_t p1) {
    int nr = j->l->kn->nr;
    int64_t c0 = p0 * nr, c1 = min64(p1 * nr, s->n);
    for (int64_t r = r0; r < r1; r++) {
        float *y = j->y + r * j->ldy + s->first;
        for (int64_t c = c0; c < c1; c++) y[c] += s->bias[c];
    }
}

static void apply_task(void *ctx, int task, int member) {
    const apply_job *j = ctx;
    const segment *s = j->seg;
    int64_t rb = task % j->n_row_block, cb = task / j->n_row_block;
    for (;; s++) {
        int64_t blocks = (s->n_panel + j->panels_per_task - 1) / j->panels_per_task;
        if (cb < blocks) break;
        cb -= blocks;
    }
    int64_t r0 = rb * j->row_block, r1 = min64(r0 + j->row_block, j->M);
    int64_t p0 = cb * j->panels_per_task, p1 = min64(p0 + j->panels_per_task, s->n_panel);
    (s->int8 ? quant_block : float_block)(j, s, r0, r1, p0, p1, member);
    if (s->bias) add_bias(j, s, r0, r1, p0, p1);
}

/* How many rows and panels a task takes; the sum never depends on it, only the time does. */
static void plan(apply_job *j, int size) {
    const ty_linear *l = j->l;
    int nr = l->kn->nr, mr = l->kn->mr;
    /* sgemm packs for itself and wants all rows at once. */
    int blocks = l->blas && j->M >= BLAS_ROWS ? 1 : (j->M + ROW_BLOCK - 1) / ROW_BLOCK;
    j->row_block = ((j->M + blocks - 1) / blocks + mr - 1) / mr * mr;
    j->n_row_block = (j->M + j->row_block - 1) / j->row_block;
    int64_t macs = (int64_t)min64(j->M, j->row_block) * l->K * nr; /* of a panel */
    int64_t panels = 0;
    for (int i = 0; i < j->n_seg; i++) panels += j->seg[i].n_panel;
    int64_t share = panels / (8 * (int64_t)size);
    if (j->M > mr) share = min64(panels / (2 * (int64_t)size) + 1, COLUMN_BLOCK / nr);
    j->panels_per_task = share > 0 ? share : 1;
    while (j->panels_per_task * macs < TASK_MACS && j->panels_per_task < panels)
        j->panels_per_task *= 2;
}

static int count_tasks(const apply_job *j) {
    int64_t n = 0;
    for (int i = 0; i < j->n_seg; i++)
        n += (j->seg[i].n_panel + j->panels_per_task - 1) / j->panels_per_task;
    return (int)n * j->n_row_block;
}

/* Bytes of activation scratch; with base, its parts' addresses too. */
static int64_t place_activations(apply_job *j, uint8_t *base) {
    const ty_linear *l = j->l;
    int64_t at = 0, M = j->M;
    if (l->bf16) {
        if (base) j->rounded = (float *)(void *)base;
        at += align64(M * l->K * 4);
    }
    if (l->int8) {
        j->q.ldq = l->K + 64;
        j->q.ldd = l->n_block;
        if (base) j->q8 = (int8_t *)base + at;
        at += align64(M * j->q.ldq);
        if (base) j->d = (float *)(void *)(base + at);
        at += align64(M * j->q.ldd * 4);
        if (base) j->nsum = (int32_t *)(void *)(base + at);
        at += align64(M * j->q.ldd * 4);
    }
    return at;
}

static int64_t place_members(apply_job *j) {
    const ty_kernels *kn = j->l->kn;
    bool blocked = j->l->f32; /* the x piece and the widened panel are for floats */
    j->panel_at = blocked ? (int64_t)(j->row_block + kn->mr) * padded(K_BLOCK) : 0;
    j->tile_at = j->panel_at + (blocked ? (int64_t)K_BLOCK * kn->nr : 0);
    int64_t n = j->tile_at + (int64_t)TY_KERNEL_MAX_MR * kn->nr;
    return (n + 15) / 16 * 16;
}

static void *scratch(ty_pool *pool, int slot, int64_t bytes) {
    size_t size = (size_t)(bytes > 0 ? align64(bytes) : 64);
    return pool ? ty_pool_scratch(pool, slot, size) : aligned_alloc(64, size);
}

static void prepare_activations(apply_job *j, ty_pool *pool) {
    /* One row is not worth waking anybody. */
    if (j->l->bf16) ty_pool_run(j->M * j->l->K > TASK_MACS ? pool : NULL, j->M, round_task, j);
    if (j->l->int8) ty_pool_run(j->M * j->l->K > TASK_MACS ? pool : NULL, j->M, quantize_task, j);
    j->x = j->rounded;
}

ty_status ty_linear_apply_parts(const ty_linear *l, ty_pool *pool, int first, int n, const float *x,
                                int64_t ldx, int M, float *y, int64_t ldy) {
    if (M <= 0) return TY_OK;
    ty_status st = TY_ENOMEM;
    apply_job j = {.l = l,
                   .seg = l->seg + first,
                   .n_seg = n,
                   .x_raw = x,
                   .ldx = ldx,
                   .M = M,
                   .y = y,
                   .ldy = ldy};
    int size = ty_pool_size(pool);
    plan(&j, size);
    j.member_floats = place_members(&j);
    uint8_t *act = scratch(pool, TY_POOL_SCRATCH_ACT, place_activations(&j, NULL));
    j.members = scratch(pool, TY_POOL_SCRATCH_MEMBERS, j.member_floats * size * 4);
    if (!act || !j.members) goto done;
    place_activations(&j, act);
    prepare_activations(&j, pool);
    ty_pool_run(pool, count_tasks(&j), apply_task, &j);
    st = TY_OK;
done:
    if (!pool) {
        free(act);
        free(j.members);
    }
    return st;
}

ty_status ty_linear_apply(const ty_linear *l, ty_pool *pool, const float *x, int64_t ldx, int M,
                          float *y, int64_t ldy) {
    return ty_linear_apply_parts(l, pool, 0, l->n_seg, x, ldx, M, y, ldy);
}
