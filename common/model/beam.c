/*
 * beam.c - beam search, after transformers 4.28.1's beam_search, beam_sample, BeamSearchScorer and
 * BeamHypotheses for one batch item.
 *
 * What is easy to miss: log_softmax comes before the processors, and their scores are not normalised
 * again; a step takes 2 * num_beams candidates, of which an eos among the first num_beams closes a
 * hypothesis and one after them is dropped; a closed hypothesis' length counts bos but not its eos;
 * when sampling, the warped scores (divided by the temperature) are what the beams carry on.
 */
#include "common/model/beam.h"

#include "common/model/logits.h"
#include "common/model/tokenizer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { CANDIDATES_MAX = 2 * TY_BEAMS_MAX };

typedef struct {
    double score;  /* length-penalised */
    ty_ids tokens; /* bos first; eos last if it has one */
} hypothesis;

typedef struct {
    float score;
    int beam;
    int32_t token;
} candidate;

struct ty_beam {
    ty_sampling s;
    int V, n_beam;
    int32_t bos, eos;
    int step;                  /* new tokens of every live beam */
    float score[TY_BEAMS_MAX]; /* sum of the live beams' (processed) log-probabilities */
    ty_ids live[TY_BEAMS_MAX]; /* bos and the tokens so far */
    ty_ids next[TY_BEAMS_MAX]; /* being built */
    hypothesis hyp[TY_BEAMS_MAX + 1];
    int n_hyp;
    double worst;      /* of the hypotheses */
    bool closed;       /* nothing better can come */
    bool final;        /* the live beams were added */
    ty_candidate *row; /* [V] when sampling: what the warpers left of a row */
    candidate *pool;   /* [n_beam * V] when sampling */
};

static bool sampling(const ty_beam *b) {
    return b->s.temperature > 0;
}

static ty_status copy_ids(ty_ids *to, const ty_ids *from) {
    to->n = 0;
    ty_status st = TY_OK;
    for (int i = 0; i < from->n && st == TY_OK; i++) st = ty_ids_push(to, from->id[i]);
    return st;
}

ty_status ty_beam_create(ty_beam **out, const ty_sampling *s, int V, int32_t bos, int32_t eos,
                         ty_err *err) {
    if (s->num_beams < 1 || s->num_beams > TY_BEAMS_MAX || V < 2)
        return ty_fail(err, TY_EINVAL,
                       "beam search wants 1 to %d beams and a vocabulary, not %d, %d", TY_BEAMS_MAX,
                       s->num_beams, V);
    ty_beam *b = calloc(1, sizeof *b);
    if (!b) return ty_fail(err, TY_ENOMEM, "beam search: out of memory");
    *out = b;
    b->s = *s;
    b->V = V;
    b->n_beam = s->num_beams;
    b->bos = bos;
    b->eos = eos;
    b->worst = 1e9;
    bool ok = true;
    for (int i = 0; i < b->n_beam; i++) {
        ok = ok && ty_ids_push(&b->live[i], bos) == TY_OK;
        if (i && !sampling(b)) b->score[i] = -1e9f; /* all beams are still the same one */
    }
    if (sampling(b)) {
        b->row = malloc((size_t)V * sizeof *b->row);
        b->pool = malloc((size_t)V * (size_t)b->n_beam * sizeof *b->pool);
        ok = ok && b->row && b->pool;
    }
    if (ok) return TY_OK;
    ty_beam_destroy(out);
    return ty_fail(err, TY_ENOMEM, "beam search: out of memory");
}

void ty_beam_destroy(ty_beam **b) {
    if (!*b) return;
    for (int i = 0; i < TY_BEAMS_MAX; i++) {
        ty_ids_clear(&(*b)->live[i]);
        ty_ids_clear(&(*b)->next[i]);
    }
    for (int i = 0; i < (*b)->n_hyp; i++) ty_ids_clear(&(*b)->hyp[i].tokens);
    free((*b)->row);
    free((*b)->pool);
    free(*b);
    *b = NULL;
}

int ty_beam_live(const ty_beam *b) {
    return b->step ? b->n_beam : 1;
}

int ty_beam_done(const ty_beam *b) {
    return b->closed || b->step >= b->s.max_tokens;
}

/* Raw logits to what the search adds up. */
static void process_row(const ty_beam *b, const ty_ids *seen, float *row) {
    double lse = ty_logits_logsumexp(row, b->V);
    for (int i = 0; i < b->V; i++) row[i] = (float)((double)row[i] - lse);
    ty_logits_repetition_penalty(row, b->V, seen->id, seen->n, b->s.repetition_penalty);
    ty_logits_no_repeat_ngram(row, b->V, seen->id, seen->n, b->s.no_repeat_ngram_size);
}

/* Before the first step every beam has beam 0's row. */
static const float *row_of(const ty_beam *b, const float *logits, int beam) {
    return b->step ? logits + (size_t)beam * (size_t)b->V : logits;
}

/* Inserts into a list of at most `max`, best first; earlier ones stay in front of equals. */
static int insert(candidate *list, int n, int max, candidate c) {
    if (n == max && !(c.score > list[n - 1].score)) return n;
    int i = n < max ? n++ : max - 1;
    for (; i > 0 && list[i - 1].score < c.score; i--) list[i] = list[i - 1];
    list[i] = c;
    return n;
}

static int best_candidates(const ty_beam *b, const float *logits, candidate *out) {
    int n = 0, max = 2 * b->n_beam;
    for (int j = 0; j < b->n_beam; j++) {
        const float *row = row_of(b, logits, j);
        for (int32_t v = 0; v < b->V; v++) {
            float score = row[v] + b->score[j];
            n = insert(out, n, max, (candidate){isnan(score) ? -HUGE_VALF : score, j, v});
        }
    }
    return n;
}

/* What the warpers leave of every beam's row, beam score added before them. */
static int fill_pool(ty_beam *b, float *logits) {
    int n = 0;
    for (int j = 0; j < b->n_beam; j++) {
        float *row = logits + (b->step ? (size_t)j * (size_t)b->V : 0);
        if (b->step || j == 0)
            for (int v = 0; v < b->V; v++) row[v] += b->score[j];
        int kept = ty_logits_keep(row, b->V, &b->s, 2, b->row);
        for (int i = 0; i < kept; i++) b->pool[n++] = (candidate){b->row[i].p, j, b->row[i].id};
    }
    return n;
}

/* Takes one of the n out of the pool: by its share of exp(score) at u in [0,1), or the best one once
 * nothing has a share. */
static candidate take(candidate *pool, int n, double u) {
    float max = pool[0].score;
    double mass = 0;
    int best = 0;
    for (int i = 1; i < n; i++)
        if (pool[i].score > max) max = pool[best = i].score;
    for (int i = 0; i < n; i++) mass += exp((double)(pool[i].score - max));
    u *= mass;
    int at = best;
    for (int i = 0; i < n; i++) {
        u -= exp((double)(pool[i].score - max));
        if (u >= 0) continue;
        at = i;
        break;
    }
    candidate c = pool[at];
    memmove(pool + at, pool + at + 1, (size_t)(n - at - 1) * sizeof *pool);
    return c;
}

/* 2 * num_beams draws without replacement, best first. */
static int drawn_candidates(ty_beam *b, float *logits, candidate *out) {
    int n = 0, max = 2 * b->n_beam, left = fill_pool(b, logits);
    for (int i = 0; i < max && left > 0; i++, left--) {
        double u = ty_draw(b->s.seed, (uint64_t)b->step * CANDIDATES_MAX + (uint64_t)i);
        n = insert(out, n, max, take(b->pool, left, u));
    }
    return n;
}

static void remove_worst(ty_beam *b) {
    int worst = 0;
    for (int i = 1; i < b->n_hyp; i++)
        if (b->hyp[i].score < b->hyp[worst].score) worst = i;
    ty_ids_clear(&b->hyp[worst].tokens);
    b->n_hyp--;
    memmove(&b->hyp[worst], &b->hyp[worst + 1], (size_t)(b->n_hyp - worst) * sizeof *b->hyp);
    b->worst = b->hyp[0].score;
    for (int i = 1; i < b->n_hyp; i++)
        if (b->hyp[i].score < b->worst) b->worst = b->hyp[i].score;
}

/* Adds a hypothesis if there is room or it beats the worst.  `end` >= 0: its eos. */
static ty_status add_hypothesis(ty_beam *b, const ty_ids *tokens, float sum, int32_t end) {
    double score = (double)sum / pow(tokens->n, b->s.length_penalty);
    if (b->n_hyp >= b->n_beam && !(score > b->worst)) return TY_OK;
    hypothesis h = {.score = score};
    ty_status st = copy_ids(&h.tokens, tokens);
    if (st == TY_OK && end >= 0) st = ty_ids_push(&h.tokens, end);
    if (st != TY_OK) {
        ty_ids_clear(&h.tokens);
        return st;
    }
    b->hyp[b->n_hyp++] = h;
    if (b->n_hyp > b->n_beam)
        remove_worst(b);
    else if (score < b->worst)
        b->worst = score;
    return TY_OK;
}

static bool nothing_better(const ty_beam *b, float best_sum) {
    if (b->n_hyp < b->n_beam) return false;
    if (b->s.early_stopping) return true;
    int len = b->step + 2; /* bos, the tokens so far and the one that best_sum counts */
    return b->worst >= (double)best_sum / pow(len, b->s.length_penalty);
}

/* Distributes the candidates: closed hypotheses, and the next num_beams live beams. */
static ty_status advance(ty_beam *b, const candidate *c, int n, int *parent, int32_t *token,
                         ty_err *err) {
    int filled = 0;
    ty_status st = TY_OK;
    float score[TY_BEAMS_MAX];
    for (int i = 0; i < n && filled < b->n_beam && st == TY_OK; i++) {
        if (c[i].token == b->eos) {
            if (i < b->n_beam) st = add_hypothesis(b, &b->live[c[i].beam], c[i].score, b->eos);
            continue;
        }
        score[filled] = c[i].score;
        parent[filled] = c[i].beam;
        token[filled] = c[i].token;
        st = copy_ids(&b->next[filled], &b->live[c[i].beam]);
        if (st == TY_OK) st = ty_ids_push(&b->next[filled], c[i].token);
        filled++;
    }
    if (st != TY_OK) return ty_fail(err, st, "beam search: out of memory");
    if (filled < b->n_beam)
        return ty_fail(err, TY_EINVAL,
                       "beam search: only %d of %d beams can go on: the sampling "
                       "parameters leave too few tokens",
                       filled, b->n_beam);
    memcpy(b->score, score, (size_t)filled * sizeof *score);
    for (int i = 0; i < b->n_beam; i++) {
        ty_ids swap = b->live[i];
        b->live[i] = b->next[i];
        b->next[i] = swap;
    }
    b->closed = nothing_better(b, c[0].score);
    b->step++;
    return TY_OK;
}

ty_status ty_beam_step(ty_beam *b, float *logits, int *parent, int32_t *token, ty_err *err) {
    candidate c[CANDIDATES_MAX] = {0};
    if (ty_beam_done(b)) return ty_fail(err, TY_EINTERNAL, "beam search: a step after the end");
    for (int j = 0; j < ty_beam_live(b); j++)
        process_row(b, &b->live[j], logits + (size_t)j * (size_t)b->V);
    int n = sampling(b) ? drawn_candidates(b, logits, c) : best_candidates(b, logits, c);
    return advance(b, c, n, parent, token, err);
}

/* An unfinished search's live beams are hypotheses too.  One that memory has no room for is left out. */
static void finish(ty_beam *b) {
    if (b->final) return;
    b->final = true;
    for (int i = 0; i < b->n_beam && !b->closed; i++)
        (void)add_hypothesis(b, &b->live[i], b->score[i], -1);
}

const int32_t *ty_beam_best(ty_beam *b, int *n, double *score) {
    finish(b);
    *n = 0;
    *score = 0;
    if (!b->n_hyp) return NULL;
    const hypothesis *best = &b->hyp[0];
    for (int i = 1; i < b->n_hyp; i++)
        if (b->hyp[i].score >= best->score) best = &b->hyp[i]; /* of equals the latest */
    *n = best->tokens.n - 1;
    *score = best->score;
    return best->tokens.id + 1;
}
