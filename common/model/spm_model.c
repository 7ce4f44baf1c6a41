/*
 * spm_model.c - a vocabulary from sentencepiece's tokenizer.model (a protobuf; only the fields that
 * proto/sentencepiece.proto names are read).  What would need another algorithm or a normaliser is
 * refused by name rather than tokenised differently from the reference.
 */
#include "common/base/file.h"
#include "common/model/tokenizer_impl.h"
#include "sentencepiece.pb-c.h"

#include <stdlib.h>

enum { MODEL_BPE = 2, FILE_MAX = 256 << 20 };

static ty_status check(const SpmFile__Model *m, ty_err *err) {
    const SpmFile__Trainer *tr = m->trainer;
    const SpmFile__Normalizer *no = m->normalizer;
    if (!m->n_pieces) return ty_fail(err, TY_EFORMAT, "it holds no pieces");
    if (!tr || tr->model_type != MODEL_BPE)
        return ty_fail(err, TY_EUNSUPPORTED, "model type %d, want 2 (BPE), as LLaMA's is",
                       tr ? tr->model_type : 1);
    if (tr->whitespace_as_suffix)
        return ty_fail(err, TY_EUNSUPPORTED, "treat_whitespace_as_suffix is not supported");
    if (no && no->has_charsmap && no->charsmap.len)
        return ty_fail(err, TY_EUNSUPPORTED,
                       "it normalises its text (precompiled_charsmap); only identity is supported");
    if (!no || no->remove_extra_whitespaces)
        return ty_fail(err, TY_EUNSUPPORTED, "remove_extra_whitespaces is not supported");
    if (!no->escape_whitespaces)
        return ty_fail(err, TY_EUNSUPPORTED, "escape_whitespaces false is not supported");
    return TY_OK;
}

static ty_status build(ty_tokenizer *t, const SpmFile__Model *m, ty_err *err) {
    ty_status st = TY_OK;
    for (size_t i = 0; i < m->n_pieces && st == TY_OK; i++) {
        const SpmFile__Piece *p = m->pieces[i];
        st = ty_tokenizer_add(t, (const char *)p->text.data, p->text.len, (double)p->score, p->kind,
                              err);
    }
    if (st != TY_OK) return st;
    t->bos = m->trainer->bos_id;
    t->eos = m->trainer->eos_id;
    t->unk = m->trainer->unk_id;
    t->dummy_prefix = m->normalizer->add_dummy_prefix;
    return ty_tokenizer_finish(t, err);
}

ty_status ty_tokenizer_from_spm(ty_tokenizer **out, const char *path, ty_err *err) {
    char *data = NULL;
    size_t size = 0;
    ty_tokenizer *t = NULL;
    SpmFile__Model *m = NULL;
    ty_status st = ty_file_read(path, FILE_MAX, &data, &size, err);
    if (st != TY_OK) return st;
    m = spm_file__model__unpack(NULL, size, (const uint8_t *)data);
    if (!m) {
        st = ty_fail(err, TY_EFORMAT, "it is not a sentencepiece model, or it is cut short");
        goto done;
    }
    st = check(m, err);
    if (st == TY_OK) st = ty_tokenizer_start(&t, err);
    if (st == TY_OK) st = build(t, m, err);
done:
    if (m) spm_file__model__free_unpacked(m, NULL);
    free(data);
    if (st != TY_OK) {
        ty_err_context(err, "%s", path);
        ty_tokenizer_destroy(&t);
        return st;
    }
    *out = t;
    return TY_OK;
}
