/*
 * dataset.h - a file of training records: read and tokenised at once, ordered by a seed, pictures
 * loaded when their turn comes.
 */
#ifndef TRAIN_DATASET_H
#define TRAIN_DATASET_H

#include "training/sample.h"

typedef struct {
    sample *item;
    int64_t n;
    int64_t n_read, n_bad, n_empty; /* records read; unusable ones; ones with nothing to learn */
    char first_bad[512];            /* what was wrong with the first of them */
    char folder[4096];              /* relative paths of pictures start here */
} dataset;

/* JSONL or one JSON array, told apart by the first character.  folder NULL: the file's own.  Records that
 * cannot be used, or that have nothing to learn, are counted and left out.
 * Fails: TY_ENOTFOUND, TY_EFORMAT (no JSON; no record that can be used). */
ty_status dataset_open(dataset *d, const char *path, const char *folder, const sample_rules *rules,
                       ty_err *err);
/* The sample at place `at` of the endless order: epoch at / n, permuted by (seed, epoch).  order holds the
 * permutation of one epoch and is the caller's: one for each thread. */
typedef struct {
    int64_t epoch; /* -1: none yet */
    int32_t *index;
} dataset_order;
ty_status dataset_at(const dataset *d, uint64_t seed, int64_t at, dataset_order *order,
                     const sample **out, ty_err *err);
void dataset_close(dataset *d);

#endif
