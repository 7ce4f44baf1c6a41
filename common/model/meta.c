/* meta.c - see meta.h. */
#include "common/model/meta.h"

#include <math.h>
#include <string.h>

ty_status ty_meta_architecture(const ty_gguf *g, const char *want, const char *stage, ty_err *err) {
    const char *have;
    size_t len;
    ty_status st = ty_gguf_get_str(g, "general.architecture", &have, &len, err);
    if (st != TY_OK) return st;
    if (len == strlen(want) && memcmp(have, want, len) == 0) return TY_OK;
    return ty_fail(err, TY_EFORMAT,
                   "%s: its architecture is \"%.*s\", the %s stage wants \"%s\"; is it another "
                   "stage's file?",
                   ty_gguf_path(g), (int)(len < 64 ? len : 64), have, stage, want);
}

ty_status ty_meta_size(const ty_gguf *g, const char *key, int max, int *out, ty_err *err) {
    int64_t v;
    ty_status st = ty_gguf_get_int(g, key, &v, err);
    if (st != TY_OK) return st;
    if (v < 1 || v > max)
        return ty_fail(err, TY_EFORMAT, "%s: %s is %lld, want 1 to %d", ty_gguf_path(g), key,
                       (long long)v, max);
    *out = (int)v;
    return TY_OK;
}

ty_status ty_meta_positive(const ty_gguf *g, const char *key, float *out, ty_err *err) {
    double v;
    ty_status st = ty_gguf_get_float(g, key, &v, err);
    if (st != TY_OK) return st;
    if (!isfinite(v) || v <= 0)
        return ty_fail(err, TY_EFORMAT, "%s: %s is %g, want a number above 0", ty_gguf_path(g), key,
                       v);
    *out = (float)v;
    return TY_OK;
}
