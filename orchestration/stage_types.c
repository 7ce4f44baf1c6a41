/* stage_types.c - see stage_types.h. */
#include "orchestration/stage_types.h"

#include <string.h>

static bool may_store(int t) {
    return t == TY_F32 || t == TY_F16 || t == TY_BF16 || t == TY_Q8_0 || t == TY_Q4_0;
}

static ty_status parse_type(const char *word, const char *name, int *t, ty_err *err) {
    *t = ty_dtype_parse(name);
    if (may_store(*t)) return TY_OK;
    return ty_fail(err, TY_EINVAL, "--type %s: \"%s\" is none of f32, bf16, f16, q8_0, q4_0", word,
                   name);
}

/* "vit" of "vit=f32" -> its stage, or -1. */
static int parse_stage(const char *word, size_t n) {
    for (int k = TY_STAGE_VIT; k < TY_STAGE_COUNT; k++) {
        const char *name = ty_stage_name((ty_stage_kind)k);
        if (strlen(name) == n && memcmp(name, word, n) == 0) return k;
    }
    return -1;
}

ty_status stage_types_parse(stage_types *t, const ty_option_list *words, ty_err *err) {
    int general = -1;
    for (int k = 0; k < TY_STAGE_COUNT; k++) t->of[k] = -1;
    for (int i = 0; i < words->n; i++) {
        const char *word = words->item[i], *eq = strchr(word, '=');
        int k = eq ? parse_stage(word, (size_t)(eq - word)) : -1;
        if (eq && k < 0)
            return ty_fail(err, TY_EINVAL,
                           "--type %s: no stage with weights of this name; want vit, abstractor or "
                           "decoder",
                           word);
        ty_status st = parse_type(word, eq ? eq + 1 : word, eq ? &t->of[k] : &general, err);
        if (st != TY_OK) return st;
    }
    for (int k = 0; k < TY_STAGE_COUNT; k++)
        if (t->of[k] < 0) t->of[k] = general;
    return TY_OK;
}

ty_dtype stage_types_choose(const stage_types *t, ty_stage_kind stage, const ty_tensor_spec *s,
                            ty_dtype stored, bool *undivided) {
    int want = t->of[stage];
    if (undivided) *undivided = false;
    if (stage == TY_STAGE_DECODER && s->n_dim == 1) return TY_F32;
    if (want < 0) return may_store((int)stored) ? stored : TY_F32;
    if (s->role != TY_ROLE_LINEAR) return TY_F32;
    if (s->shape[s->n_dim - 1] % ty_dtype_get(want)->block == 0) return (ty_dtype)want;
    if (undivided) *undivided = true;
    return TY_F32;
}
