/*
 * splice.h - from prompt ids with picture ids in them to the rows that the network reads (NOTES §5).
 *
 * Every row has an id.  v1's picture id is TY_IMAGE_ID: the start of each run of them takes one picture.
 * v2's is TY_IMAGE_ID_V2: each `rows` of a run take one.
 */
#ifndef TY_DECODER_SPLICE_H
#define TY_DECODER_SPLICE_H

#include "common/model/tokenizer.h"
#include "services/decoder/llama.h"

typedef struct {
    const float *data; /* [n, rows, width] */
    int n, rows, width;
    const char *placeholder; /* how the prompt's text has a picture, for messages */
} splice_pictures;

/* Checks the number of placeholders found in the prompt text against the pictures.  adjacent_ok: two
 * adjacent placeholders, which the reference takes for one picture, pass; else they are an error like
 * any other mismatch.  Fails: TY_EINVAL with the remedy. */
ty_status splice_check(const int32_t *id, int n, int n_placeholder, const splice_pictures *p,
                       bool adjacent_ok, ty_err *err);

/* Fills row[n]; visual rows point into p->data.  Positions of a run that the picture does not fill
 * (adjacent placeholders) get id 0, as in the reference's generate.  Returns the number of visual rows
 * that were put in. */
int splice_rows(const int32_t *id, int n, const splice_pictures *p, llama_row *row);

/* Appends the ids as the reference writes them: v1's are these, v2 has one for a whole picture. */
ty_status splice_written(const int32_t *id, int n, int rows, ty_ids *out);

#endif
