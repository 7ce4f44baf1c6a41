/* contract.c - see contract.h. */
#include "services/broker/contract.h"

#include "common/base/buf.h"

#include <stdio.h>
#include <string.h>

enum { ANY = -1, DIMS_MAX = 8, TEXT_MAX = 160 };

/* One side of a comparison; shape is borrowed. */
typedef struct {
    const char *who, *verb, *name;
    Tyto__DType dtype;
    size_t n_dim;
    int64_t shape[DIMS_MAX];
} side;

static side spec_side(const char *who, const char *verb, const Tyto__TensorSpec *s) {
    side x = {.who = who, .verb = verb, .name = s->name, .dtype = s->dtype, .n_dim = s->n_shape};
    for (size_t i = 0; i < s->n_shape && i < DIMS_MAX; i++) x.shape[i] = s->shape[i];
    return x;
}

static const char *dtype_text(Tyto__DType t) {
    static const char *const names[] = {"none", "f32", "f16", "bf16", "u8", "i32"};
    return (unsigned)t < sizeof(names) / sizeof(names[0]) ? names[t] : "?";
}

/* "vit gives image_features f32 [257,1024]" */
static void side_text(const side *s, char *out, size_t size) {
    ty_buf b = ty_buf_make(size - 1);
    ty_buf_printf(&b, "%.32s %s %.48s %s [", s->who, s->verb, s->name, dtype_text(s->dtype));
    for (size_t i = 0; i < s->n_dim; i++) {
        if (i) ty_buf_puts(&b, ",");
        if (s->shape[i] == ANY)
            ty_buf_puts(&b, "any");
        else
            ty_buf_printf(&b, "%lld", (long long)s->shape[i]);
    }
    ty_buf_puts(&b, "]");
    snprintf(out, size, "%s", b.data ? b.data : "");
    ty_buf_clear(&b);
}

static ty_status compare(const side *a, const side *b, ty_status code, ty_err *err) {
    char at[TEXT_MAX], bt[TEXT_MAX];
    side_text(a, at, sizeof(at));
    side_text(b, bt, sizeof(bt));
    if (a->dtype != b->dtype)
        return ty_fail(err, code, "%s, %s: the types differ, %s against %s", at, bt,
                       dtype_text(a->dtype), dtype_text(b->dtype));
    if (a->n_dim != b->n_dim)
        return ty_fail(err, code, "%s, %s: %zu dimensions against %zu", at, bt, a->n_dim, b->n_dim);
    for (size_t i = 0; i < a->n_dim; i++)
        if (a->shape[i] != ANY && b->shape[i] != ANY && a->shape[i] != b->shape[i])
            return ty_fail(err, code, "%s, %s: dimension %zu is %lld against %lld", at, bt, i,
                           (long long)a->shape[i], (long long)b->shape[i]);
    return TY_OK;
}

static const Tyto__TensorSpec *find_spec(Tyto__TensorSpec **specs, size_t n, const char *name) {
    for (size_t i = 0; i < n; i++)
        if (strcmp(specs[i]->name, name) == 0) return specs[i];
    return NULL;
}

static ty_status check_specs(Tyto__TensorSpec **specs, size_t n, const char *what, ty_err *err) {
    for (size_t i = 0; i < n; i++) {
        const Tyto__TensorSpec *s = specs[i];
        if (!*s->name || s->dtype == TYTO__DTYPE__DTYPE_NONE || s->n_shape > DIMS_MAX)
            return ty_fail(err, TY_EINVAL,
                           "hello: %s %zu (\"%.48s\") wants a name, a dtype and at "
                           "most %d dimensions",
                           what, i, s->name, DIMS_MAX);
        for (size_t k = 0; k < s->n_shape; k++)
            if (s->shape[k] < ANY)
                return ty_fail(err, TY_EINVAL, "hello: %s %.48s: dimension %zu is %lld", what,
                               s->name, k, (long long)s->shape[k]);
    }
    return TY_OK;
}

ty_status broker_contract_hello(const Tyto__Hello *h, ty_err *err) {
    if (!*h->worker) return ty_fail(err, TY_EINVAL, "hello: worker is empty");
    if (!*h->stage) return ty_fail(err, TY_EINVAL, "hello: worker %.64s names no stage", h->worker);
    if (!*h->model) return ty_fail(err, TY_EINVAL, "hello: worker %.64s names no model", h->worker);
    ty_status st = check_specs(h->takes, h->n_takes, "takes", err);
    return st == TY_OK ? check_specs(h->gives, h->n_gives, "gives", err) : st;
}

ty_status broker_contract_fit(const Tyto__Hello *from, const Tyto__Hello *to, ty_err *err) {
    for (size_t i = 0; i < to->n_takes; i++) {
        const Tyto__TensorSpec *want = to->takes[i];
        const Tyto__TensorSpec *has = find_spec(from->gives, from->n_gives, want->name);
        if (!has)
            return ty_fail(err, TY_ECONTRACT, "%.32s takes %.48s, which %.32s does not give",
                           to->stage, want->name, from->stage);
        side a = spec_side(from->stage, "gives", has), b = spec_side(to->stage, "takes", want);
        ty_status st = compare(&a, &b, TY_ECONTRACT, err);
        if (st != TY_OK) return st;
    }
    return TY_OK;
}

static ty_status same_specs(const char *aw, Tyto__TensorSpec **a, size_t na, const char *bw,
                            Tyto__TensorSpec **b, size_t nb, const char *verb, ty_err *err) {
    if (na != nb)
        return ty_fail(err, TY_ECONTRACT, "%.64s %s %zu tensors, %.64s %zu, of one model", aw, verb,
                       na, bw, nb);
    for (size_t i = 0; i < na; i++) {
        const Tyto__TensorSpec *other = find_spec(b, nb, a[i]->name);
        if (!other)
            return ty_fail(err, TY_ECONTRACT, "%.64s %s %.48s, %.64s does not, of one model", aw,
                           verb, a[i]->name, bw);
        side x = spec_side(aw, verb, a[i]), y = spec_side(bw, verb, other);
        ty_status st = compare(&x, &y, TY_ECONTRACT, err);
        if (st != TY_OK) return st;
    }
    return TY_OK;
}

ty_status broker_contract_same(const Tyto__Hello *a, const Tyto__Hello *b, ty_err *err) {
    ty_status st =
        same_specs(a->worker, a->takes, a->n_takes, b->worker, b->takes, b->n_takes, "takes", err);
    if (st != TY_OK) return st;
    return same_specs(a->worker, a->gives, a->n_gives, b->worker, b->gives, b->n_gives, "gives",
                      err);
}

ty_status broker_contract_task(const Tyto__Hello *to, const Tyto__Envelope *task, ty_err *err) {
    for (size_t i = 0; i < task->n_tensors; i++) {
        const Tyto__Tensor *t = task->tensors[i];
        const Tyto__TensorSpec *want = find_spec(to->takes, to->n_takes, t->name);
        if (!want)
            return ty_fail(err, TY_ESHAPE, "%.32s does not take a tensor %.48s", to->stage,
                           t->name);
        side a = {.who = "the task",
                  .verb = "brings",
                  .name = t->name,
                  .dtype = t->dtype,
                  .n_dim = t->n_shape};
        for (size_t k = 0; k < t->n_shape && k < DIMS_MAX; k++) a.shape[k] = (int64_t)t->shape[k];
        side b = spec_side(to->stage, "takes", want);
        ty_status st = compare(&a, &b, TY_ESHAPE, err);
        if (st != TY_OK) return st;
    }
    return TY_OK;
}
