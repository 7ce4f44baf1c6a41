/*
 * attend.h - causal grouped-query attention of a batch of rows over paged KV.
 *
 * The rows of a batch come in runs: consecutive positions of one sequence.  A run is cut into blocks
 * of at most ATTEND_ROWS rows; a task is one block and one KV head, so that a page's tile is read once
 * for all rows of the block and all query heads of the group.  Scores of a row go to scratch for all
 * its positions, softmax is taken over the whole row in f32, then the values are summed, page by page
 * from position 0.  What a row gets depends on its own position alone, not on the blocks.
 */
#ifndef TY_DECODER_ATTEND_H
#define TY_DECODER_ATTEND_H

#include "common/math/pool.h"
#include "services/decoder/kv.h"

enum {
    ATTEND_ROWS = 8,
    ATTEND_GROUP_MAX = 128, /* query heads that share a KV head, at most */
};

typedef struct {
    const kv_seq *seq;
    int row, n_row; /* rows of the batch, n_row <= ATTEND_ROWS */
    int pos;        /* of the first; row i sees positions 0 .. pos + i */
} attend_block;

typedef struct attend_scratch attend_scratch;
/* For rows of up to `context` positions, with one part for each member of the pool. */
ty_status attend_scratch_create(attend_scratch **out, int n_head, int n_kv_head, int context,
                                const ty_pool *pool, ty_err *err);
void attend_scratch_destroy(attend_scratch **s);

/* q: head h of row r at q + r * ldq + h * d; ctx the same with ldo.  Keys and values of the rows
 * themselves are in the pages already. */
typedef struct {
    const kv_pool *kv;
    int layer, n_head;
    const attend_block *block;
    int n_block;
    const float *q;
    int64_t ldq;
    float *ctx;
    int64_t ldo;
    const float
        *slope; /* ALiBi: a key's score falls by this much for each position it is behind the
                           query, a number for each of n_head; NULL: none */
} attend_args;
void attend(ty_pool *pool, const attend_args *a, attend_scratch *scratch);

#endif
