#include "services/decoder/offline.h"

#include "common/base/file.h"
#include "common/model/offline.h"

#include <stdlib.h>
#include <string.h>

enum { REQUEST_BYTES_MAX = 64 << 20 };

int decoder_offline_logits_parse(const char *name) {
    if (!name) return 0;
    if (strcmp(name, "last") == 0) return 1;
    return strcmp(name, "all") == 0 ? -1 : -2;
}

static ty_status read_request(const char *path, ty_chat_request *r, ty_err *err) {
    char *json = NULL, param[128] = "";
    size_t len = 0;
    ty_status st = ty_file_read(path, REQUEST_BYTES_MAX, &json, &len, err);
    if (st != TY_OK) return st;
    st = ty_chat_request_parse(r, json, len, false, param, sizeof(param), err);
    if (st != TY_OK && param[0] && err && !strstr(err->text, param))
        ty_err_context(err, "%s: %s", path, param);
    else if (st != TY_OK)
        ty_err_context(err, "%s", path);
    free(json);
    return st;
}

/* Opens the pictures into in, which stays open while r points into it. */
static ty_status read_visual(const decoder *d, const char *path, ty_offline_input *in,
                             decoder_request *r, ty_err *err) {
    ty_status st = ty_offline_open(in, path, "visual_tokens", 3, false, "tyto-abstractor", err);
    if (st != TY_OK) return st;
    if (in->shape[2] != decoder_width(d) || in->shape[0] > TY_CHAT_IMAGES_MAX ||
        in->shape[1] > decoder_context(d))
        return ty_fail(
            err, TY_ESHAPE,
            "%s: visual_tokens is [%lld,%lld,%lld], this decoder takes up to %d pictures "
            "of [rows,%d], at most %d rows each",
            path, (long long)in->shape[0], (long long)in->shape[1], (long long)in->shape[2],
            TY_CHAT_IMAGES_MAX, decoder_width(d), decoder_context(d));
    r->visual = in->data;
    r->n_visual = (int)in->shape[0];
    r->visual_rows = (int)in->shape[1];
    return TY_OK;
}

typedef struct {
    ty_ids ids;
    ty_status st;
    ty_err err;
} generated;

static void take_ids(void *ctx, ty_status st, const decoder_result *r, const ty_err *err) {
    generated *g = ctx;
    g->st = st;
    if (err) g->err = *err;
    for (int i = 0; st == TY_OK && g->st == TY_OK && i < r->n_token; i++) {
        g->st = ty_ids_push(&g->ids, r->token[i]);
        if (g->st != TY_OK) (void)ty_fail(&g->err, g->st, "no memory for the generated ids");
    }
}

static ty_status generate(decoder *d, decoder_request *r, generated *g, ty_err *err) {
    uint64_t handle;
    if (r->request->sampling.max_tokens == 0) return TY_OK;
    r->sink = (decoder_sink){.ctx = g, .on_done = take_ids};
    ty_status st = decoder_submit(d, r, &handle, err);
    if (st != TY_OK) return st;
    while (decoder_step(d) > 0) {
    }
    if (g->st != TY_OK && err) *err = g->err;
    return g->st;
}

static ty_status add_ids(ty_safetensors_writer *w, const char *name, const ty_ids *ids,
                         ty_err *err) {
    static const int32_t none = 0;
    int64_t n = ids->n;
    return ty_safetensors_add(w, name, TY_I32, 1, &n, ids->id ? ids->id : &none, err);
}

static ty_status score(decoder *d, const decoder_offline_args *a, const decoder_request *r,
                       ty_safetensors_writer *w, ty_err *err) {
    ty_ids ids = {0};
    float *logits = NULL;
    int64_t shape[2] = {0, decoder_vocab(d)};
    ty_offline_dump sink;
    ty_dump dump = ty_offline_dump_into(&sink, w);
    ty_status st =
        decoder_score(d, r, a->logits_rows, &ids, &logits, &shape[0], a->dump ? &dump : NULL, err);
    if (st == TY_OK) st = ty_offline_dump_status(&sink, err);
    if (st == TY_OK) st = add_ids(w, "input_ids", &ids, err);
    if (st == TY_OK && logits) st = ty_safetensors_add(w, "logits", TY_F32, 2, shape, logits, err);
    free(logits);
    ty_ids_clear(&ids);
    return st;
}

ty_status decoder_offline(decoder *d, const decoder_offline_args *a, ty_err *err) {
    ty_chat_request request = {0};
    ty_offline_input visual = {0};
    ty_safetensors_writer *w = NULL;
    generated g = {0};
    decoder_request r = {.request = &request,
                         .adjacent_ok = true,
                         .adapter = decoder_adapters(d) > 0 ? decoder_adapter_id(d, 0) : NULL};
    ty_status st = read_request(a->in, &request, err);
    if (st != TY_OK) return st;
    if (a->visual) st = read_visual(d, a->visual, &visual, &r, err);
    if (st == TY_OK) st = ty_safetensors_writer_create(&w, err);
    if (st == TY_OK) st = score(d, a, &r, w, err);
    if (st == TY_OK) st = generate(d, &r, &g, err);
    if (st == TY_OK) st = add_ids(w, "generated_ids", &g.ids, err);
    if (st == TY_OK) st = ty_safetensors_write(w, a->out, err);
    ty_ids_clear(&g.ids);
    ty_safetensors_writer_destroy(&w);
    ty_offline_close(&visual);
    ty_chat_request_clear(&request);
    return st;
}
