/*
 * offline.h - one request from a file, through the engine, into a safetensors file: the program's
 * offline command.
 */
#ifndef TY_DECODER_OFFLINE_H
#define TY_DECODER_OFFLINE_H

#include "services/decoder/decoder.h"

typedef struct {
    const char *in;     /* request.json, "-" = stdin */
    const char *visual; /* safetensors with visual_tokens [n, queries + 1, D]; NULL = no pictures */
    const char *out;    /* safetensors to write */
    int logits_rows;    /* 0 none, 1 the last, -1 all */
    bool dump;          /* add inputs_embeds and hiddenK */
} decoder_offline_args;

/* Writes input_ids [t] i32 (runs of -1), generated_ids [m] i32, and logits [rows, V] f32 when wanted.
 * Of a decoder with an adapter, its first one is applied.
 * The prompt's quirks are the reference's: adjacent placeholders pass. */
ty_status decoder_offline(decoder *d, const decoder_offline_args *a, ty_err *err);

/* "all", "last" or NULL -> logits_rows; -2 for anything else. */
int decoder_offline_logits_parse(const char *name);

#endif
