/*
 * nn.c - norms, activations, rotary embedding and full attention: rows spread over the pool, the
 * arithmetic in the kernel table.
 */
#include "common/math/nn.h"
#include "common/math/kernel.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Elements under which a task is not worth handing to another thread (some 10 us of work). */
enum { TASK_ELEMENTS = 16384 };

/* Rows of n elements split into tasks of `per` rows. */
typedef struct {
    const ty_kernels *kn;
    int64_t rows, n, per;
    const float *x, *w, *b, *up;
    float *y;
    int64_t ld, ldo;
    float eps;
} row_job;

static void run_rows(ty_pool *p, row_job *j, void (*fn)(void *, int, int)) {
    if (j->rows <= 0) return;
    j->kn = ty_kernels_get();
    int64_t n = j->n > 0 ? j->n : 1, most = 8 * (int64_t)ty_pool_size(p);
    j->per = (TASK_ELEMENTS + n - 1) / n;
    if (j->per * most < j->rows) j->per = (j->rows + most - 1) / most;
    ty_pool_run(p, (int)((j->rows + j->per - 1) / j->per), fn, j);
}

static int64_t last_row(const row_job *j, int task) {
    int64_t end = (task + 1) * j->per;
    return end < j->rows ? end : j->rows;
}

static void layernorm_task(void *ctx, int task, int member) {
    const row_job *j = ctx;
    (void)member;
    for (int64_t r = task * j->per; r < last_row(j, task); r++)
        j->kn->layernorm(j->x + r * j->n, j->n, j->w, j->b, j->eps, j->y + r * j->n);
}

void ty_layernorm(ty_pool *p, const float *x, int64_t rows, int64_t n, const float *w,
                  const float *b, float eps, float *y) {
    row_job j = {.rows = rows, .n = n, .x = x, .w = w, .b = b, .eps = eps, .y = y};
    run_rows(p, &j, layernorm_task);
}

static void rmsnorm_task(void *ctx, int task, int member) {
    const row_job *j = ctx;
    (void)member;
    for (int64_t r = task * j->per; r < last_row(j, task); r++)
        j->kn->rmsnorm(j->x + r * j->n, j->n, j->w, j->eps, j->y + r * j->n);
}

void ty_rmsnorm(ty_pool *p, const float *x, int64_t rows, int64_t n, const float *w, float eps,
                float *y) {
    row_job j = {.rows = rows, .n = n, .x = x, .w = w, .eps = eps, .y = y};
    run_rows(p, &j, rmsnorm_task);
}

static void quick_gelu_task(void *ctx, int task, int member) {
    const row_job *j = ctx;
    (void)member;
    for (int64_t r = task * j->per; r < last_row(j, task); r++)
        j->kn->quick_gelu(j->y + r * j->ld, j->n);
}

void ty_quick_gelu(ty_pool *p, float *x, int64_t rows, int64_t n, int64_t ldx) {
    row_job j = {.rows = rows, .n = n, .y = x, .ld = ldx};
    run_rows(p, &j, quick_gelu_task);
}

static void gelu_tanh_task(void *ctx, int task, int member) {
    const row_job *j = ctx;
    (void)member;
    for (int64_t r = task * j->per; r < last_row(j, task); r++)
        j->kn->gelu_tanh(j->y + r * j->ld, j->n);
}

void ty_gelu_tanh(ty_pool *p, float *x, int64_t rows, int64_t n, int64_t ldx) {
    row_job j = {.rows = rows, .n = n, .y = x, .ld = ldx};
    run_rows(p, &j, gelu_tanh_task);
}

static void silu_mul_task(void *ctx, int task, int member) {
    const row_job *j = ctx;
    (void)member;
    for (int64_t r = task * j->per; r < last_row(j, task); r++)
        j->kn->silu_mul(j->x + r * j->ld, j->up + r * j->ld, j->n, j->y + r * j->ldo);
}

void ty_silu_mul(ty_pool *p, const float *gate, const float *up, int64_t rows, int64_t n,
                 int64_t ld, float *out, int64_t ldo) {
    row_job j = {.rows = rows, .n = n, .x = gate, .up = up, .ld = ld, .y = out, .ldo = ldo};
    run_rows(p, &j, silu_mul_task);
}

static void add_task(void *ctx, int task, int member) {
    const row_job *j = ctx;
    int64_t i = task * j->per;
    (void)member;
    ty_kernels_get()->add_row(j->x + i, last_row(j, task) - i, j->y + i);
}

void ty_add(ty_pool *p, float *y, const float *x, int64_t n) {
    row_job j = {.rows = n, .n = 1, .x = x, .y = y};
    run_rows(p, &j, add_task);
}

void ty_rope_half(float *x, int n_head, int d, const float *cos, const float *sin) {
    int half = d / 2;
    for (int h = 0; h < n_head; h++, x += d)
        for (int j = 0; j < half; j++) {
            float a = x[j], b = x[j + half];
            x[j] = a * cos[j] - b * sin[j];
            x[j + half] = b * cos[j] + a * sin[j];
        }
}

void ty_rope_pair(float *x, int n_head, int d, const float *cos, const float *sin) {
    for (int h = 0; h < n_head; h++, x += d)
        for (int j = 0; j < d / 2; j++) {
            float a = x[2 * j], b = x[2 * j + 1];
            x[2 * j] = a * cos[j] - b * sin[j];
            x[2 * j + 1] = b * cos[j] + a * sin[j];
        }
}

/*
 * Full attention.  A task is one head of one sample and a run of its query rows: it packs the head's
 * keys and values into panels (they fit L2 at the sizes of these models), then takes QT query rows at
 * a time: scores of the tile, softmax row by row, values.  Only this much ever leaves the model's own
 * layout.
 */
enum { QT = 48 };

typedef struct {
    const ty_attention *a;
    const ty_kernels *kn;
    int n_chunk, chunk;    /* runs of query rows per head */
    int64_t kp, vp;        /* columns padded to panels: of scores, of values */
    int64_t member_floats; /* scratch per member */
    float *scratch;
} attention_job;

/* keys [n_kv][d] -> panels [n_kv / nr][d][nr], padded with zeros. */
static void pack_keys(const attention_job *j, const float *k, float *out) {
    const ty_attention *a = j->a;
    int nr = j->kn->nr, d = a->d;
    for (int64_t t = 0; t < j->kp; t++) {
        float *panel = out + t / nr * nr * d + t % nr;
        for (int i = 0; i < d; i++) panel[(int64_t)i * nr] = t < a->n_kv ? k[t * a->ldk + i] : 0;
    }
}

/* values [n_kv][d] -> panels [d / nr][n_kv][nr]. */
static void pack_values(const attention_job *j, const float *v, float *out) {
    const ty_attention *a = j->a;
    int nr = j->kn->nr;
    for (int64_t c = 0; c < j->vp; c += nr, out += (int64_t)nr * a->n_kv) {
        int w = a->d - c < nr ? (int)(a->d - c) : nr;
        for (int64_t t = 0; t < a->n_kv; t++) {
            memcpy(out + t * nr, v + t * a->ldv + c, (size_t)w * sizeof *out);
            memset(out + t * nr + w, 0, (size_t)(nr - w) * sizeof *out);
        }
    }
}

static void softmax_tile(const attention_job *j, float *s, int rows, float *inverse) {
    const ty_attention *a = j->a;
    for (int i = 0; i < rows; i++, s += j->kp) {
        j->kn->scale(s, a->n_kv, a->scale);
        float sum = j->kn->exp_sum(s, a->n_kv, j->kn->max(s, a->n_kv));
        inverse[i] = 1.0f / sum;
    }
}

/* Rows of a tile go to the gemm kernels in runs of at most mr. */
static void gemm_rows(const attention_job *j, int rows, int64_t k, const float *x, int64_t ldx,
                      const float *panels, int64_t cols, float *y) {
    const ty_kernels *kn = j->kn;
    for (int64_t c = 0; c < cols; c += kn->nr)
        for (int i = 0; i < rows; i += kn->mr)
            kn->gemm_f32(rows - i < kn->mr ? rows - i : kn->mr, k, x + i * ldx, ldx, panels + c * k,
                         k * kn->nr, 1, y + i * cols + c, cols, false);
}

static void attention_task(void *ctx, int task, int member) {
    const attention_job *j = ctx;
    const ty_attention *a = j->a;
    int64_t head = task / j->n_chunk % a->n_head, b = task / j->n_chunk / a->n_head;
    int64_t q0 = (int64_t)(task % j->n_chunk) * j->chunk;
    int64_t q1 = q0 + j->chunk < a->n_q ? q0 + j->chunk : a->n_q;
    float *keys = j->scratch + member * j->member_floats;
    float *values = keys + j->kp * a->d, *s = values + j->vp * a->n_kv, *o = s + QT * j->kp;
    float inverse[QT];
    pack_keys(j, a->k + b * a->n_kv * a->ldk + head * a->hdk, keys);
    pack_values(j, a->v + b * a->n_kv * a->ldv + head * a->hdv, values);
    for (int64_t r = q0; r < q1; r += QT) {
        int rows = q1 - r < QT ? (int)(q1 - r) : QT;
        const float *q = a->q + (b * a->n_q + r) * a->ldq + head * a->hdq;
        float *out = a->ctx + (b * a->n_q + r) * a->ldo + head * a->d;
        gemm_rows(j, rows, a->d, q, a->ldq, keys, j->kp, s);
        softmax_tile(j, s, rows, inverse);
        gemm_rows(j, rows, a->n_kv, s, j->kp, values, j->vp, o);
        for (int i = 0; i < rows; i++)
            for (int t = 0; t < a->d; t++) out[i * a->ldo + t] = o[i * j->vp + t] * inverse[i];
    }
}

/* Enough tasks to share out, whole tiles each, without packing a head's keys more than needed. */
static void split_queries(attention_job *j, int size) {
    int heads = j->a->n_batch * j->a->n_head, tiles = (j->a->n_q + QT - 1) / QT;
    int want = (4 * size + heads - 1) / heads;
    int per = (tiles + want - 1) / want;
    j->chunk = (per > 0 ? per : 1) * QT;
    j->n_chunk = (j->a->n_q + j->chunk - 1) / j->chunk;
}

ty_attention ty_attention_of_qkv(const float *qkv, int n_batch, int n_token, int n_head, int d,
                                 float *ctx) {
    int64_t c = (int64_t)n_head * d;
    return (ty_attention){.q = qkv,
                          .k = qkv + d,
                          .v = qkv + 2 * d,
                          .ldq = 3 * c,
                          .ldk = 3 * c,
                          .ldv = 3 * c,
                          .hdq = 3 * d,
                          .hdk = 3 * d,
                          .hdv = 3 * d,
                          .n_batch = n_batch,
                          .n_q = n_token,
                          .n_kv = n_token,
                          .n_head = n_head,
                          .d = d,
                          .scale = 1.0f / sqrtf((float)d),
                          .ctx = ctx,
                          .ldo = c};
}

ty_status ty_attention_full(ty_pool *p, const ty_attention *a, ty_err *err) {
    if (a->n_batch <= 0 || a->n_head <= 0 || a->n_q <= 0) return TY_OK;
    attention_job j = {.a = a, .kn = ty_kernels_get()};
    int nr = j.kn->nr, size = ty_pool_size(p);
    j.kp = (int64_t)(a->n_kv + nr - 1) / nr * nr;
    j.vp = (int64_t)(a->d + nr - 1) / nr * nr;
    split_queries(&j, size);
    j.member_floats = j.kp * a->d + j.vp * a->n_kv + QT * (j.kp + j.vp);
    j.member_floats = (j.member_floats + 15) / 16 * 16;
    size_t bytes = (size_t)j.member_floats * (size_t)size * sizeof(float);
    j.scratch = p ? ty_pool_scratch(p, TY_POOL_SCRATCH_ATTENTION, bytes) : aligned_alloc(64, bytes);
    if (!j.scratch) return ty_fail(err, TY_ENOMEM, "attention: no memory for %zu bytes", bytes);
    ty_pool_run(p, a->n_batch * a->n_head * j.n_chunk, attention_task, &j);
    if (!p) free(j.scratch);
    return TY_OK;
}
