/*
 * tokenize.c - `tyto tokenize --model decoder.gguf`: stdin, byte for byte, as one JSON array of ids.
 */
#include "orchestration/commands.h"

#include "common/base/file.h"
#include "common/base/options.h"
#include "common/model/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>

static const size_t stdin_max = (size_t)1 << 30;

typedef struct {
    const char *model, *mode;
    bool bos;
} tokenize_options;

static ty_status load(ty_tokenizer **t, const char *path, ty_err *err) {
    ty_gguf *g = NULL;
    ty_status st = ty_gguf_open(&g, path, err);
    if (st == TY_OK) st = ty_tokenizer_from_gguf(t, g, err);
    ty_gguf_close(&g);
    return st;
}

static ty_status print_ids(const ty_ids *ids, ty_err *err) {
    putchar('[');
    for (int i = 0; i < ids->n; i++) printf("%s%d", i ? ", " : "", ids->id[i]);
    puts("]");
    if (fflush(stdout) != 0 || ferror(stdout))
        return ty_fail(err, TY_EIO, "cannot write to stdout");
    return TY_OK;
}

static ty_status tokenize(const tokenize_options *o, ty_tokenize_mode mode, ty_err *err) {
    ty_tokenizer *t = NULL;
    char *text = NULL;
    size_t len = 0;
    ty_ids ids = {0};
    ty_status st = load(&t, o->model, err);
    if (st == TY_OK) st = ty_file_read("-", stdin_max, &text, &len, err);
    if (st == TY_OK && o->bos && ty_tokenizer_bos(t) < 0)
        st = ty_fail(err, TY_EUNSUPPORTED, "--bos: this vocabulary has no bos token");
    if (st == TY_OK && o->bos && ty_ids_push(&ids, ty_tokenizer_bos(t)) != TY_OK)
        st = ty_fail(err, TY_ENOMEM, "out of memory");
    if (st == TY_OK) st = ty_tokenizer_encode(t, mode, text, len, &ids, err);
    if (st == TY_OK) st = print_ids(&ids, err);
    ty_ids_clear(&ids);
    free(text);
    ty_tokenizer_destroy(&t);
    return st;
}

int cmd_tokenize(int argc, char **argv) {
    tokenize_options o = {0};
    const ty_option table[] = {
        TY_OPT_STR("model", NULL, o.model, NULL, "FILE", "a decoder.gguf, for its vocabulary"),
        TY_OPT_STR("mode", NULL, o.mode, "spm", "MODE",
                   "spm (raw sentencepiece), or slow or fast as Hugging Face's tokenizers do"),
        TY_OPT_FLAG("bos", NULL, o.bos, "put the beginning-of-sequence id in front"), TY_OPT_END};
    ty_options_next next =
        ty_options_parse(table, "tyto tokenize --model FILE < TEXT",
                         "stdin, byte for byte, as a JSON array of token ids", argc, argv, NULL);
    if (next != TY_OPTIONS_GO) return next == TY_OPTIONS_DONE ? 0 : 2;
    if (!o.model) {
        fprintf(stderr, "tyto tokenize: --model is missing: name a decoder.gguf\n");
        return 2;
    }
    int mode = ty_tokenize_mode_parse(o.mode);
    if (mode < 0) {
        fprintf(stderr, "tyto tokenize: --mode '%s', want spm, slow or fast\n", o.mode);
        return 2;
    }
    ty_err err = {0};
    if (tokenize(&o, (ty_tokenize_mode)mode, &err) == TY_OK) return 0;
    fprintf(stderr, "tyto tokenize: %s\n", err.text);
    return 1;
}
