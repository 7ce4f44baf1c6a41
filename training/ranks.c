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

void ranks_reduce(param_set *s, int64_t first, int64_t last) {
    for (; first < last; first += PIECE) {
        int n = (int)(last - first < PIECE ? last - first : PIECE);
        if (n_pending == MOST) ranks_reduced();
        MPI_Iallreduce(MPI_IN_PLACE, s->grads + first, n, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD,
                       &pending[n_pending++]);
    }
}

/* Shares are all as long as rank 0's, but the last ones. */
void ranks_share_values(param_set *s) {
    int size = ranks_size();
    int64_t share = (s->n_value / 16 + size - 1) / size * 16;
    for (int r = 0; r < size; r++)
        for (int64_t at = r * share; at < (r + 1) * share && at < s->n_value; at += PIECE) {
            int64_t end = (r + 1) * share < s->n_value ? (r + 1) * share : s->n_value;
            int n = (int)(end - at < PIECE ? end - at : PIECE);
            MPI_Bcast(s->values + at, n, MPI_FLOAT, r, MPI_COMM_WORLD);
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
