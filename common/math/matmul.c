/*
 * matmul.c - see matmul.h.  An operand whose own strides would cost the kernel more than copying it is packed
 * first: b into the panels of kernel.h, a into rows of one length.
 *
 * Over the pool, a block of c (MS x NS) and KC of k are worked on by all members together: they pack the
 * block's a and b, once each, into memory that they share (it lies in L3); then each takes pieces of c, a
 * piece's rows of a staying in its L2.  Alone (a small product, a pool's task) b is packed NC columns at a
 * time.  K runs in steps with c added to, which keeps the order of sums.
 */
#include "common/math/kernel.h"
#include "common/math/matmul_block.h"

#include <stdlib.h>
#include <string.h>

enum {
    KC = 528,  /* k of a step at most: a panel piece of 32 columns is 66 KiB, a stream out of L2 */
    MC = 120,  /* rows of a piece, 255 KiB; a multiple of 12 and of 6 rows of a tile */
    NC = 384,  /* columns packed at a time where one member is alone: 792 KiB */
    MS = 1920, /* rows and columns of a shared block: 4 MiB each */
    NS = 2048,
    PIECE = 80 << 10, /* floats of a that stay in L2 */
    ROW = NS,
    LDA = KC + 16, /* rows away from multiples of 4 KiB */
    TASK_MACS = 1 << 17,
    NEAR = 1024, /* floats between rows that may be read down the columns where they are */
};

typedef struct {
    float *b;   /* [NC / nr][KC][nr]; shared: [NS / nr][KC][nr] */
    float *a;   /* [MC][LDA]; shared: [MS][LDA] */
    float *row; /* [NS] one widened row, or a part of it */
} workspace;

static const size_t B_FLOATS = (size_t)KC * NC, A_FLOATS = (size_t)MC * LDA;

size_t ty_matmul_scratch(void) {
    size_t f32 = (B_FLOATS + A_FLOATS + ROW) * sizeof(float), bf16 = matmul_bf16_scratch();
    return f32 > bf16 ? f32 : bf16;
}

static workspace place(void *scratch) {
    float *at = scratch;
    return (workspace){at, at + B_FLOATS, at + B_FLOATS + A_FLOATS};
}

static int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* ---- packing ---- */

/* Elements [first, first + n) of a row in blocks of 32. */
static void widen_blocks(ty_dtype t, const uint8_t *row, int64_t first, int64_t n, float *out) {
    int bytes = t == TY_Q8_0 ? 34 : 18;
    for (int64_t i = 0; i < n;) {
        int64_t in_block = (first + i) % TY_QBLOCK, run = least(TY_QBLOCK - in_block, n - i);
        const uint8_t *block = row + (first + i) / TY_QBLOCK * bytes, *q = block + 2;
        uint16_t half;
        memcpy(&half, block, 2);
        float d = ty_f16_to_f32(half);
        for (int64_t j = in_block; j < in_block + run; j++, i++) {
            int v = t == TY_Q8_0 ? (int8_t)q[j] : (q[j % 16] >> (j / 16 * 4) & 15) - 8;
            out[i] = d * (float)v;
        }
    }
}

const float *matmul_b_row(const ty_matmul *m, int64_t r, int64_t first, int64_t n, float *wide) {
    const uint8_t *row =
        (const uint8_t *)m->b + (size_t)r * ty_dtype_bytes(m->b_type, (size_t)m->ldb);
    const ty_kernels *kn = ty_kernels_get();
    if (m->b_type == TY_F32) return (const float *)(const void *)row + first;
    if (m->b_type == TY_BF16)
        kn->widen_bf16((const uint16_t *)(const void *)row + first, n, wide);
    else if (m->b_type == TY_F16)
        kn->widen_f16((const uint16_t *)(const void *)row + first, n, wide);
    else
        widen_blocks(m->b_type, row, first, n, wide);
    return wide;
}

typedef float four __attribute__((vector_size(16), aligned(4)));

/* Four rows of four, turned. */
static void transpose4(const float *src, int64_t lds, float *dst, int64_t ld) {
    four a, b, c, d;
    memcpy(&a, src, sizeof a);
    memcpy(&b, src + lds, sizeof b);
    memcpy(&c, src + 2 * lds, sizeof c);
    memcpy(&d, src + 3 * lds, sizeof d);
    four ab0 = __builtin_shufflevector(a, b, 0, 4, 1, 5),
         ab1 = __builtin_shufflevector(a, b, 2, 6, 3, 7);
    four cd0 = __builtin_shufflevector(c, d, 0, 4, 1, 5),
         cd1 = __builtin_shufflevector(c, d, 2, 6, 3, 7);
    four out[4] = {__builtin_shufflevector(ab0, cd0, 0, 1, 4, 5),
                   __builtin_shufflevector(ab0, cd0, 2, 3, 6, 7),
                   __builtin_shufflevector(ab1, cd1, 0, 1, 4, 5),
                   __builtin_shufflevector(ab1, cd1, 2, 3, 6, 7)};
    for (int i = 0; i < 4; i++) memcpy(dst + i * ld, &out[i], sizeof out[i]);
}

/* [n][k] rows -> dst[k][ld], n <= ld columns: squares of four, in strips that stay in L1. */
static void transpose(const float *src, int64_t lds, int64_t n, int64_t k, float *dst, int64_t ld) {
    enum { STRIP = 16 };
    for (int64_t t = 0; t < k; t += STRIP) {
        int64_t run = least(STRIP, k - t), j = 0;
        for (; run == STRIP && j + 4 <= n; j += 4)
            for (int u = 0; u < STRIP; u += 4)
                transpose4(src + j * lds + t + u, lds, dst + (t + u) * ld + j, ld);
        for (; j < n; j++)
            for (int64_t u = 0; u < run; u++) dst[(t + u) * ld + j] = src[j * lds + t + u];
    }
}

/* Rows [n0, n0 + n) x k [k0, k0 + k) of a stored [N, K] b, into panels. */
static void pack_b_nk(const ty_matmul *m, int64_t n0, int64_t n, int64_t k0, int64_t k, int nr,
                      const workspace *ws) {
    for (int64_t p = 0; p < n; p += nr) {
        float *panel = ws->b + p * k;
        int64_t cols = least(nr, n - p);
        if (cols < nr) memset(panel, 0, (size_t)(k * nr) * sizeof *panel);
        if (m->b_type == TY_F32)
            transpose((const float *)m->b + (n0 + p) * m->ldb + k0, m->ldb, cols, k, panel, nr);
        else
            for (int64_t j = 0; j < cols; j++)
                transpose(matmul_b_row(m, n0 + p + j, k0, k, ws->row), 0, 1, k, panel + j, nr);
    }
}

/* A panel's width, by eights: the compiler knows how to copy those. */
static void copy_floats(float *dst, const float *src, int n) {
    int i = 0;
    for (; i + 8 <= n; i += 8) memcpy(dst + i, src + i, 8 * sizeof *src);
    for (; i < n; i++) dst[i] = src[i];
}

/* Rows [t0, t1) of those k, row by row of what is stored: reading is a stream. */
static void pack_b_kn(const ty_matmul *m, int64_t n0, int64_t n, int64_t k0, int64_t k, int64_t t0,
                      int64_t t1, int nr, const workspace *ws) {
    for (int64_t t = t0; t < t1; t++) {
        const float *x = matmul_b_row(m, k0 + t, n0, n, ws->row);
        float *out = ws->b + t * nr;
        int64_t p = 0;
        for (; p + nr <= n; p += nr) copy_floats(out + p * k, x + p, nr);
        if (p == n) continue;
        memcpy(out + p * k, x + p, (size_t)(n - p) * sizeof *x);
        memset(out + p * k + n - p, 0, (size_t)(nr - n + p) * sizeof *x);
    }
}

/* An operand as the kernel takes it: of a, element (i, t) at x[i * row + t * step]; of b, row t of its first
 * panel at x + t * row, the next panel `step` further. */
typedef struct {
    const float *x;
    int64_t row, step;
} operand;

static bool a_in_place(const ty_matmul *m) {
    return !ty_matmul_collides(m->lda) && (!m->a_stored_km || m->lda <= NEAR);
}

static bool b_in_place(const ty_matmul *m) {
    return !m->b_stored_nk && m->b_type == TY_F32 && !ty_matmul_collides(m->ldb) && m->ldb <= NEAR;
}

/* a from row r0 and k0 on: where it is, or in ws, whose first row is that one. */
static operand take_a(const ty_matmul *m, int64_t r0, int64_t k0, const float *packed) {
    if (!a_in_place(m)) return (operand){packed, LDA, 1};
    if (m->a_stored_km) return (operand){m->a + k0 * m->lda + r0, 1, m->lda};
    return (operand){m->a + r0 * m->lda + k0, m->lda, 1};
}

/* b from column c0 and k0 on, k rows of it: where it is, or in ws, whose first column is that one. */
static operand take_b(const ty_matmul *m, int64_t c0, int64_t k0, int64_t k, const float *packed) {
    const int nr = ty_kernels_get()->nr;
    if (!b_in_place(m)) return (operand){packed, nr, k * nr};
    return (operand){(const float *)m->b + k0 * m->ldb + c0, m->ldb, nr};
}

static void pack_a(const ty_matmul *m, int64_t r0, int64_t rows, int64_t k0, int64_t k,
                   float *out) {
    if (m->a_stored_km) {
        transpose(m->a + k0 * m->lda + r0, m->lda, k, rows, out, LDA);
        return;
    }
    for (int64_t r = 0; r < rows; r++)
        memcpy(out + r * LDA, m->a + (r0 + r) * m->lda + k0, (size_t)k * sizeof *out);
}

/* ---- rows times panels ---- */

static void multiply(operand a, operand b, int64_t rows, int64_t n, int64_t k, float *c,
                     int64_t ldc, bool add) {
    const ty_kernels *kn = ty_kernels_get();
    for (int64_t p = 0; p < n; p += kn->nr, b.x += b.step)
        kn->product_f32(rows, least(kn->nr, n - p), k, a.x, a.row, a.step, b.x, b.row, c + p, ldc,
                        add);
}

/* K in steps of nearly one length, multiples of what transpose() takes at once. */
static int64_t step_of(int64_t K) {
    int64_t steps = (K + KC - 1) / KC;
    return steps > 1 ? ((K + steps - 1) / steps + 15) / 16 * 16 : KC;
}

/* ---- alone ---- */

static void columns(const ty_matmul *m, int64_t c0, int64_t n, const workspace *ws) {
    const int nr = ty_kernels_get()->nr;
    int64_t step = step_of(m->K);
    for (int64_t k0 = 0; k0 < m->K || k0 == 0; k0 += step) {
        int64_t k = least(step, m->K - k0);
        if (m->b_stored_nk)
            pack_b_nk(m, c0, n, k0, k, nr, ws);
        else if (!b_in_place(m))
            pack_b_kn(m, c0, n, k0, k, 0, k, nr, ws);
        operand b = take_b(m, c0, k0, k, ws->b);
        for (int64_t r = 0; r < m->M; r += MC) {
            int64_t rows = least(MC, m->M - r);
            if (!a_in_place(m)) pack_a(m, r, rows, k0, k, ws->a);
            multiply(take_a(m, r, k0, ws->a), b, rows, n, k, m->c + r * m->ldc + c0, m->ldc,
                     m->add || k0 > 0);
        }
    }
}

void ty_matmul_serial(const ty_matmul *m, void *scratch) {
    if (m->products == TY_PRODUCTS_BF16) {
        matmul_bf16_serial(m, scratch);
        return;
    }
    workspace ws = place(scratch);
    for (int64_t c = 0; c < m->N; c += NC) columns(m, c, least(NC, m->N - c), &ws);
}

/* ---- over the pool ---- */

enum { SHARED_B = KC * NS, SHARED_A = MS * LDA, OWN = ROW };

/* A block: rows [r0, r0 + rows) and columns [c0, c0 + cols) of c, [k0, k0 + k) of k. */
typedef struct {
    const ty_matmul *m;
    float *a, *b, *own; /* shared, shared, OWN floats of each member */
    int64_t r0, rows, c0, cols, k0, k;
    int64_t a_rows;       /* of a task that packs a */
    int64_t b_run;        /* columns (stored [N, K]) or rows of k that a task packs of b */
    int64_t n_b;          /* tasks that pack b, before those that pack a; 0: it is packed */
    int64_t piece, group; /* rows and columns of a piece of c */
    int64_t n_group;
} job;

static workspace shared(const job *j, int member) {
    float *own = j->own + (int64_t)member * OWN;
    return (workspace){j->b, j->a, own};
}

static void pack_task(void *ctx, int task, int member) {
    const job *j = ctx;
    const int nr = ty_kernels_get()->nr;
    workspace ws = shared(j, member);
    if (task >= j->n_b) {
        int64_t r = (task - j->n_b) * j->a_rows;
        pack_a(j->m, j->r0 + r, least(j->a_rows, j->rows - r), j->k0, j->k, ws.a + r * LDA);
        return;
    }
    int64_t at = task * j->b_run;
    if (j->m->b_stored_nk) {
        ws.b += at * j->k;
        pack_b_nk(j->m, j->c0 + at, least(j->b_run, j->cols - at), j->k0, j->k, nr, &ws);
    } else
        pack_b_kn(j->m, j->c0, j->cols, j->k0, j->k, at, least(at + j->b_run, j->k), nr, &ws);
}

static void multiply_task(void *ctx, int task, int member) {
    const job *j = ctx;
    const ty_matmul *m = j->m;
    int64_t r = task / j->n_group * j->piece, c = task % j->n_group * j->group;
    (void)member;
    multiply(take_a(m, j->r0 + r, j->k0, j->a + r * LDA),
             take_b(m, j->c0 + c, j->k0, j->k, j->b + c * j->k), least(j->piece, j->rows - r),
             least(j->group, j->cols - c), j->k, m->c + (j->r0 + r) * m->ldc + j->c0 + c, m->ldc,
             m->add || j->k0 > 0);
}

/* Pieces of one size: as many rows as L2 holds, and columns so that there is enough to share out evenly. */
static int cut(job *j, int size) {
    const int nr = ty_kernels_get()->nr;
    int64_t most_rows = PIECE / j->k > MC ? PIECE / j->k : MC;
    int64_t n_row = (j->rows + most_rows - 1) / most_rows, most = (j->cols + 63) / 64, n_col = 1;
    for (int64_t n = 1; n <= most; n++) {
        if (n_row * n % size) continue;
        n_col = n;
        if (n_row * n >= 6 * size) break;
    }
    if (n_row * n_col % size) n_row += size - n_row % size;
    j->piece = (j->rows + n_row - 1) / n_row;
    j->group = ((j->cols + n_col - 1) / n_col + nr - 1) / nr * nr;
    j->n_group = (j->cols + j->group - 1) / j->group;
    return (int)(j->n_group * ((j->rows + j->piece - 1) / j->piece));
}

static void one_block(job *j, ty_pool *pool) {
    int64_t b_all = j->m->b_stored_nk ? j->cols : j->k;
    j->b_run = j->m->b_stored_nk ? TY_KERNEL_MAX_NR : 16;
    j->n_b = j->r0 == 0 && !b_in_place(j->m) ? (b_all + j->b_run - 1) / j->b_run : 0;
    j->a_rows = 48;
    int64_t n_a = a_in_place(j->m) ? 0 : (j->rows + j->a_rows - 1) / j->a_rows;
    ty_pool_run(pool, (int)(j->n_b + n_a), pack_task, j);
    ty_pool_run(pool, cut(j, ty_pool_size(pool)), multiply_task, j);
}

static ty_status no_memory(size_t bytes, ty_err *err) {
    return ty_fail(err, TY_ENOMEM, "matrix product: no memory for %zu bytes", bytes);
}

static ty_status alone(const ty_matmul *m, ty_pool *pool, ty_err *err) {
    size_t bytes = (ty_matmul_scratch() + 63) / 64 * 64;
    void *scratch =
        pool ? ty_pool_scratch(pool, TY_POOL_SCRATCH_MEMBERS, bytes) : aligned_alloc(64, bytes);
    if (!scratch) return no_memory(bytes, err);
    ty_matmul_serial(m, scratch);
    if (!pool) free(scratch);
    return TY_OK;
}

ty_status ty_matmul_run(const ty_matmul *m, ty_pool *pool, ty_err *err) {
    int size = ty_pool_size(pool);
    if (m->M <= 0 || m->N <= 0) return TY_OK;
    if (m->products == TY_PRODUCTS_BF16) return matmul_bf16_run(m, pool, err);
    if (size == 1 || m->M * m->N * m->K <= TASK_MACS) return alone(m, pool, err);
    size_t bytes = (SHARED_A + SHARED_B + (size_t)size * OWN) * sizeof(float);
    job j = {.m = m, .a = ty_pool_scratch(pool, TY_POOL_SCRATCH_MEMBERS, bytes)};
    if (!j.a) return no_memory(bytes, err);
    j.b = j.a + SHARED_A;
    j.own = j.b + SHARED_B;
    int64_t step = step_of(m->K);
    for (j.c0 = 0; j.c0 < m->N; j.c0 += NS)
        for (j.k0 = 0; j.k0 < m->K || j.k0 == 0; j.k0 += step)
            for (j.r0 = 0; j.r0 < m->M; j.r0 += MS) {
                j.cols = least(NS, m->N - j.c0);
                j.k = least(step, m->K - j.k0);
                j.rows = least(MS, m->M - j.r0);
                one_block(&j, pool);
            }
    return TY_OK;
}

/* ---- which products ---- */

static const char *const NAMES[] = {"f32", "bf16"};

int ty_products_parse(const char *name) {
    for (int i = 0; i < 2; i++)
        if (strcmp(name, NAMES[i]) == 0) return i;
    return -1;
}

const char *ty_products_name(ty_products p) {
    return NAMES[p];
}

ty_status ty_products_check(ty_products p, ty_err *err) {
    if (p != TY_PRODUCTS_BF16 || ty_pair_kernels_get() != &ty_pair_kernels_ref) return TY_OK;
    return ty_fail(
        err, TY_EUNSUPPORTED,
        "bf16 products need AVX512-BF16, which this CPU has not or TYTO_CPU (kernels: %s) "
        "hides: use f32 products",
        ty_kernels_get()->name);
}
