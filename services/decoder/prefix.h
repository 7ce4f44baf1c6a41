/*
 * prefix.h - an index of KV pages by the rows that they were computed from, so that a prompt which begins
 * like an earlier one need not be computed from its first row.
 *
 * A tree: a node is one page, a path from the root is the beginning of a sequence.  Inner nodes hold full
 * pages; a leaf may hold fewer rows.  Rows are compared, not hashes of them, and a position's keys and values
 * depend on the rows up to it alone (llama.h: not on the batch, not on how a prompt was cut).  So what is
 * reused is bit for bit what would have been computed.
 *
 * The index is one user of its pages (kv.h).  Pages that no sequence holds give way when one needs room,
 * the least recently used first, ends of paths before their beginnings.  A sequence that holds a
 * node's page holds those of all nodes above it; hence every page that no sequence holds can be freed.
 */
#ifndef TY_DECODER_PREFIX_H
#define TY_DECODER_PREFIX_H

#include "services/decoder/kv.h"

/* What the embedding of a row is: equal keys, equal rows. */
typedef struct {
    uint64_t hi, lo;
} prefix_key;

prefix_key prefix_key_token(int32_t id);
/* Keys of one picture's rows [rows, width]: SHA-256 of all its bytes, and the row's number. */
void prefix_key_picture(const float *data, int rows, int width, prefix_key *key);

typedef struct prefix_index prefix_index;

/* n_tree trees that share nothing: one for each network that a row may have gone through (the model alone, or with
 * an adapter).  At most max_pages pages in all (0: none, and nothing is ever found).  The pool must outlive it, and has one index
 * at most.  Fails: TY_ENOMEM. */
ty_status prefix_create(prefix_index **out, kv_pool *pool, int n_tree, int max_pages, ty_err *err);
/* Lets go of its pages. */
void prefix_destroy(prefix_index **x);
/* Pages in the index, held by sequences or not. */
int prefix_pages(const prefix_index *x);

/* Puts the longest beginning of key[n] that the tree knows into the empty sequence s; returns its length.  Without
 * memory it is shorter. */
int prefix_match(prefix_index *x, int tree, const prefix_key *key, int n, kv_seq *s);

/* Makes the first n rows of s known; they are computed and will not be written again.  n = s->len when s ends
 * (its last page may then be a part of one), else a multiple of KV_PAGE.  Where the index has an equal page
 * already, s gets that one in exchange for its own. */
void prefix_insert(prefix_index *x, int tree, const prefix_key *key, int n, kv_seq *s);

#endif
