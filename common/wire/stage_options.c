/* stage_options.c - see stage_options.h. */
#include "common/wire/stage_options.h"

#include "common/base/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool ty_stage_is_offline(const ty_stage_options *o) {
    return o->in.n > 0;
}

static bool given(const char *text) {
    return text && *text;
}

ty_status ty_stage_options_check(const ty_stage_options *o, int max_in, ty_err *err) {
    if (!given(o->model))
        return ty_fail(err, TY_EINVAL, "--model is missing: the stage's GGUF file");
    if (!ty_stage_is_offline(o) && !given(o->connect))
        return ty_fail(err, TY_EINVAL,
                       "give --in FILE and --out FILE (offline) or --connect ENDPOINT (serve)");
    if (ty_stage_is_offline(o) && !given(o->out))
        return ty_fail(err, TY_EINVAL, "--out is missing: the safetensors file to write");
    if (o->in.n > max_in)
        return ty_fail(err, TY_EINVAL, "--in was given %d times, at most %d", o->in.n, max_in);
    int level = ty_log_level_parse(o->log_level);
    if (level < 0)
        return ty_fail(err, TY_EINVAL, "--log-level %s: want debug, info, warn or error",
                       o->log_level);
    ty_log_init(o->worker, (ty_log_level)level);
    return TY_OK;
}

void ty_stage_spec_init(ty_stage_spec *s, const char *name, Tyto__DType dtype, int n_dim,
                        const int64_t *shape) {
    tyto__tensor_spec__init(&s->spec);
    memcpy(s->shape, shape, (size_t)n_dim * sizeof *shape);
    s->spec.name = (char *)(uintptr_t)name; /* read only; protobuf-c has no const */
    s->spec.dtype = dtype;
    s->spec.n_shape = (size_t)n_dim;
    s->spec.shape = s->shape;
    s->list[0] = &s->spec;
}

ty_worker_contract ty_stage_contract(const ty_stage_options *o, const char *model_id,
                                     ty_stage_spec *takes, ty_stage_spec *gives) {
    return (ty_worker_contract){
        .connect = o->connect,
        .keys = o->keys,
        .insecure_tcp = o->insecure_tcp,
        .worker = o->worker,
        .pipeline = o->pipeline,
        .model_id = model_id,
        .batch_limit = o->batch,
        .credits = o->credits ? o->credits : 2 * o->batch,
        .drain_ms = o->drain_s ? o->drain_s * 1000 : 1,
        .takes = takes->list,
        .gives = gives->list,
        .n_takes = 1,
        .n_gives = 1,
        .cache_url = o->cache_url && strcmp(o->cache_url, "none") != 0 ? o->cache_url : "",
        .cache_ttl_s = o->cache_ttl_s};
}

static bool fits(const ty_tensor *t, const Tyto__TensorSpec *want) {
    if (ty_message_dtype(t->dtype) != want->dtype || (size_t)t->n_dim != want->n_shape)
        return false;
    for (int i = 0; i < t->n_dim; i++)
        if (want->shape[i] >= 0 && t->shape[i] != want->shape[i]) return false;
    return true;
}

static ty_status check_input(ty_job *j, const Tyto__TensorSpec *want, ty_tensor *t, ty_err *err) {
    const char *name;
    if (ty_job_tensor_count(j) != 1)
        return ty_fail(err, TY_ESHAPE, "the task carries %d tensors, want one: %s",
                       ty_job_tensor_count(j), want->name);
    ty_status st = ty_job_tensor(j, 0, &name, t, err);
    if (st != TY_OK) return st;
    if (fits(t, want)) return TY_OK;
    char have[128], shape[128];
    ty_tensor w = {.n_dim = (int)want->n_shape};
    memcpy(w.shape, want->shape, want->n_shape * sizeof *want->shape);
    return ty_fail(err, TY_ESHAPE, "%s is %s %s, want %s of shape %s (-1 = any)", name,
                   ty_dtype_name((int)t->dtype), ty_tensor_shape_text(t, have, sizeof have),
                   want->name, ty_tensor_shape_text(&w, shape, sizeof shape));
}

const void *ty_stage_input(ty_job *j, const ty_stage_spec *takes, ty_tensor *t) {
    ty_err err = {0};
    ty_status st = check_input(j, &takes->spec, t, &err);
    if (st == TY_OK) return t->data;
    ty_job_fail(j, st, err.text);
    return NULL;
}

void ty_stage_output(ty_job *j, const ty_stage_spec *gives, int64_t any, const float *data) {
    ty_err err = {0};
    size_t size = sizeof *data;
    int64_t shape[4];
    for (size_t i = 0; i < gives->spec.n_shape; i++) {
        shape[i] = gives->shape[i] < 0 ? any : gives->shape[i];
        size *= (size_t)shape[i];
    }
    void *copy = malloc(size);
    ty_status st = TY_ENOMEM;
    if (copy) {
        memcpy(copy, data, size);
        st = ty_job_add_output(j, gives->spec.name, gives->spec.dtype, (int)gives->spec.n_shape,
                               shape, copy, size, &err);
    } else {
        ty_fail(&err, st, "no memory for %s (%zu bytes)", gives->spec.name, size);
    }
    if (st == TY_OK)
        ty_job_done(j, NULL);
    else
        ty_job_fail(j, st, err.text);
}

void ty_stage_fail_all(ty_job **jobs, int n, ty_status st, const ty_err *err) {
    for (int i = 0; i < n; i++)
        if (jobs[i]) ty_job_fail(jobs[i], st, err->text);
}
