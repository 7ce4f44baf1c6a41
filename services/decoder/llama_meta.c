/*
 * llama_meta.c - the network's sizes out of its GGUF file's metadata, every one checked.  Keys begin with
 * the architecture's name: "llama.block_count", "mplug_owl2.block_count".
 */
#include "services/decoder/llama_impl.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct {
    const ty_gguf *g;
    char arch[32];
} meta;

typedef struct {
    char text[96];
} key;

static key full(const meta *f, const char *name) {
    key k;
    snprintf(k.text, sizeof(k.text), "%s.%s", f->arch, name);
    return k;
}

static ty_status get_int(const meta *f, const char *name, int lo, int hi, int *out, ty_err *err) {
    int64_t v;
    key k = full(f, name);
    ty_status st = ty_gguf_get_int(f->g, k.text, &v, err);
    if (st != TY_OK) return st;
    if (v < lo || v > hi)
        return ty_fail(err, TY_EFORMAT, "%s: %s is %lld, want %d..%d", ty_gguf_path(f->g), k.text,
                       (long long)v, lo, hi);
    *out = (int)v;
    return TY_OK;
}

static bool has(const meta *f, const char *name) {
    return ty_gguf_has(f->g, full(f, name).text);
}

static ty_status opt_int(const meta *f, const char *name, int lo, int hi, int def, int *out,
                         ty_err *err) {
    *out = def;
    return has(f, name) ? get_int(f, name, lo, hi, out, err) : TY_OK;
}

static ty_status opt_float(const meta *f, const char *name, double def, double *out, ty_err *err) {
    *out = def;
    if (!has(f, name)) return TY_OK;
    key k = full(f, name);
    ty_status st = ty_gguf_get_float(f->g, k.text, out, err);
    if (st == TY_OK && !(*out > 0 && isfinite(*out)))
        return ty_fail(err, TY_EFORMAT, "%s: %s is %g, want a positive number", ty_gguf_path(f->g),
                       k.text, *out);
    return st;
}

static ty_status unsupported(const meta *f, const char *name, int got, int want, ty_err *err) {
    return ty_fail(err, TY_EUNSUPPORTED, "%s: %s is %d, only %d is supported", ty_gguf_path(f->g),
                   full(f, name).text, got, want);
}

static bool is_text(const char *s, size_t len, const char *want) {
    return len == strlen(want) && memcmp(s, want, len) == 0;
}

static ty_status read_architecture(meta *f, llama_dims *d, ty_err *err) {
    const char *a;
    size_t len;
    ty_status st = ty_gguf_get_str(f->g, "general.architecture", &a, &len, err);
    if (st != TY_OK) return st;
    d->multiway = is_text(a, len, "mplug_owl2");
    d->bloom = is_text(a, len, "bloom");
    if (!d->multiway && !d->bloom && !is_text(a, len, "llama"))
        return ty_fail(err, TY_EUNSUPPORTED,
                       "%s: architecture is \"%.*s\", the decoder runs \"llama\", "
                       "\"mplug_owl2\" and \"bloom\"; is this the pipeline's decoder.gguf?",
                       ty_gguf_path(f->g), (int)(len > 64 ? 64 : len), a);
    snprintf(f->arch, sizeof(f->arch), "%.*s", (int)len, a);
    int experts;
    st = opt_int(f, "expert_count", 0, 1 << 20, 0, &experts, err);
    if (st == TY_OK && experts > 0) return unsupported(f, "expert_count", experts, 0, err);
    return st;
}

/* YaRN's defaults are llama.cpp's; its magnitude follows the paper: 1 + ln(factor) / 10. */
static ty_status read_yarn(const meta *f, llama_dims *d, ty_err *err) {
    llama_rope_dims *r = &d->rope;
    double own = 1;
    r->yarn = true;
    ty_status st = opt_int(f, "rope.scaling.original_context_length", 1, 1 << 24, d->context,
                           &r->trained, err);
    if (st == TY_OK) st = opt_float(f, "rope.scaling.yarn_beta_fast", 32, &r->beta_fast, err);
    if (st == TY_OK) st = opt_float(f, "rope.scaling.yarn_beta_slow", 1, &r->beta_slow, err);
    if (st == TY_OK) st = opt_float(f, "rope.scaling.attn_factor", 1, &own, err);
    if (st == TY_OK && has(f, "rope.scaling.yarn_log_multiplier"))
        st = ty_fail(err, TY_EUNSUPPORTED, "%s: %s is not supported", ty_gguf_path(f->g),
                     full(f, "rope.scaling.yarn_log_multiplier").text);
    r->magnitude = own * (r->factor > 1 ? 1 + 0.1 * log(r->factor) : 1);
    return st;
}

/* LLaMA 3 keeps its scaling in the tensor rope_freqs.weight instead (rope.c). */
static ty_status read_scaling(const meta *f, llama_dims *d, ty_err *err) {
    const char *type = "linear";
    size_t len = strlen(type);
    double old = 1; /* the key of old files */
    ty_status st = opt_float(f, "rope.scale_linear", 1, &old, err);
    if (st == TY_OK) st = opt_float(f, "rope.scaling.factor", old, &d->rope.factor, err);
    if (st == TY_OK && has(f, "rope.scaling.type"))
        st = ty_gguf_get_str(f->g, full(f, "rope.scaling.type").text, &type, &len, err);
    if (st != TY_OK || is_text(type, len, "linear")) return st;
    if (is_text(type, len, "yarn")) return read_yarn(f, d, err);
    d->rope.factor = 1;
    if (is_text(type, len, "none")) return TY_OK;
    return ty_fail(err, TY_EUNSUPPORTED,
                   "%s: rope scaling \"%.*s\" is not supported, only none, linear and yarn",
                   ty_gguf_path(f->g), (int)(len > 64 ? 64 : len), type);
}

static ty_status read_rope(const meta *f, llama_dims *d, ty_err *err) {
    int rot;
    d->rope.magnitude = 1;
    ty_status st = opt_int(f, "rope.dimension_count", 1, 1 << 16, d->d_head, &rot, err);
    if (st == TY_OK && rot != d->d_head)
        st = unsupported(f, "rope.dimension_count", rot, d->d_head, err);
    if (st == TY_OK) st = opt_float(f, "rope.freq_base", 10000, &d->rope.base, err);
    return st == TY_OK ? read_scaling(f, d, err) : st;
}

static ty_status read_heads(const meta *f, llama_dims *d, ty_err *err) {
    ty_status st = get_int(f, "attention.head_count", 1, 1 << 12, &d->n_head, err);
    if (st == TY_OK)
        st = opt_int(f, "attention.head_count_kv", 1, 1 << 12, d->n_head, &d->n_kv_head, err);
    if (st != TY_OK) return st;
    if (d->n_head % d->n_kv_head != 0 || d->n_head / d->n_kv_head > ATTEND_GROUP_MAX)
        return ty_fail(err, TY_EFORMAT, "%s: %d heads cannot share %d KV heads", ty_gguf_path(f->g),
                       d->n_head, d->n_kv_head);
    /* The reference's module writes k and v into a buffer as wide as the model. */
    if (d->multiway && d->n_kv_head != d->n_head)
        return unsupported(f, "attention.head_count_kv", d->n_kv_head, d->n_head, err);
    int def = d->d_model % d->n_head == 0 ? d->d_model / d->n_head : 0, v;
    st = opt_int(f, "attention.key_length", 2, 1 << 12, def, &d->d_head, err);
    if (st == TY_OK) st = opt_int(f, "attention.value_length", 2, 1 << 12, d->d_head, &v, err);
    if (st != TY_OK) return st;
    if (d->d_head < 2 || d->d_head % 2 != 0)
        return ty_fail(err, TY_EFORMAT, "%s: width %d and %d heads give no even head size",
                       ty_gguf_path(f->g), d->d_model, d->n_head);
    if (v != d->d_head) return unsupported(f, "attention.value_length", v, d->d_head, err);
    return TY_OK;
}

ty_status llama_read_dims(const ty_gguf *g, llama_dims *d, ty_err *err) {
    meta f = {.g = g};
    ty_status st = read_architecture(&f, d, err);
    if (st == TY_OK) st = get_int(&f, "block_count", 1, 1 << 12, &d->n_layer, err);
    if (st == TY_OK) st = get_int(&f, "embedding_length", 1, 1 << 17, &d->d_model, err);
    if (st == TY_OK) st = get_int(&f, "feed_forward_length", 1, 1 << 19, &d->d_ff, err);
    if (st == TY_OK) st = get_int(&f, "context_length", 1, 1 << 20, &d->context, err);
    if (st == TY_OK && d->bloom)
        st = opt_float(&f, "attention.layer_norm_epsilon", 1e-5, &d->eps, err);
    else if (st == TY_OK)
        st = opt_float(&f, "attention.layer_norm_rms_epsilon", 1e-6, &d->eps, err);
    if (st == TY_OK) st = read_heads(&f, d, err);
    if (st == TY_OK && !d->bloom) st = read_rope(&f, d, err);
    return st;
}
