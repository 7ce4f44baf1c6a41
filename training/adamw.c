#include "training/adamw.h"

#include <math.h>
#include <string.h>

enum { PIECE = 1 << 14 };

int adamw_parse(const char *name) {
    if (strcmp(name, "adamw_hf") == 0) return ADAMW_HF;
    return strcmp(name, "adamw_torch") == 0 ? ADAMW_TORCH : -1;
}

/* The share in as many parts however many threads there are, so that the sum's bits do not show them. */
enum { PARTS = 256, LANES = 8 };

typedef struct {
    const float *grad;
    int64_t n, per;
    double part[PARTS];
} square_job;

static void square_task(void *ctx, int task, int member) {
    square_job *j = ctx;
    double lane[LANES] = {0};
    (void)member;
    int64_t end = (task + 1) * j->per < j->n ? (task + 1) * j->per : j->n;
    for (int64_t i = task * j->per; i < end; i += LANES)
        for (int l = 0; l < LANES; l++) lane[l] += (double)j->grad[i + l] * (double)j->grad[i + l];
    for (int l = 0; l < LANES; l++) j->part[task] += lane[l];
}

double adamw_grad_squares(const param_set *s, ty_pool *pool) {
    square_job j = {.grad = s->grads + s->first, .n = s->last - s->first};
    double sum = 0;
    j.per = (j.n / PARTS + LANES) / LANES * LANES; /* shares are multiples of 16 long */
    ty_pool_run(j.n < PIECE ? NULL : pool, PARTS, square_task, &j);
    for (int i = 0; i < PARTS; i++) sum += j.part[i];
    return sum;
}

double adamw_clip(double norm, double max) {
    double factor = max / (norm + 1e-6);
    return max > 0 && factor < 1 ? factor : 1;
}

/* What does not change from element to element, in f32 as PyTorch's scalars end up. */
typedef struct {
    param_set *s;
    adamw_kind kind;
    float beta1, beta2, one_minus_1, one_minus_2, eps, step, root2, decay, scale;
} job;

/* Elements [from, to) of the flat arrays, all of one parameter. */
static void update(const job *j, bool decays, int64_t from, int64_t to) {
    const param_set *s = j->s;
    const float *grad = s->grads + from;
    float decay = decays ? j->decay : 0, *value = s->values + from;
    float *ms = s->m + from - s->first, *vs = s->v + from - s->first;
    for (int64_t i = 0; i < to - from; i++) {
        float g = grad[i] * j->scale, x = value[i];
        float m = ms[i] = j->kind == ADAMW_TORCH ? ms[i] + j->one_minus_1 * (g - ms[i])
                                                 : ms[i] * j->beta1 + j->one_minus_1 * g;
        float v = vs[i] = vs[i] * j->beta2 + j->one_minus_2 * g * g;
        if (j->kind == ADAMW_TORCH) {
            x *= 1 - decay;
            x -= j->step * (m / (sqrtf(v) / j->root2 + j->eps));
        } else {
            x -= j->step * (m / (sqrtf(v) + j->eps));
            x -= decay * x;
        }
        value[i] = x;
    }
}

/* Elements [a, b) of the flat arrays: the parts of the parameters that lie there. */
static void update_task(void *ctx, int task, int member) {
    const job *j = ctx;
    (void)member;
    int64_t a = j->s->first + (int64_t)task * PIECE;
    int64_t b = a + PIECE < j->s->last ? a + PIECE : j->s->last;
    for (int i = 0; i < j->s->n; i++) {
        const param *p = j->s->item[i];
        if (!p->grad || !p->touched) continue;
        int64_t at = p->grad - j->s->grads;
        int64_t from = a > at ? a : at, to = b < at + p->count ? b : at + p->count;
        if (from < to) update(j, p->decay, from, to);
    }
}

void adamw_step(const adamw *a, param_set *s, ty_pool *pool, int64_t t, double lr, double scale) {
    double c1 = 1 - pow(a->beta1, (double)t), c2 = 1 - pow(a->beta2, (double)t);
    job j = {.s = s,
             .kind = a->kind,
             .beta1 = (float)a->beta1,
             .beta2 = (float)a->beta2,
             .one_minus_1 = (float)(1 - a->beta1),
             .one_minus_2 = (float)(1 - a->beta2),
             .eps = (float)a->eps,
             .root2 = (float)sqrt(c2),
             .decay = (float)(lr * a->weight_decay),
             .scale = (float)scale};
    j.step = (float)(a->kind == ADAMW_TORCH ? lr / c1 : lr * sqrt(c2) / c1);
    if (s->last <= s->first) return;
    ty_pool_run(pool, (int)((s->last - s->first + PIECE - 1) / PIECE), update_task, &j);
}
