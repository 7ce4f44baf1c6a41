/* ranks.c - see ranks.h.  TYTO_MPI is set by `make training`. */
#include "training/ranks.h"

#ifdef TYTO_MPI

#include <mpi.h>

/* Pieces under way; a backward starts a few dozen. */
enum { MOST = 4096, PIECE = 1 << 28 };
static MPI_Request pending[MOST];
static int n_pending;

ty_status ranks_open(int *argc, char ***argv, ty_err *err) {
    int given;
    if (MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &given) == MPI_SUCCESS) return TY_OK;
    return ty_fail(err, TY_EUNAVAILABLE, "MPI could not be started");
}
void ranks_close(bool failed) {
    if (failed && ranks_size() > 1) MPI_Abort(MPI_COMM_WORLD, 1);
    MPI_Finalize();
}
int ranks_rank(void) {
    int rank = 0;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    return rank;
}
int ranks_size(void) {
    int size = 1;
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    return size;
}
void ranks_sum(double *x, int n) {
    MPI_Allreduce(MPI_IN_PLACE, x, n, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
}
void ranks_max(double *x, int n) {
    MPI_Allreduce(MPI_IN_PLACE, x, n, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
}
void ranks_barrier(void) {
    MPI_Barrier(MPI_COMM_WORLD);
}

void ranks_reduced(void) {
    MPI_Waitall(n_pending, pending, MPI_STATUSES_IGNORE);
    n_pending = 0;
}

/* Where a run of elements [at, last) that one rank owns ends, in a piece that MPI can count. */
static int64_t owned_until(const param_set *s, int64_t at, int64_t last, int *owner) {
    int64_t share = param_share(s, ranks_size());
    *owner = (int)(at / share);
    int64_t end = (*owner + 1) * share < last ? (*owner + 1) * share : last;
    return end - at < PIECE ? end : at + PIECE;
}

/* A reduce-scatter over uneven runs: each run goes to its owner alone. */
void ranks_reduce(param_set *s, int64_t first, int64_t last) {
    int owner;
    for (int64_t at = first, end; at < last; at = end) {
        end = owned_until(s, at, last, &owner);
        float *x = s->grads + at;
        bool mine = owner == ranks_rank();
        if (n_pending == MOST) ranks_reduced();
        MPI_Ireduce(mine ? MPI_IN_PLACE : x, mine ? x : NULL, (int)(end - at), MPI_FLOAT, MPI_SUM,
                    owner, MPI_COMM_WORLD, &pending[n_pending++]);
    }
}

void ranks_share_values(param_set *s) {
    int owner;
    for (int64_t at = 0, end; at < s->n_value; at = end) {
        end = owned_until(s, at, s->n_value, &owner);
        MPI_Bcast(s->values + at, (int)(end - at), MPI_FLOAT, owner, MPI_COMM_WORLD);
    }
}

#else

ty_status ranks_open(int *argc, char ***argv, ty_err *err) {
    (void)argc, (void)argv, (void)err;
    return TY_OK;
}
void ranks_close(bool failed) {
    (void)failed;
}
int ranks_rank(void) {
    return 0;
}
int ranks_size(void) {
    return 1;
}
void ranks_sum(double *x, int n) {
    (void)x, (void)n;
}
void ranks_max(double *x, int n) {
    (void)x, (void)n;
}
void ranks_barrier(void) {}
void ranks_reduce(param_set *s, int64_t first, int64_t last) {
    (void)s, (void)first, (void)last;
}
void ranks_reduced(void) {}
void ranks_share_values(param_set *s) {
    (void)s;
}

#endif
