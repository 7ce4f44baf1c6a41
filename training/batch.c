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
    b->picture = calloc((size_t)n_sample + 1, sizeof *b->picture);
    b->order = malloc(n * sizeof *b->order);
    b->position = malloc(n * sizeof *b->position);
    b->target_row = malloc(n * sizeof *b->target_row);
    b->target = calloc(n, sizeof *b->target);
    if (rows >= 0 && b->token && b->visual && b->start && b->picture && b->order && b->position &&
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
        b->picture[i + 1] = b->n_picture;
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
    b->n_label = n_sample * n;
    for (int i = 0; i < n_sample; i++)
        for (int k = 0; k < n; k++) {
            int32_t label = sample[i].label[k];
            b->target[i * n + k % places * texts + k / places] = label;
            b->n_target += label != OWL_IGNORE;
        }
    return TY_OK;
}

int owl_batch_rows(const owl_batch *b, int sample) {
    return b->start ? b->start[sample + 1] - b->start[sample] : b->n_row / b->n_sample;
}

/* ---- a part ---- */

static void part_of_labels(const owl_batch *b, int first, int n, owl_batch *part) {
    int labels = b->n_label / b->n_sample;
    part->n_picture = n;
    part->n_row = b->n_row / b->n_sample * n;
    part->n_label = labels * n;
    part->target = b->target + first * labels;
}

/* Rows of samples before `first`, of each kind: those of a part begin there. */
static void rows_before(const owl_batch *b, int first, int *n_text, int *n_visual) {
    *n_text = *n_visual = 0;
    for (int t = 0; t < b->start[first]; t++) *(b->order[t] < b->n_text ? n_text : n_visual) += 1;
}

static void fill_part(const owl_batch *b, int first, int n, int visual_rows, owl_batch *part) {
    int text0, visual0, at = b->start[first], end = b->start[first + n], target0 = 0;
    rows_before(b, first, &text0, &visual0);
    part->n_row = end - at;
    for (int t = at; t < end; t++)
        *(b->order[t] < b->n_text ? &part->n_text : &part->n_visual) += 1;
    part->n_picture = b->picture[first + n] - b->picture[first];
    part->token = b->token + text0;
    for (int i = 0; i < part->n_visual; i++)
        part->visual[i] = b->visual[visual0 + i] - b->picture[first] * visual_rows;
    for (int i = 0; i <= n; i++) {
        part->start[i] = b->start[first + i] - at;
        part->picture[i] = b->picture[first + i] - b->picture[first];
    }
    /* Row r of the batch is here: its kind's rows from text0 or visual0 on. */
    int to_text = -text0, to_visual = part->n_text - b->n_text - visual0;
    for (int t = at; t < end; t++) {
        int row = b->order[t], mine = row + (row < b->n_text ? to_text : to_visual);
        part->order[t - at] = mine;
        part->position[mine] = b->position[row];
    }
    /* Targets are in the order of the samples. */
    for (int i = 0; i < b->n_target; i++) {
        int row = b->target_row[i], kind0 = row < b->n_text ? text0 : b->n_text + visual0;
        int many = row < b->n_text ? part->n_text : part->n_visual;
        if (row < kind0) {
            target0 = i + 1;
        } else if (row < kind0 + many) {
            part->target_row[part->n_target++] = row + (row < b->n_text ? to_text : to_visual);
        }
    }
    part->target = b->target + target0;
}

ty_status owl_batch_part(const owl_batch *b, int first, int n, int visual_rows, int64_t pixels,
                         ty_arena *arena, owl_batch *part, ty_err *err) {
    *part = (owl_batch){.n_sample = n};
    int picture = b->picture ? b->picture[first] : first;
    part->pixels = b->pixels ? b->pixels + picture * pixels : NULL;
    if (!b->start || !b->picture) {
        part_of_labels(b, first, n, part);
        return TY_OK;
    }
    size_t rows = (size_t)(b->start[first + n] - b->start[first]) + 1;
    part->visual = ty_arena_array(arena, rows, sizeof *part->visual);
    part->start = ty_arena_array(arena, (size_t)n + 1, sizeof *part->start);
    part->picture = ty_arena_array(arena, (size_t)n + 1, sizeof *part->picture);
    part->order = ty_arena_array(arena, rows, sizeof *part->order);
    part->position = ty_arena_array(arena, rows, sizeof *part->position);
    part->target_row = ty_arena_array(arena, rows, sizeof *part->target_row);
    if (!part->visual || !part->start || !part->picture || !part->order || !part->position ||
        !part->target_row)
        return ty_fail(err, TY_ENOMEM, "no memory for a batch of %d samples", n);
    fill_part(b, first, n, visual_rows, part);
    return TY_OK;
}

void owl_batch_clear(owl_batch *b) {
    free(b->token);
    free(b->visual);
    free(b->start);
    free(b->picture);
    free(b->order);
    free(b->position);
    free(b->target_row);
    free(b->target);
    memset(b, 0, sizeof *b);
}
