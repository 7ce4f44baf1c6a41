#include "training/batch.h"

#include <stdlib.h>
#include <string.h>

enum { PLACEHOLDER_V1 = -1, PLACEHOLDER_V2 = -200 };

/* A sample being spliced; rows of pictures are counted from 0 and moved behind the text at the end. */
typedef struct {
    owl_batch *b;
    int version, visual_rows, n_vocab, n_ctx;
    int sample, picture, last_picture; /* next picture, and the end of the sample's */
    int at;                            /* positions so far, over all samples */
    int32_t *next;                     /* [positions] label of each */
    ty_err *err;
} splicer;

static ty_status put_text(splicer *s, int32_t id, int32_t label) {
    owl_batch *b = s->b;
    if (id < 0 || id >= s->n_vocab)
        return ty_fail(s->err, TY_EINVAL, "sample %d: id %d is outside the vocabulary of %d",
                       s->sample, id, s->n_vocab);
    b->order[s->at] = b->n_text;
    s->next[s->at++] = label;
    b->token[b->n_text++] = id;
    return TY_OK;
}

static ty_status put_picture(splicer *s, const int32_t *label) {
    owl_batch *b = s->b;
    if (s->picture == s->last_picture)
        return ty_fail(s->err, TY_EINVAL,
                       "sample %d has more placeholders than pictures: give each <image> a file",
                       s->sample);
    for (int i = 0; i < s->visual_rows; i++) {
        b->order[s->at] = -1 - b->n_visual;
        s->next[s->at++] = label ? label[i] : OWL_IGNORE;
        b->visual[b->n_visual++] = s->picture * s->visual_rows + i;
    }
    s->picture++;
    return TY_OK;
}

/* v1: the start of a run of -1 takes a picture's rows; where the run is longer (two placeholders side
 * by side) the rest keeps the embedding of id 1, as in the reference's forward. */
static ty_status splice_v1(splicer *s, const owl_sample *sample) {
    ty_status st = TY_OK;
    for (int i = 0; i < sample->n && st == TY_OK;) {
        if (sample->id[i] != PLACEHOLDER_V1) {
            st = put_text(s, sample->id[i], sample->label[i]);
            i++;
            continue;
        }
        int run = 0;
        while (i + run < sample->n && sample->id[i + run] == PLACEHOLDER_V1) run++;
        if (run < s->visual_rows)
            return ty_fail(s->err, TY_EINVAL,
                           "sample %d: a run of %d placeholders, a picture takes %d", s->sample,
                           run, s->visual_rows);
        st = put_picture(s, sample->label + i);
        for (int k = s->visual_rows; k < run && st == TY_OK; k++)
            st = put_text(s, 1, sample->label[i + k]);
        i += run;
    }
    return st;
}

static ty_status splice_v2(splicer *s, const owl_sample *sample) {
    ty_status st = TY_OK;
    for (int i = 0; i < sample->n && st == TY_OK; i++)
        st = sample->id[i] == PLACEHOLDER_V2 ? put_picture(s, NULL)
                                             : put_text(s, sample->id[i], sample->label[i]);
    return st;
}

/* A sample without its tail that nothing is learnt from: causal, so nobody sees it. */
static int useful(const owl_sample *s) {
    int n = s->n;
    while (n > 0 && s->label[n - 1] == OWL_IGNORE) n--;
    return n;
}

static int most_rows(const owl_sample *sample, int n_sample, int visual_rows) {
    int64_t n = 0;
    for (int i = 0; i < n_sample; i++)
        n += sample[i].n + (int64_t)sample[i].n_picture * visual_rows;
    return n < 1 << 28 ? (int)n : -1;
}

static ty_status allocate(owl_batch *b, int rows, int n_sample, ty_err *err) {
    size_t n = (size_t)rows + 1;
    b->token = malloc(n * sizeof *b->token);
    b->visual = malloc(n * sizeof *b->visual);
    b->start = calloc((size_t)n_sample + 1, sizeof *b->start);
    b->order = malloc(n * sizeof *b->order);
    b->position = malloc(n * sizeof *b->position);
    b->target_row = malloc(n * sizeof *b->target_row);
    b->target = calloc(n, sizeof *b->target);
    if (rows >= 0 && b->token && b->visual && b->start && b->order && b->position &&
        b->target_row && b->target)
        return TY_OK;
    return ty_fail(err, TY_ENOMEM, "no memory for a batch of %d samples", n_sample);
}

/* Positions to rows, and the targets: position t is scored against the label of t + 1. */
static void finish(owl_batch *b, const int32_t *next) {
    int32_t *learnt = b->target;
    b->n_row = b->n_text + b->n_visual;
    for (int s = 0; s < b->n_sample; s++)
        for (int t = b->start[s]; t < b->start[s + 1]; t++) {
            int row = b->order[t] >= 0 ? b->order[t] : b->n_text - 1 - b->order[t];
            b->order[t] = row;
            b->position[row] = t - b->start[s];
            if (t + 1 == b->start[s + 1] || next[t + 1] == OWL_IGNORE) continue;
            b->target_row[b->n_target] = row;
            learnt[b->n_target++] = next[t + 1];
        }
}

ty_status owl_batch_make(owl_batch *b, int version, int visual_rows, int n_vocab, int n_ctx,
                         const owl_sample *sample, int n_sample, const float *pixels, ty_err *err) {
    memset(b, 0, sizeof *b);
    b->n_sample = n_sample;
    b->pixels = pixels;
    int rows = most_rows(sample, n_sample, visual_rows);
    splicer s = {.b = b,
                 .version = version,
                 .visual_rows = visual_rows,
                 .n_vocab = n_vocab,
                 .n_ctx = n_ctx,
                 .err = err,
                 .next = malloc(((size_t)rows + 1) * sizeof(int32_t))};
    ty_status st = allocate(b, rows, n_sample, err);
    if (st == TY_OK && !s.next) st = ty_fail(err, TY_ENOMEM, "no memory for a batch");
    for (int i = 0; i < n_sample && st == TY_OK; i++) {
        owl_sample cut = sample[i];
        cut.n = useful(&cut);
        s.sample = i;
        s.picture = b->n_picture;
        s.last_picture = b->n_picture + sample[i].n_picture;
        st = version == 2 ? splice_v2(&s, &cut) : splice_v1(&s, &cut);
        b->n_picture = s.last_picture;
        b->start[i + 1] = s.at;
        if (st == TY_OK && s.at - b->start[i] > n_ctx)
            st = ty_fail(err, TY_ECONTEXT, "sample %d has %d positions, the model has %d", i,
                         s.at - b->start[i], n_ctx);
    }
    if (st == TY_OK) finish(b, s.next);
    for (int i = 0; i < b->n_target && st == TY_OK; i++)
        if (b->target[i] < 0 || b->target[i] >= n_vocab)
            st = ty_fail(err, TY_EINVAL, "label %d is outside the vocabulary of %d", b->target[i],
                         n_vocab);
    free(s.next);
    if (st != TY_OK) owl_batch_clear(b);
    return st;
}

ty_status owl_batch_of_labels(owl_batch *b, int places, const owl_sample *sample, int n_sample,
                              const float *pixels, ty_err *err) {
    memset(b, 0, sizeof *b);
    b->pixels = pixels;
    b->n_sample = b->n_picture = n_sample;
    b->n_row = n_sample * places;
    if (n_sample == 0) return TY_OK;
    int n = sample[0].n, texts = n / places;
    b->target = malloc((size_t)n_sample * (size_t)n * sizeof *b->target);
    if (!b->target) return ty_fail(err, TY_ENOMEM, "no memory for a batch of %d samples", n_sample);
    for (int i = 0; i < n_sample; i++)
        for (int k = 0; k < n; k++) {
            int32_t label = sample[i].label[k];
            b->target[i * n + k % places * texts + k / places] = label;
            b->n_target += label != OWL_IGNORE;
        }
    return TY_OK;
}

void owl_batch_clear(owl_batch *b) {
    free(b->token);
    free(b->visual);
    free(b->start);
    free(b->order);
    free(b->position);
    free(b->target_row);
    free(b->target);
    memset(b, 0, sizeof *b);
}
