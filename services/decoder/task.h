/*
 * task.h - one request inside the engine: its prompt as rows, its sequences (one, or one per beam), and
 * what becomes of logits: tokens, text, the end.  Knows nothing of other requests.
 */
#ifndef TY_DECODER_TASK_H
#define TY_DECODER_TASK_H

#include "common/model/beam.h"
#include "common/model/logits.h"
#include "common/model/prompt.h"
#include "services/decoder/answer.h"
#include "services/decoder/decoder.h"
#include "services/decoder/llama.h"
#include "services/decoder/prefix.h"

/* What a task needs to know of the decoder. */
typedef struct {
    const ty_tokenizer *tokenizer;
    const ty_prompt_form *form; /* of the model's family */
    int width, n_vocab, context;
    int visual_rows;       /* of a picture, as the file says; 0 = it does not */
    ty_candidate *scratch; /* [n_vocab] */
} task_env;

typedef enum { TASK_QUEUED, TASK_PREFILL, TASK_DECODE, TASK_CLOSED } task_phase;

typedef struct task task;
struct task {
    task *next; /* in the queue */
    uint64_t handle;
    task_phase phase;
    ty_sampling s; /* max_tokens cut to what the context leaves */
    decoder_sink sink;
    int64_t deadline_unix_us;

    ty_ids prompt;                /* one id a row; a picture's rows have the form's image id */
    float *visual;                /* copy of the pictures' rows */
    int n_row;                    /* of the prompt and the forced tokens: what is prefilled */
    llama_row *row;               /* [n_row] */
    prefix_key *key;              /* [n_row] what each row is */
    const llama_adapter *adapter; /* of all its rows, NULL: none */
    int tree;                     /* of the prefix index: 0, or the adapter's own */
    int n_visual;                 /* rows that are visual */
    int n_done;                   /* rows in the KV cache */
    int n_cached;                 /* of them found there */
    int pages;                    /* most KV pages it can hold at once */

    int n_live; /* sequences: 1, then num_beams */
    kv_seq seq[TY_BEAMS_MAX];
    llama_row feed[TY_BEAMS_MAX]; /* the token each sequence reads next */

    ty_beam *beam; /* NULL with one beam */
    ty_ids seen;   /* bos and the new tokens: what repetition rules look at (NOTES §8) */
    answer *answer;
    decoder_progress progress; /* what was told of it */
    bool complete; /* nothing to compute: no tokens are wanted, or the forced ones are all */
    decoder_finish finish;
    double score;

    int64_t mark_us; /* until when the time below is counted */
    int64_t queue_us, prefill_us, decode_us;
    int max_batch;
    double flops;
};

/* Renders, tokenises and checks the prompt, replays the forced tokens: everything that decoder_submit can
 * refuse.  The prompt may fill the context up to `room` positions short of it.  Fails as decoder_submit says. */
ty_status task_create(task **out, const task_env *env, const decoder_request *r, int room,
                      ty_err *err);
void task_destroy(task **t, kv_pool *kv);
/* Gives its KV pages back. */
void task_release(task *t, kv_pool *kv);

/* The prefix index: finds the beginning of its rows, before the first span; leaves there what is computed of
 * them so far (whole pages), or, before the pages are given back, all that is.  At least one row is always
 * computed, for its logits. */
void task_reuse(task *t, prefix_index *x);
void task_share_prompt(task *t, prefix_index *x);
void task_leave(task *t, prefix_index *x);

/* The next rows to prefill (at most `most`), or the row of each live sequence, as spans (room for
 * num_beams).  Returns the number of spans. */
int task_prefill_span(task *t, int most, llama_span *span);
int task_decode_spans(task *t, llama_span *span);

/* Tells the sink, once for each change. */
void task_tell(task *t, decoder_progress p);

/* Takes the logits of its last spans ([n_live, V], changed in place), calls on_token.  *done: the answer is
 * complete.  Fails: TY_EINTERNAL (logits that are no numbers), TY_ENOMEM. */
ty_status task_advance(task *t, const task_env *env, kv_pool *kv, float *logits, bool *done,
                       ty_err *err);
/* Calls on_done with the result; the task is then TASK_CLOSED. */
void task_succeed(task *t);
void task_fail(task *t, ty_status st, const char *text);

#endif
