#include "training/dataset.h"
#include "common/base/file.h"
#include "training/random.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The permutations' stream of random numbers; adapters use small streams, so this one is far off. */
enum { SHUFFLE_STREAM = 1 << 20 };

static ty_status add(dataset *d, int64_t *cap, const sample_rules *rules, const json_t *record,
                     ty_err *err) {
    ty_err bad = {0};
    sample s;
    ty_status st = sample_make(&s, rules, record, &bad);
    d->n_read++;
    if (st == TY_OK && rules->lesson == LESSON_CELLS && d->n > 0 && s.n != d->item[0].n) {
        st = ty_fail(&bad, TY_EFORMAT, "cells: %d texts, the first record has %d",
                     s.n / rules->cells, d->item[0].n / rules->cells);
        sample_clear(&s);
    }
    if (st == TY_ENOMEM) {
        if (err) *err = bad;
        return st;
    }
    if (st != TY_OK) {
        if (d->n_bad++ == 0)
            snprintf(d->first_bad, sizeof d->first_bad, "record %lld: %.400s", (long long)d->n_read,
                     bad.text);
        return TY_OK;
    }
    if (s.n_target == 0) {
        d->n_empty++;
        sample_clear(&s);
        return TY_OK;
    }
    if (d->n == *cap) {
        *cap = *cap ? 2 * *cap : 1024;
        sample *item = realloc(d->item, (size_t)*cap * sizeof *item);
        if (!item) {
            sample_clear(&s);
            return ty_fail(err, TY_ENOMEM, "no memory for %lld samples", (long long)*cap);
        }
        d->item = item;
    }
    d->item[d->n++] = s;
    return TY_OK;
}

static ty_status read_lines(dataset *d, const char *path, const char *text,
                            const sample_rules *rules, ty_err *err) {
    int64_t cap = 0, line = 0;
    ty_status st = TY_OK;
    while (*text && st == TY_OK) {
        size_t len = strcspn(text, "\n");
        json_error_t bad;
        line++;
        if (strspn(text, " \t\r") < len) {
            json_t *record = json_loadb(text, len, 0, &bad);
            if (!record)
                return ty_fail(err, TY_EFORMAT, "%s: line %lld: %s", path, (long long)line,
                               bad.text);
            st = add(d, &cap, rules, record, err);
            json_decref(record);
        }
        text += len + (text[len] == '\n');
    }
    return st;
}

static ty_status read_array(dataset *d, const char *path, const char *text, size_t size,
                            const sample_rules *rules, ty_err *err) {
    json_error_t bad;
    json_t *list = json_loadb(text, size, 0, &bad), *record;
    int64_t cap = 0;
    size_t i;
    ty_status st = TY_OK;
    if (!list) return ty_fail(err, TY_EFORMAT, "%s: line %d: %s", path, bad.line, bad.text);
    json_array_foreach(list, i, record) {
        if (st == TY_OK) st = add(d, &cap, rules, record, err);
    }
    json_decref(list);
    return st;
}

static void own_folder(dataset *d, const char *path, const char *folder) {
    const char *slash = strrchr(path, '/');
    if (folder)
        snprintf(d->folder, sizeof d->folder, "%s", folder);
    else
        snprintf(d->folder, sizeof d->folder, "%.*s", slash ? (int)(slash - path) : 1,
                 slash ? path : ".");
}

ty_status dataset_open(dataset *d, const char *path, const char *folder, const sample_rules *rules,
                       ty_err *err) {
    char *text = NULL;
    size_t size;
    memset(d, 0, sizeof *d);
    own_folder(d, path, folder);
    ty_status st = ty_file_read(path, (size_t)8 << 30, &text, &size, err);
    if (st != TY_OK) return st;
    st = text[strspn(text, " \t\r\n")] == '[' ? read_array(d, path, text, size, rules, err)
                                              : read_lines(d, path, text, rules, err);
    free(text);
    if (st == TY_OK && d->n == 0)
        st = ty_fail(err, TY_EFORMAT,
                     "%s: no record of %lld can be learnt from (%lld have nothing to learn%s%s)",
                     path, (long long)d->n_read, (long long)d->n_empty, d->n_bad ? "; " : "",
                     d->first_bad);
    if (st != TY_OK) dataset_close(d);
    return st;
}

ty_status dataset_at(const dataset *d, uint64_t seed, int64_t at, dataset_order *order,
                     const sample **out, ty_err *err) {
    int64_t epoch = at / d->n;
    if (!order->index) {
        order->index = malloc((size_t)d->n * sizeof *order->index);
        order->epoch = -1;
        if (!order->index)
            return ty_fail(err, TY_ENOMEM, "no memory for the order of %lld samples",
                           (long long)d->n);
    }
    if (order->epoch != epoch) {
        for (int64_t i = 0; i < d->n; i++) order->index[i] = (int32_t)i;
        for (int64_t i = d->n - 1; i > 0; i--) {
            double u = random_unit(seed, SHUFFLE_STREAM + (uint64_t)epoch, (uint64_t)i);
            int64_t k = (int64_t)(u * (double)(i + 1));
            int32_t swap = order->index[i];
            order->index[i] = order->index[k];
            order->index[k] = swap;
        }
        order->epoch = epoch;
    }
    *out = &d->item[order->index[at % d->n]];
    return TY_OK;
}

void dataset_close(dataset *d) {
    for (int64_t i = 0; i < d->n; i++) sample_clear(&d->item[i]);
    free(d->item);
    memset(d, 0, sizeof *d);
}
