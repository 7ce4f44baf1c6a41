/* stage_file.c - see stage_file.h. */
#include "orchestration/stage_file.h"

#include <stdio.h>
#include <string.h>

static size_t tensor_bytes(const ty_tensor_spec *s, ty_dtype t) {
    size_t n = 1;
    for (int i = 0; i < s->n_dim; i++) n *= (size_t)s->shape[i];
    return ty_dtype_bytes(t, n);
}

ty_tensor stage_file_tensor(const ty_tensor_spec *s, ty_dtype t) {
    ty_tensor out = {.dtype = t, .n_dim = s->n_dim, .size_bytes = tensor_bytes(s, t)};
    memcpy(out.shape, s->shape, (size_t)s->n_dim * sizeof(*out.shape));
    return out;
}

uint64_t stage_file_bytes(const stage_file *f) {
    uint64_t n = 0;
    for (int i = 0; i < f->layout->n; i++) n += tensor_bytes(&f->layout->item[i], f->type[i]) + 32;
    return n;
}

uint32_t stage_file_type(const ty_layout *l, const ty_dtype *type) {
    static const struct {
        ty_dtype t;
        uint32_t number;
    } kinds[] = {{TY_F32, 0}, {TY_F16, 1}, {TY_Q4_0, 2}, {TY_Q8_0, 7}, {TY_BF16, 32}};
    uint64_t most = 0;
    uint32_t number = 0;
    for (int k = 0; k < 5; k++) {
        uint64_t n = 0;
        for (int i = 0; i < l->n; i++)
            if (type[i] == kinds[k].t) n += tensor_bytes(&l->item[i], TY_I8);
        if (n > most) {
            most = n;
            number = kinds[k].number;
        }
    }
    return number;
}

const char *stage_file_architecture(ty_stage_kind k, const ty_decoder_dims *decoder) {
    switch (k) {
    case TY_STAGE_PREPROCESS: return TY_ARCH_PREPROCESS;
    case TY_STAGE_VIT: return TY_ARCH_VIT;
    case TY_STAGE_ABSTRACTOR: return TY_ARCH_ABSTRACTOR;
    default: return ty_layout_decoder_arch(decoder);
    }
}

ty_status stage_file_set_family(ty_gguf_writer *w, uint32_t file_type, const char *family,
                                int visual_rows, ty_err *err) {
    ty_status st = ty_gguf_set_u32(w, "general.file_type", file_type, err);
    if (st == TY_OK) st = ty_gguf_set_str(w, "tyto.family", family, strlen(family), err);
    if (st != TY_OK || visual_rows == 0) return st;
    return ty_gguf_set_u32(w, "tyto.visual_rows", (uint32_t)visual_rows, err);
}

/* "vit.gguf  102 tensors, 1.2 MiB: f32 40, q8_0 62" */
static void report(const stage_file *f, progress *p) {
    char types[128] = "";
    if (f->layout->n == 0) {
        progress_line(p, "%s.gguf: metadata alone", ty_stage_name(f->stage));
        return;
    }
    for (int t = 0; t < 100; t++) {
        int n = 0;
        for (int i = 0; i < f->layout->n; i++) n += (int)f->type[i] == t;
        size_t at = strlen(types);
        if (n)
            snprintf(types + at, sizeof(types) - at, "%s%s %d", at ? ", " : "", ty_dtype_name(t),
                     n);
    }
    progress_line(p, "%s.gguf: %d tensors, %.1f MiB (%s)", ty_stage_name(f->stage), f->layout->n,
                  (double)stage_file_bytes(f) / 1048576, types);
}

static ty_status write_tensors(const stage_file *f, ty_gguf_writer *w, progress *p,
                               const volatile sig_atomic_t *stop, ty_err *err) {
    ty_status st = TY_OK;
    for (int i = 0; st == TY_OK && i < f->layout->n; i++) {
        const ty_tensor_spec *s = &f->layout->item[i];
        size_t bytes = tensor_bytes(s, f->type[i]);
        const void *data = NULL;
        if (stop && *stop) return ty_fail(err, TY_ECANCELED, "interrupted; nothing was changed");
        st = f->get(f->ctx, s, f->type[i], &data, err);
        if (st == TY_OK) st = ty_gguf_write(w, data, bytes, err);
        f->put_back(f->ctx);
        char what[128];
        snprintf(what, sizeof(what), "%s %s", ty_stage_name(f->stage), s->name);
        progress_add(p, bytes, what);
    }
    return st;
}

ty_status stage_file_write(const stage_file *f, progress *p, const volatile sig_atomic_t *stop,
                           ty_err *err) {
    ty_gguf_writer *w = NULL;
    ty_status st = ty_gguf_writer_create(&w, f->path, f->architecture, err);
    if (st == TY_OK) st = f->set(f->ctx, f->stage, w, err);
    for (int i = 0; st == TY_OK && i < f->layout->n; i++) {
        const ty_tensor_spec *s = &f->layout->item[i];
        st = ty_gguf_declare(w, s->name, f->type[i], s->n_dim, s->shape, err);
    }
    if (st == TY_OK) st = write_tensors(f, w, p, stop, err);
    if (st == TY_OK) st = ty_gguf_finish(w, err);
    if (st == TY_OK) report(f, p);
    ty_gguf_writer_destroy(&w);
    return st;
}

static volatile sig_atomic_t stopped;

static void on_signal(int sig) {
    (void)sig;
    stopped = 1;
}

const volatile sig_atomic_t *stage_file_catch_signals(void) {
    struct sigaction sa = {.sa_handler = on_signal};
    stopped = 0;
    sigaction(SIGINT, &sa, NULL);
    sigaction(SIGTERM, &sa, NULL);
    return &stopped;
}
