/*
 * matmul_bf16.c - products of operands rounded to bf16 (matmul.h).  A task is a block of c: it packs a
 * KC x NC piece of b into panels of pairs, which stay in L2, then takes MC rows of a at a time, packed too.
 * K runs in steps of KC with c added to, which keeps the order of sums.
 */
#include "common/math/kernel.h"
#include "common/math/matmul_block.h"

#include <stdlib.h>
#include <string.h>

enum {
    KP = 384, /* pairs: a panel piece of 32 columns is 48 KiB */
    KC = 2 * KP,
    NC = 512,      /* columns of b packed at a time: 768 KiB */
    MC = 120,      /* rows of a packed at a time; a multiple of 12 rows of a tile */
    LDA = KP + 16, /* rows away from multiples of 4 KiB */
    WIDE = 16,     /* rows of b that are widened together */
    TILE = TY_KERNEL_MAX_MR * TY_KERNEL_MAX_NR,
};

typedef struct {
    uint32_t *b; /* [NC / nr][KP][nr] */
    uint32_t *a; /* [MC][LDA] */
    float *rows; /* [WIDE][KC] widened rows */
    float *tile; /* what a kernel writes where a panel reaches past the block */
} workspace;

static const size_t B_PAIRS = (size_t)KP * NC, A_PAIRS = (size_t)MC * LDA;

size_t matmul_bf16_scratch(void) {
    return (B_PAIRS + A_PAIRS + (size_t)WIDE * KC + TILE) * 4;
}

static workspace place(void *scratch) {
    uint32_t *b = scratch;
    float *rows = (float *)scratch + B_PAIRS + A_PAIRS;
    return (workspace){b, b + B_PAIRS, rows, rows + WIDE * KC};
}

static int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* ---- packing ---- */

/* Rows [n0, n0 + n) x k [k0, k0 + k) of a stored [N, K] b, into panels. */
static void pack_b_nk(const ty_pair_kernels *pk, const ty_matmul *m, int64_t n0, int64_t n,
                      int64_t k0, int64_t k, const workspace *ws) {
    for (int64_t p = 0; p < n; p += pk->nr) {
        uint32_t *panel = ws->b + p * ((k + 1) / 2);
        int64_t cols = least(pk->nr, n - p);
        if (cols < pk->nr) memset(panel, 0, (size_t)((k + 1) / 2 * pk->nr) * sizeof *panel);
        if (m->b_type == TY_F32) {
            pk->along_turned((const float *)m->b + (n0 + p) * m->ldb + k0, m->ldb, cols, k, panel,
                             pk->nr);
            continue;
        }
        for (int64_t j = 0; j < cols; j += WIDE) {
            int64_t some = least(WIDE, cols - j);
            for (int64_t i = 0; i < some; i++)
                matmul_b_row(m, n0 + p + j + i, k0, k, ws->rows + i * KC);
            pk->along_turned(ws->rows, KC, some, k, panel + j, pk->nr);
        }
    }
}

/* Two rows at a time of what is stored, so that reading is a stream; the panels written lie in L2. */
static void pack_b_kn(const ty_pair_kernels *pk, const ty_matmul *m, int64_t n0, int64_t n,
                      int64_t k0, int64_t k, const workspace *ws) {
    for (int64_t t = 0; t < k; t += 2) {
        int64_t some = least(2, k - t), lds = m->ldb;
        const float *x = (const float *)m->b + (k0 + t) * lds + n0;
        if (m->b_type != TY_F32) {
            x = ws->rows;
            lds = KC;
            for (int64_t i = 0; i < some; i++)
                matmul_b_row(m, k0 + t + i, n0, n, ws->rows + i * KC);
        }
        for (int64_t p = 0; p < n; p += pk->nr) {
            uint32_t *out = ws->b + p * ((k + 1) / 2) + t / 2 * pk->nr;
            int64_t cols = least(pk->nr, n - p);
            if (cols < pk->nr) memset(out, 0, (size_t)pk->nr * sizeof *out);
            pk->across(x + p, lds, some, cols, out, pk->nr);
        }
    }
}

static void pack_a(const ty_pair_kernels *pk, const ty_matmul *m, int64_t r0, int64_t rows,
                   int64_t k0, int64_t k, uint32_t *out) {
    if (m->a_stored_km)
        pk->across_turned(m->a + k0 * m->lda + r0, m->lda, k, rows, out, LDA);
    else
        pk->along(m->a + r0 * m->lda + k0, m->lda, rows, k, out, LDA);
}

/* ---- one block ---- */

/* A last panel that reaches past the block goes through the tile. */
static void part_panel(const ty_pair_kernels *pk, int rows, int64_t n_pair, const uint32_t *a,
                       const uint32_t *panel, float *c, int64_t ldc, int64_t cols, bool add,
                       float *tile) {
    for (int i = 0; i < rows && add; i++)
        memcpy(tile + i * pk->nr, c + i * ldc, (size_t)cols * sizeof *c);
    pk->gemm(rows, n_pair, a, LDA, panel, tile, pk->nr, add);
    for (int i = 0; i < rows; i++) memcpy(c + i * ldc, tile + i * pk->nr, (size_t)cols * sizeof *c);
}

static void multiply(const ty_pair_kernels *pk, const workspace *ws, int64_t rows, int64_t n,
                     int64_t n_pair, float *c, int64_t ldc, bool add) {
    for (int64_t p = 0; p < n; p += pk->nr) {
        const uint32_t *panel = ws->b + p * n_pair;
        int64_t cols = least(pk->nr, n - p);
        for (int64_t r = 0; r < rows; r += pk->mr) {
            int some = (int)least(pk->mr, rows - r);
            const uint32_t *a = ws->a + r * LDA;
            float *out = c + r * ldc + p;
            if (cols == pk->nr)
                pk->gemm(some, n_pair, a, LDA, panel, out, ldc, add);
            else
                part_panel(pk, some, n_pair, a, panel, out, ldc, cols, add, ws->tile);
        }
    }
}

static void block(const ty_matmul *m, int64_t r0, int64_t r1, int64_t c0, int64_t c1,
                  void *scratch) {
    const ty_pair_kernels *pk = ty_pair_kernels_get();
    workspace ws = place(scratch);
    for (int64_t k0 = 0; k0 < m->K || k0 == 0; k0 += KC) {
        int64_t k = least(KC, m->K - k0);
        (m->b_stored_nk ? pack_b_nk : pack_b_kn)(pk, m, c0, c1 - c0, k0, k, &ws);
        for (int64_t r = r0; r < r1; r += MC) {
            int64_t rows = least(MC, r1 - r);
            pack_a(pk, m, r, rows, k0, k, ws.a);
            multiply(pk, &ws, rows, c1 - c0, (k + 1) / 2, m->c + r * m->ldc + c0, m->ldc,
                     m->add || k0 > 0);
        }
    }
}

void matmul_bf16_serial(const ty_matmul *m, void *scratch) {
    for (int64_t c = 0; c < m->N; c += NC) block(m, 0, m->M, c, least(c + NC, m->N), scratch);
}

/* ---- over the pool ---- */

typedef struct {
    const ty_matmul *m;
    uint8_t *scratch;
    int64_t rows, cols; /* of a task */
    int64_t n_row, n_col;
} job;

static void task_block(void *ctx, int task, int member) {
    const job *j = ctx;
    int64_t r = task / j->n_col * j->rows, c = task % j->n_col * j->cols;
    block(j->m, r, least(r + j->rows, j->m->M), c, least(c + j->cols, j->m->N),
          j->scratch + (size_t)member * matmul_bf16_scratch());
}

/* A few tasks for each member.  Each packs its rows of a and its columns of b: of the ways to cut c, the
 * one that packs least. */
static int plan(job *j, int size) {
    enum { PER_MEMBER = 2, ROWS = 48, COLS = 64, SMALL = 1 << 17 };
    const ty_matmul *m = j->m;
    int64_t want = size > 1 && m->M * m->N * m->K > SMALL ? PER_MEMBER * (int64_t)size : 1;
    int64_t least_col = (m->N + NC - 1) / NC, best = INT64_MAX;
    for (int64_t n_col = least_col; n_col == least_col || n_col <= want; n_col++) {
        int64_t n_row = (want + n_col - 1) / n_col, cost = n_col * m->M + n_row * m->N;
        int64_t cols = ((m->N + n_col - 1) / n_col + 31) / 32 * 32;
        int64_t rows = ((m->M + n_row - 1) / n_row + 11) / 12 * 12;
        if (n_col > least_col && (cols < COLS || cost >= best)) continue;
        best = cost;
        j->cols = cols;
        j->rows = rows < ROWS ? ROWS : rows;
    }
    j->n_col = (m->N + j->cols - 1) / j->cols;
    j->n_row = (m->M + j->rows - 1) / j->rows;
    return (int)(j->n_col * j->n_row);
}

ty_status matmul_bf16_run(const ty_matmul *m, ty_pool *pool, ty_err *err) {
    job j = {.m = m};
    int n = plan(&j, ty_pool_size(pool));
    size_t bytes = (matmul_bf16_scratch() * (size_t)ty_pool_size(pool) + 63) / 64 * 64;
    j.scratch =
        pool ? ty_pool_scratch(pool, TY_POOL_SCRATCH_MEMBERS, bytes) : aligned_alloc(64, bytes);
    if (!j.scratch)
        return ty_fail(err, TY_ENOMEM, "matrix product: no memory for %zu bytes", bytes);
    ty_pool_run(pool, n, task_block, &j);
    if (!pool) free(j.scratch);
    return TY_OK;
}
