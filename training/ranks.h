/*
 * ranks.h - data parallelism: the same program on several ranks, each with its share of every batch.
 *
 * Built with MPI (`make training`) ranks are MPI's; without it there is one.  Gradients are added up over
 * ranks piece by piece while the backward goes on, each element on the rank that updates it alone; a rank
 * then updates its own share of the parameters (param_set.first..last: ZeRO stage 1), and the shares are put
 * together again.
 */
#ifndef TRAIN_RANKS_H
#define TRAIN_RANKS_H

#include "common/base/err.h"
#include "training/param.h"

#include <stdbool.h>
#include <stdint.h>

/* Call first and last in main. */
ty_status ranks_open(int *argc, char ***argv, ty_err *err);
/* failed: this rank ends with an error; the others are ended too, for they would wait for it for ever. */
void ranks_close(bool failed);
int ranks_rank(void);
int ranks_size(void);

/* Adds up, or takes the largest of, n numbers over all ranks. */
void ranks_sum(double *x, int n);
void ranks_max(double *x, int n);
void ranks_barrier(void);

/* Starts adding up elements [first, last) of the gradients, each into its owner's; from then on the caller
 * leaves them alone.  Afterwards a rank's gradients outside its share mean nothing. */
void ranks_reduce(param_set *s, int64_t first, int64_t last);
/* Waits for all that was started. */
void ranks_reduced(void);
/* Every rank's share of the values to every rank. */
void ranks_share_values(param_set *s);

#endif
