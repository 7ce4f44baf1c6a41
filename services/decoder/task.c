#include "services/decoder/task.h"

#include "common/base/clock.h"
#include "common/model/prompt.h"
#include "services/decoder/splice.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PROMPT_BYTES_MAX = 16 << 20 };

/* ---- creation: everything that can be wrong with a request ---- */

/* A picture that is not a number would make every token after it one. */
static ty_status check_visual(const float *x, size_t n, ty_err *err) {
    for (size_t i = 0; i < n; i++)
        if (!isfinite(x[i]))
            return ty_fail(err, TY_EINVAL, "visual token element %zu is not a finite number", i);
    return TY_OK;
}

static ty_status tokenize(task *t, const task_env *env, const decoder_request *r, int rows,
                          int *n_placeholder, ty_err *err) {
    ty_buf text = ty_buf_make(PROMPT_BYTES_MAX);
    ty_prompt_marks marks = {0};
    ty_status st = ty_prompt_render(env->form, r->request, &text, &marks, err);
    if (st == TY_OK)
        st = ty_prompt_tokenize(
            env->form, env->tokenizer, ty_tokenizer_default_mode(env->tokenizer),
            text.data ? text.data : "", text.len, &marks, rows, &t->prompt, n_placeholder, err);
    ty_buf_clear(&text);
    free(marks.at);
    if (st == TY_OK && t->prompt.n == 0)
        st = ty_fail(err, TY_EINVAL, "the prompt is empty; give at least one word");
    return st;
}

static ty_status fit_context(task *t, const task_env *env, int room, ty_err *err) {
    int left = env->context - t->prompt.n;
    if (left < room)
        return ty_fail(
            err, TY_ECONTEXT,
            "the prompt has %d tokens (pictures included), the context holds %d, and the "
            "answer needs at least %d; shorten the conversation",
            t->prompt.n, env->context, room);
    if (t->s.max_tokens > left) t->s.max_tokens = left;
    return TY_OK;
}

/* The keys of rows that are filled. */
static void make_keys(task *t, const splice_pictures *pic) {
    for (int i = 0; i < t->n_row;) {
        const float *v = t->row[i].visual;
        /* A picture's rows stand together, from its first one on; each picture is hashed once. */
        if (v) {
            prefix_key_picture(v, pic->rows, pic->width, t->key + i);
            i += pic->rows;
        } else {
            t->key[i] = prefix_key_token(t->row[i].id);
            i++;
        }
    }
}

static ty_status make_rows(task *t, const task_env *env, const decoder_request *r,
                           int n_placeholder, ty_err *err) {
    splice_pictures pic = {.n = r->n_visual,
                           .rows = r->visual_rows,
                           .width = env->width,
                           .placeholder = env->form->placeholder};
    ty_status st =
        splice_check(t->prompt.id, t->prompt.n, n_placeholder, &pic, r->adjacent_ok, err);
    if (st != TY_OK) return st;
    size_t n = (size_t)pic.n * (size_t)pic.rows * (size_t)pic.width;
    st = check_visual(r->visual, n, err);
    if (st != TY_OK) return st;
    t->n_row = t->prompt.n + r->n_forced;
    t->row = malloc((size_t)t->n_row * sizeof(*t->row));
    t->key = malloc((size_t)t->n_row * sizeof(*t->key));
    t->visual = malloc((n ? n : 1) * sizeof(float));
    if (!t->row || !t->key || !t->visual) return ty_fail(err, TY_ENOMEM, "no memory for a prompt");
    if (n > 0) memcpy(t->visual, r->visual, n * sizeof(float));
    pic.data = t->visual;
    t->n_visual = splice_rows(t->prompt.id, t->prompt.n, &pic, t->row);
    for (int i = 0; i < r->n_forced; i++) t->row[t->prompt.n + i] = (llama_row){.id = r->forced[i]};
    make_keys(t, &pic);
    return TY_OK;
}

/* The prompt's whole pages are shared by all beams; each has its own pages behind them.  The last
 * token is never read again, so it takes no position. */
static int most_pages(const task *t) {
    int positions = t->prompt.n + (t->s.max_tokens > 0 ? t->s.max_tokens - 1 : 0);
    int all = kv_pages_for(positions), shared = t->prompt.n / KV_PAGE;
    return shared + t->s.num_beams * (all - shared);
}

static int32_t end_id(const task *t, const task_env *env) {
    return t->s.ignore_eos ? -1 : ty_tokenizer_eos(env->tokenizer);
}

/* The template's own stop string; NULL: it has none. */
static void add_stop(ty_sampling *s, const char *stop) {
    if (stop) snprintf(s->stop[s->n_stop++], TY_STOP_BYTES, "%s", stop);
}

/* Adds a token to the answer; text[len] became certain with it.  Sets *done at eos, a stop string, or when it is
 * the last one. */
static ty_status take_token(task *t, const task_env *env, int32_t id, bool last, bool *done,
                            const char **text, size_t *len, ty_err *err) {
    const char *rest = "";
    size_t rest_len = 0;
    ty_status st = ty_ids_push(&t->seen, id);
    if (st == TY_OK) st = answer_push(t->answer, id, text, len);
    if (st != TY_OK) return ty_fail(err, st, "no memory for the answer");
    bool eos = id == end_id(t, env);
    *done = eos || last || answer_stopped(t->answer);
    if (!*done) return TY_OK;
    /* Both pieces lie side by side in the answer, which may have moved: hand them out as one. */
    st = answer_finish(t->answer, &rest, &rest_len);
    if (st != TY_OK) return ty_fail(err, st, "no memory for the answer");
    *text = rest - *len;
    *len += rest_len;
    t->finish = eos || answer_stopped(t->answer) ? DECODER_STOP : DECODER_LENGTH;
    return TY_OK;
}

static ty_status check_forced(const task_env *env, const decoder_request *r, ty_err *err) {
    if (r->n_forced < 0 || r->n_forced > env->context)
        return ty_fail(err, TY_EINVAL, "%d tokens are forced, the context holds %d", r->n_forced,
                       env->context);
    if (r->n_forced > 0 && r->request->sampling.num_beams > 1)
        return ty_fail(err, TY_EINVAL, "tokens are forced on a search with %d beams",
                       r->request->sampling.num_beams);
    for (int i = 0; i < r->n_forced; i++)
        if (r->forced[i] < 0 || r->forced[i] >= env->n_vocab)
            return ty_fail(err, TY_EINVAL, "forced token %d is %d, the vocabulary has %d", i,
                           r->forced[i], env->n_vocab);
    return TY_OK;
}

/* The answer as if it had got so far here. */
static ty_status replay(task *t, const task_env *env, const decoder_request *r, ty_err *err) {
    const char *text;
    size_t len;
    t->complete = t->s.max_tokens == 0;
    t->finish = DECODER_LENGTH;
    for (int i = 0; i < r->n_forced; i++) {
        if (t->complete)
            return ty_fail(err, TY_EINVAL, "%d tokens are forced, but the answer ends after %d",
                           r->n_forced, i);
        ty_status st = take_token(t, env, r->forced[i], t->seen.n >= t->s.max_tokens, &t->complete,
                                  &text, &len, err);
        if (st != TY_OK) return st;
    }
    return TY_OK;
}

static ty_status start(task *t, const task_env *env, const decoder_request *r, int room,
                       ty_err *err) {
    int rows = r->n_visual > 0 ? r->visual_rows : env->visual_rows, n_placeholder = 0;
    if (r->n_visual < 0 || (r->n_visual > 0 && (r->visual_rows < 1 || !r->visual)))
        return ty_fail(err, TY_EINVAL, "%d pictures of %d rows", r->n_visual, r->visual_rows);
    ty_status st = ty_sampling_check(&t->s, NULL, err);
    if (st == TY_OK) st = check_forced(env, r, err);
    if (st == TY_OK) st = tokenize(t, env, r, rows > 0 ? rows : 1, &n_placeholder, err);
    if (st == TY_OK) add_stop(&t->s, ty_prompt_stop(env->form, r->request));
    if (st == TY_OK) st = make_rows(t, env, r, n_placeholder, err);
    if (st == TY_OK) st = fit_context(t, env, room, err);
    if (st != TY_OK) return st;
    t->pages = most_pages(t);
    int32_t bos = ty_tokenizer_bos(env->tokenizer);
    st = ty_ids_push(&t->seen, bos);
    if (st != TY_OK) return ty_fail(err, st, "no memory for the new tokens");
    st = answer_create(&t->answer, env->tokenizer, &t->s, err);
    if (st == TY_OK && t->s.num_beams > 1 && t->s.max_tokens > 0)
        st = ty_beam_create(&t->beam, &t->s, env->n_vocab, bos, end_id(t, env), err);
    if (st == TY_OK) st = replay(t, env, r, err);
    return st;
}

ty_status task_create(task **out, const task_env *env, const decoder_request *r, int room,
                      ty_err *err) {
    *out = NULL;
    task *t = calloc(1, sizeof(*t));
    if (!t) return ty_fail(err, TY_ENOMEM, "no memory for a request");
    t->s = r->request->sampling;
    t->sink = r->sink;
    t->deadline_unix_us = r->deadline_unix_us;
    t->n_live = 1;
    t->mark_us = ty_now_us();
    ty_status st = start(t, env, r, room, err);
    if (st != TY_OK) {
        task_destroy(&t, NULL);
        return st;
    }
    *out = t;
    return TY_OK;
}

void task_release(task *t, kv_pool *kv) {
    for (int i = 0; i < TY_BEAMS_MAX; i++) kv_seq_clear(kv, &t->seq[i]);
}

void task_destroy(task **tt, kv_pool *kv) {
    task *t = *tt;
    if (!t) return;
    if (kv) task_release(t, kv);
    ty_ids_clear(&t->prompt);
    ty_ids_clear(&t->seen);
    free(t->visual);
    free(t->row);
    free(t->key);
    ty_beam_destroy(&t->beam);
    answer_destroy(&t->answer);
    free(t);
    *tt = NULL;
}

void task_tell(task *t, decoder_progress p) {
    if (t->progress == p) return;
    t->progress = p;
    if (t->sink.on_progress) t->sink.on_progress(t->sink.ctx, p);
}

/* ---- the prefix index ---- */

void task_reuse(task *t, prefix_index *x) {
    t->n_done = t->n_cached = prefix_match(x, t->tree, t->key, t->n_row - 1, &t->seq[0]);
}

void task_share_prompt(task *t, prefix_index *x) {
    prefix_insert(x, t->tree, t->key, t->n_done / KV_PAGE * KV_PAGE, &t->seq[0]);
}

void task_leave(task *t, prefix_index *x) {
    int n = t->seq[0].len;
    /* Beams part ways behind the prompt, which is shared already. */
    if (t->s.num_beams > 1 || n == 0) return;
    if (n > t->n_row) {
        prefix_key *key = realloc(t->key, (size_t)n * sizeof(*key));
        if (!key) return; /* it is known as far as it was shared */
        t->key = key;
        for (int i = t->n_row; i < n; i++)
            key[i] = prefix_key_token(t->seen.id[1 + i - t->prompt.n]);
    }
    prefix_insert(x, t->tree, t->key, n, &t->seq[0]);
}

/* ---- what it wants computed ---- */

int task_prefill_span(task *t, int most, llama_span *span) {
    int left = t->n_row - t->n_done, n = left < most ? left : most;
    *span = (llama_span){.seq = &t->seq[0],
                         .row = t->row + t->n_done,
                         .n = n,
                         .n_logits = n == left ? 1 : 0,
                         .adapter = t->adapter};
    t->n_done += n;
    return 1;
}

int task_decode_spans(task *t, llama_span *span) {
    for (int i = 0; i < t->n_live; i++)
        span[i] = (llama_span){
            .seq = &t->seq[i], .row = &t->feed[i], .n = 1, .n_logits = 1, .adapter = t->adapter};
    return t->n_live;
}

/* ---- what becomes of logits ---- */

static bool all_finite(const float *x, size_t n) {
    int bad = 0;
    for (size_t i = 0; i < n; i++) bad |= !(fabsf(x[i]) <= 3.4e38f);
    return !bad;
}

static void fill_logprobs(const task *t, const float *logits, int V, ty_candidate *scratch,
                          decoder_token *tok) {
    int n = ty_logits_top(logits, V, t->s.top_logprobs, scratch);
    for (int i = 0; i < n && i < TY_LOGPROBS_MAX; i++) {
        tok->top[i].id = scratch[i].id;
        tok->top[i].logprob = scratch[i].p;
    }
    tok->n_top = n < TY_LOGPROBS_MAX ? n : TY_LOGPROBS_MAX;
}

/* Adds a token to the answer and tells the sink.  Sets *done as take_token does. */
static ty_status deliver(task *t, const task_env *env, decoder_token *tok, bool last, bool *done,
                         ty_err *err) {
    const char *text = "";
    size_t len = 0;
    int index = t->seen.n - 1;
    ty_status st = take_token(t, env, tok->id, last, done, &text, &len, err);
    if (st != TY_OK) return st;
    if (t->sink.on_token) t->sink.on_token(t->sink.ctx, tok, index, len ? text : "", len);
    return TY_OK;
}

static ty_status advance_one(task *t, const task_env *env, float *logits, bool *done, ty_err *err) {
    int V = env->n_vocab;
    decoder_token tok = {0};
    double lse = 0;
    if (t->s.logprobs) {
        lse = ty_logits_logsumexp(logits, V);
        fill_logprobs(t, logits, V, env->scratch, &tok);
    }
    bool changes = t->s.repetition_penalty != 1.0 || t->s.no_repeat_ngram_size > 0;
    float *raw = NULL; /* logprobs are of the raw distribution, so keep it while rules change it */
    if (t->s.logprobs && changes) {
        raw = malloc((size_t)V * sizeof(float));
        if (!raw) return ty_fail(err, TY_ENOMEM, "no memory for logprobs");
        memcpy(raw, logits, (size_t)V * sizeof(float));
    }
    ty_logits_repetition_penalty(logits, V, t->seen.id, t->seen.n, t->s.repetition_penalty);
    ty_logits_no_repeat_ngram(logits, V, t->seen.id, t->seen.n, t->s.no_repeat_ngram_size);
    tok.id = ty_logits_pick(logits, V, &t->s, (uint64_t)(t->seen.n - 1), env->scratch);
    if (t->s.logprobs) tok.logprob = (float)((double)(raw ? raw : logits)[tok.id] - lse);
    free(raw);
    t->feed[0] = (llama_row){.id = tok.id};
    return deliver(t, env, &tok, t->seen.n >= t->s.max_tokens, done, err);
}

/* The sequences follow the beams: new beam j goes on from the pages of its parent. */
static ty_status reorder(task *t, kv_pool *kv, const int *parent, int n, ty_err *err) {
    kv_seq next[TY_BEAMS_MAX] = {0};
    ty_status st = TY_OK;
    for (int j = 0; j < n && st == TY_OK; j++)
        st = kv_seq_fork(kv, &next[j], &t->seq[parent[j]], err);
    if (st != TY_OK) {
        for (int j = 0; j < n; j++) kv_seq_clear(kv, &next[j]);
        return st;
    }
    task_release(t, kv);
    memcpy(t->seq, next, sizeof(next));
    return TY_OK;
}

/* The best hypothesis, all tokens at once. */
static ty_status deliver_best(task *t, const task_env *env, bool *done, ty_err *err) {
    int n = 0;
    const int32_t *best = ty_beam_best(t->beam, &n, &t->score);
    *done = false;
    for (int i = 0; i < n && !*done && t->phase != TASK_CLOSED; i++) {
        ty_status st = deliver(t, env, &(decoder_token){.id = best[i]}, i == n - 1, done, err);
        if (st != TY_OK) return st;
    }
    *done = true;
    return TY_OK;
}

static ty_status advance_beams(task *t, const task_env *env, kv_pool *kv, float *logits, bool *done,
                               ty_err *err) {
    int parent[TY_BEAMS_MAX];
    int32_t token[TY_BEAMS_MAX];
    ty_status st = ty_beam_step(t->beam, logits, parent, token, err);
    if (st != TY_OK) return st;
    if (ty_beam_done(t->beam)) return deliver_best(t, env, done, err);
    int n = ty_beam_live(t->beam);
    st = reorder(t, kv, parent, n, err);
    for (int j = 0; j < n; j++) t->feed[j] = (llama_row){.id = token[j]};
    t->n_live = n;
    *done = false;
    return st;
}

ty_status task_advance(task *t, const task_env *env, kv_pool *kv, float *logits, bool *done,
                       ty_err *err) {
    if (!all_finite(logits, (size_t)t->n_live * (size_t)env->n_vocab))
        return ty_fail(err, TY_EINTERNAL,
                       "the model gave logits that are not finite numbers after %d tokens",
                       t->seen.n - 1);
    t->phase = TASK_DECODE;
    if (t->beam) task_tell(t, DECODER_MOVES);
    return t->beam ? advance_beams(t, env, kv, logits, done, err)
                   : advance_one(t, env, logits, done, err);
}

/* ---- the end ---- */

void task_succeed(task *t) {
    if (t->phase == TASK_CLOSED) return;
    t->phase = TASK_CLOSED;
    decoder_result r = {.finish = t->finish,
                        .n_prompt = t->prompt.n,
                        .n_visual = t->n_visual,
                        .n_cached = t->n_cached,
                        .n_prefilled = t->n_done - t->n_cached,
                        .n_token = t->seen.n - 1,
                        .token = t->seen.id + 1,
                        .score = t->score,
                        .queue_us = t->queue_us,
                        .prefill_us = t->prefill_us,
                        .decode_us = t->decode_us,
                        .max_batch = t->max_batch,
                        .flops = t->flops};
    r.text = answer_text(t->answer, &r.text_len);
    if (t->sink.on_done) t->sink.on_done(t->sink.ctx, TY_OK, &r, NULL);
}

void task_fail(task *t, ty_status st, const char *text) {
    if (t->phase == TASK_CLOSED) return;
    t->phase = TASK_CLOSED;
    ty_err err = {0};
    (void)ty_fail(&err, st, "%s", text);
    if (t->sink.on_done) t->sink.on_done(t->sink.ctx, st, NULL, &err);
}
