/*
 * stage_file.h - writes one stage's GGUF file: metadata, then each tensor of a layout in its type,
 * one in memory at a time.  Where the bytes come from is the caller's (a checkpoint, a generator).
 */
#ifndef TY_STAGE_FILE_H
#define TY_STAGE_FILE_H

#include "common/model/layout.h"
#include "common/model/pipeline.h"
#include "orchestration/progress.h"

#include <signal.h>

typedef struct {
    ty_stage_kind stage;
    const char *path, *architecture;
    const ty_layout *layout;
    const ty_dtype *type; /* [layout->n] */
    void *ctx;
    /* Sets all metadata. */
    ty_status (*set)(void *ctx, ty_stage_kind stage, ty_gguf_writer *w, ty_err *err);
    /* The bytes of one tensor in this type; valid until the next call or put_back. */
    ty_status (*get)(void *ctx, const ty_tensor_spec *s, ty_dtype t, const void **data,
                     ty_err *err);
    void (*put_back)(void *ctx);
} stage_file;

/* The tensor that a spec describes, in this type, without data. */
ty_tensor stage_file_tensor(const ty_tensor_spec *s, ty_dtype t);
/* Bytes of the tensors. */
uint64_t stage_file_bytes(const stage_file *f);
/* general.file_type as llama.cpp numbers it: the type most of the weights have. */
uint32_t stage_file_type(const ty_layout *l, const ty_dtype *type);
/* general.file_type, tyto.family and, where there are pictures, tyto.visual_rows: rows of one. */
ty_status stage_file_set_family(ty_gguf_writer *w, uint32_t file_type, const char *family,
                                int visual_rows, ty_err *err);
/* general.architecture; the decoder's depends on its dimensions. */
const char *stage_file_architecture(ty_stage_kind k, const ty_decoder_dims *decoder);

/* Fails: what set and get fail with; TY_EIO; TY_ECANCELED when *stop became non-zero. */
ty_status stage_file_write(const stage_file *f, progress *p, const volatile sig_atomic_t *stop,
                           ty_err *err);

/* While this lives, SIGINT and SIGTERM set the flag that it returns instead of ending the process. */
const volatile sig_atomic_t *stage_file_catch_signals(void);

#endif
