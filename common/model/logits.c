/*
 * logits.c - see logits.h.  The warpers round to f32 where the reference's do (torch, f32 logits), so
 * that a token on the edge of top-k or top-p falls on the same side.
 */
#include "common/model/logits.h"

#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

/* Each id once, as often as it may have been seen: a second penalty would start from the changed value. */
void ty_logits_repetition_penalty(float *logits, int V, const int32_t *seen, int n,
                                  double penalty) {
    if (penalty == 1) return;
    float by = (float)penalty;
    for (int i = 0; i < n; i++) {
        int32_t id = seen[i];
        bool before = id < 0 || id >= V;
        for (int j = 0; j < i && !before; j++) before = seen[j] == id;
        if (!before) logits[id] = logits[id] < 0 ? logits[id] * by : logits[id] / by;
    }
}

/* Bans each token that would complete an n-gram that is there already. */
void ty_logits_no_repeat_ngram(float *logits, int V, const int32_t *seen, int n, int ngram) {
    if (ngram <= 0 || n < ngram) return;
    size_t prefix = (size_t)ngram - 1;
    const int32_t *last = seen + n - prefix;
    for (int i = 0; i + ngram <= n; i++) {
        int32_t id = seen[i + ngram - 1];
        if (id >= 0 && id < V && memcmp(seen + i, last, prefix * sizeof *seen) == 0)
            logits[id] = -HUGE_VALF;
    }
}

int32_t ty_logits_argmax(const float *logits, int V) {
    int32_t best = 0;
    for (int32_t i = 1; i < V; i++)
        if (logits[i] > logits[best] || (isnan(logits[best]) && !isnan(logits[i]))) best = i;
    return best;
}

double ty_logits_logsumexp(const float *logits, int V) {
    double max = (double)logits[ty_logits_argmax(logits, V)], sum = 0;
    if (!isfinite(max)) return max;
    for (int i = 0; i < V; i++) sum += exp((double)logits[i] - max);
    return max + log(sum);
}

/* Larger first, then the lower id. */
static int by_size(const void *a, const void *b) {
    const ty_candidate *x = a, *y = b;
    if (x->p != y->p) return x->p > y->p ? -1 : 1;
    return (x->id > y->id) - (x->id < y->id);
}

/* Moves the k largest to the front, in no order (quickselect). */
static void select_largest(ty_candidate *c, int n, int k) {
    int low = 0, high = n - 1;
    while (low < high) {
        ty_candidate pivot = c[low + (high - low) / 2];
        int i = low, j = high;
        while (i <= j) {
            while (by_size(&c[i], &pivot) < 0) i++;
            while (by_size(&pivot, &c[j]) < 0) j--;
            if (i > j) break;
            ty_candidate swap = c[i];
            c[i++] = c[j];
            c[j--] = swap;
        }
        if (k - 1 <= j)
            high = j;
        else if (k - 1 >= i)
            low = i;
        else
            return;
    }
}

/* Keeps the k largest and what equals the smallest of them. */
static int keep_top_k(ty_candidate *c, int n, int k) {
    if (k >= n) return n;
    select_largest(c, n, k);
    float least = c[0].p;
    for (int i = 1; i < k; i++) least = c[i].p < least ? c[i].p : least;
    int kept = k;
    for (int i = k; i < n; i++)
        if (c[i].p >= least) c[kept++] = c[i];
    return kept;
}

/* exp(p - largest) over a list that begins with the largest; returns the sum. */
static double exp_sum(const ty_candidate *c, int n) {
    double sum = 0;
    for (int i = 0; i < n; i++) sum += exp((double)(c[i].p - c[0].p));
    return sum;
}

/* Removes from the small end while the removed ones together make at most 1 - top_p. */
static int keep_top_p(const ty_candidate *c, int n, double top_p, int min_keep) {
    double sum = exp_sum(c, n), tail = 0;
    float allowed = (float)(1 - top_p);
    while (n > min_keep) {
        tail += (double)(float)(exp((double)(c[n - 1].p - c[0].p)) / sum);
        if ((float)tail > allowed) break;
        n--;
    }
    return n;
}

int ty_logits_keep(const float *logits, int V, const ty_sampling *s, int min_keep,
                   ty_candidate *out) {
    int n = 0;
    float by = (float)s->temperature;
    for (int32_t i = 0; i < V; i++)
        if (logits[i] > -HUGE_VALF) out[n++] = (ty_candidate){i, logits[i] / by};
    if (s->top_k > 0) n = keep_top_k(out, n, s->top_k > min_keep ? s->top_k : min_keep);
    qsort(out, (size_t)n, sizeof *out, by_size);
    return s->top_p < 1 ? keep_top_p(out, n, s->top_p, min_keep) : n;
}

int ty_logits_warp(const float *logits, int V, const ty_sampling *s, ty_candidate *out) {
    int n = ty_logits_keep(logits, V, s, 1, out), kept = 0;
    if (!n) return 0;
    double sum = exp_sum(out, n);
    float largest = out[0].p;
    for (; kept < n; kept++) {
        float p = (float)(exp((double)(out[kept].p - largest)) / sum);
        if (!(p > 0)) break;
        out[kept].p = p;
    }
    return kept;
}

int ty_logits_top(const float *logits, int V, int n, ty_candidate *out) {
    int have = 0;
    for (int32_t i = 0; i < V; i++) {
        ty_candidate c = {i, isnan(logits[i]) ? -HUGE_VALF : logits[i]};
        if (have == n && (!n || c.p <= out[n - 1].p)) continue;
        int j = have < n ? have++ : n - 1;
        for (; j > 0 && out[j - 1].p < c.p; j--) out[j] = out[j - 1];
        out[j] = c;
    }
    double lse = ty_logits_logsumexp(logits, V);
    for (int i = 0; i < have; i++) out[i].p = (float)((double)out[i].p - lse);
    return have;
}

/* One round of Philox4x32: two 32 x 32 -> 64 bit products, crossed and keyed. */
static void philox_round(uint32_t c[4], const uint32_t k[2]) {
    uint64_t a = (uint64_t)0xD2511F53u * c[0], b = (uint64_t)0xCD9E8D57u * c[2];
    uint32_t next[4] = {(uint32_t)(b >> 32) ^ c[1] ^ k[0], (uint32_t)b,
                        (uint32_t)(a >> 32) ^ c[3] ^ k[1], (uint32_t)a};
    memcpy(c, next, sizeof next);
}

double ty_draw(uint64_t seed, uint64_t position) {
    uint32_t c[4] = {(uint32_t)position, (uint32_t)(position >> 32), 0, 0};
    uint32_t k[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    for (int i = 0; i < 10; i++) {
        philox_round(c, k);
        k[0] += 0x9E3779B9u;
        k[1] += 0xBB67AE85u;
    }
    return (double)(((uint64_t)c[1] << 32 | c[0]) >> 11) * 0x1p-53;
}

int32_t ty_logits_pick(const float *logits, int V, const ty_sampling *s, uint64_t position,
                       ty_candidate *scratch) {
    int n = s->temperature > 0 ? ty_logits_warp(logits, V, s, scratch) : 0;
    if (!n) return ty_logits_argmax(logits, V);
    double left = ty_draw(s->seed, position);
    for (int i = 0; i < n; i++) {
        left -= (double)scratch[i].p;
        if (left < 0) return scratch[i].id;
    }
    return scratch[n - 1].id; /* the probabilities' rounding left a gap at the end */
}
