/*
 * matmul.c - see matmul.h.  A task is a block of c: it packs a KC x NC piece of b into the panels of
 * kernel.h, which stay in L2, then takes MC rows of a at a time, packed too, so that neither operand's
 * own strides reach the kernel.  K runs in steps of KC with c added to, which keeps the order of sums.
 */
#include "common/math/matmul.h"
#include "common/math/kernel.h"

#include <stdlib.h>
#include <string.h>

enum {
    KC = 384, /* a panel piece of 32 columns is 48 KiB: a stream out of L2 */
    NC = 512, /* the packed piece of b is 768 KiB: with a's 190 KiB it fits an L2 of 1 MiB */
    MC = 120, /* rows of a packed at a time; a multiple of 12 and of 6 rows of a tile */
    ROW = KC > NC ? KC : NC,
    LDA = KC + 16, /* rows away from multiples of 4 KiB */
    TASK_MACS = 1 << 17,
    TILE = TY_KERNEL_MAX_MR * TY_KERNEL_MAX_NR,
};

typedef struct {
    float *b;    /* [NC / nr][KC][nr] */
    float *a;    /* [MC][LDA] */
    float *row;  /* [max(KC, NC)] one widened row */
    float *tile; /* what a kernel writes where a panel reaches past the block */
} workspace;

static const size_t B_FLOATS = (size_t)KC * NC, A_FLOATS = (size_t)MC * LDA;

size_t ty_matmul_scratch(void) {
    return (B_FLOATS + A_FLOATS + ROW + TILE) * sizeof(float);
}

static workspace place(void *scratch) {
    float *at = scratch;
    return (workspace){at, at + B_FLOATS, at + B_FLOATS + A_FLOATS, at + B_FLOATS + A_FLOATS + ROW};
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

/* Row r of b, elements [first, first + n), as floats: in place where they are that already. */
static const float *b_row(const ty_matmul *m, int64_t r, int64_t first, int64_t n, float *wide) {
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
                transpose(b_row(m, n0 + p + j, k0, k, ws->row), 0, 1, k, panel + j, nr);
    }
}

/* A panel's width, by eights: the compiler knows how to copy those. */
static void copy_floats(float *dst, const float *src, int n) {
    int i = 0;
    for (; i + 8 <= n; i += 8) memcpy(dst + i, src + i, 8 * sizeof *src);
    for (; i < n; i++) dst[i] = src[i];
}

/* Row by row of what is stored, so that reading is a stream; the panels written lie in L2. */
static void pack_b_kn(const ty_matmul *m, int64_t n0, int64_t n, int64_t k0, int64_t k, int nr,
                      const workspace *ws) {
    for (int64_t t = 0; t < k; t++) {
        const float *x = b_row(m, k0 + t, n0, n, ws->row);
        float *out = ws->b + t * nr;
        int64_t p = 0;
        for (; p + nr <= n; p += nr) copy_floats(out + p * k, x + p, nr);
        if (p == n) continue;
        memcpy(out + p * k, x + p, (size_t)(n - p) * sizeof *x);
        memset(out + p * k + n - p, 0, (size_t)(nr - n + p) * sizeof *x);
    }
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

/* ---- one block ---- */

/* A last panel that reaches past the block goes through the tile. */
static void part_panel(const ty_kernels *kn, int rows, int64_t k, const float *a,
                       const float *panel, float *c, int64_t ldc, int64_t cols, bool add,
                       float *tile) {
    for (int i = 0; i < rows && add; i++)
        memcpy(tile + i * kn->nr, c + i * ldc, (size_t)cols * sizeof *c);
    kn->gemm_f32(rows, k, a, LDA, panel, k * kn->nr, 1, tile, kn->nr, add);
    for (int i = 0; i < rows; i++) memcpy(c + i * ldc, tile + i * kn->nr, (size_t)cols * sizeof *c);
}

static void multiply(const ty_kernels *kn, const workspace *ws, int64_t rows, int64_t n, int64_t k,
                     float *c, int64_t ldc, bool add) {
    for (int64_t p = 0; p < n; p += kn->nr) {
        const float *panel = ws->b + p * k;
        int64_t cols = least(kn->nr, n - p);
        for (int64_t r = 0; r < rows; r += kn->mr) {
            int some = (int)least(kn->mr, rows - r);
            const float *a = ws->a + r * LDA;
            float *out = c + r * ldc + p;
            if (cols == kn->nr)
                kn->gemm_f32(some, k, a, LDA, panel, k * kn->nr, 1, out, ldc, add);
            else
                part_panel(kn, some, k, a, panel, out, ldc, cols, add, ws->tile);
        }
    }
}

static void block(const ty_matmul *m, int64_t r0, int64_t r1, int64_t c0, int64_t c1,
                  const workspace *ws) {
    const ty_kernels *kn = ty_kernels_get();
    for (int64_t k0 = 0; k0 < m->K || k0 == 0; k0 += KC) {
        int64_t k = least(KC, m->K - k0);
        (m->b_stored_nk ? pack_b_nk : pack_b_kn)(m, c0, c1 - c0, k0, k, kn->nr, ws);
        for (int64_t r = r0; r < r1; r += MC) {
            int64_t rows = least(MC, r1 - r);
            pack_a(m, r, rows, k0, k, ws->a);
            multiply(kn, ws, rows, c1 - c0, k, m->c + r * m->ldc + c0, m->ldc, m->add || k0 > 0);
        }
    }
}

void ty_matmul_serial(const ty_matmul *m, void *scratch) {
    workspace ws = place(scratch);
    for (int64_t c = 0; c < m->N; c += NC) block(m, 0, m->M, c, least(c + NC, m->N), &ws);
}

/* ---- over the pool ---- */

typedef struct {
    const ty_matmul *m;
    uint8_t *scratch;
    int64_t rows, cols; /* of a task */
    int64_t n_col;
} job;

static void task_block(void *ctx, int task, int member) {
    const job *j = ctx;
    workspace ws = place(j->scratch + (size_t)member * ty_matmul_scratch());
    int64_t r = task / j->n_col * j->rows, c = task % j->n_col * j->cols;
    block(j->m, r, least(r + j->rows, j->m->M), c, least(c + j->cols, j->m->N), &ws);
}

/* Cuts c into blocks of at most NC columns, enough of them to share out, and so that the least is packed:
 * each block packs its own rows of a and columns of b. */
static int plan(job *j, int size) {
    const ty_matmul *m = j->m;
    int64_t want = size > 1 && m->M * m->N * m->K > TASK_MACS ? 4 * (int64_t)size : 1;
    int64_t fewest = (m->N + NC - 1) / NC, most = least(want, (m->N + 127) / 128);
    int64_t best_tasks = 0, best_packed = 0, best_col = fewest, best_row = 1;
    for (int64_t n_col = fewest; n_col == fewest || n_col <= most; n_col++) {
        int64_t n_row = least((want + n_col - 1) / n_col, (m->M + MC - 1) / MC);
        int64_t tasks = least(n_col * n_row, want), packed = n_col * m->M + n_row * m->N;
        if (tasks < best_tasks || (tasks == best_tasks && packed >= best_packed)) continue;
        best_tasks = tasks, best_packed = packed, best_col = n_col, best_row = n_row;
    }
    j->cols = ((m->N + best_col - 1) / best_col + 31) / 32 * 32;
    j->n_col = (m->N + j->cols - 1) / j->cols;
    j->rows = (m->M + best_row - 1) / best_row;
    return (int)(j->n_col * ((m->M + j->rows - 1) / j->rows));
}

ty_status ty_matmul_run(const ty_matmul *m, ty_pool *pool, ty_err *err) {
    if (m->M <= 0 || m->N <= 0) return TY_OK;
    job j = {.m = m};
    int n = plan(&j, ty_pool_size(pool));
    size_t bytes = ty_matmul_scratch() * (size_t)ty_pool_size(pool);
    j.scratch = pool ? ty_pool_scratch(pool, TY_POOL_SCRATCH_MEMBERS, bytes)
                     : aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!j.scratch)
        return ty_fail(err, TY_ENOMEM, "matrix product: no memory for %zu bytes", bytes);
    ty_pool_run(pool, n, task_block, &j);
    if (!pool) free(j.scratch);
    return TY_OK;
}
