/*
 * toy_worker.h - a stage for the tests of the wire: it adds 1 to every float, or streams numbers (behind the forced ones).
 *
 * A test program runs itself again as a worker process (test_toy_spawn); its main begins with
 *     if (test_toy_is_asked(argc, argv)) return test_toy_main(argc, argv);
 *
 * Element 0 of a task's first tensor makes it misbehave:
 *     666  the process kills itself        500  the job fails with EIMAGE
 *     404  the job is left without answer
 */
#ifndef TY_TEST_TOY_WORKER_H
#define TY_TEST_TOY_WORKER_H

#include <stdbool.h>
#include <sys/types.h>

/* A stream kills its process only when so many others are there. */
enum { TOY_POISON_CROWD = 4 };

typedef struct {
    const char *worker, *stage, *connect; /* "a.0" "a" */
    const char *model;                    /* NULL = "model-<stage>" */
    const char *takes, *gives;            /* tensor names */
    int takes_cols, gives_cols;           /* shape [any, cols]; 0 = 4 */
    int batch_limit, credits;             /* 0 = 4, 8 */
    int delay_ms;                         /* of a batch, or of a streaming step */
    int tokens;                           /* > 0: a streaming stage that gives so many */
    int drain_ms;
    int at_once;         /* streams that move in one step, the others wait; 0 = all */
    const char *adapter; /* identity of one that it has; NULL = none */
} test_toy;

bool test_toy_is_asked(int argc, char **argv);
int test_toy_main(int argc, char **argv);
/* Starts it as a process of its own; log_path: where it writes. */
pid_t test_toy_spawn(const test_toy *t, const char *log_path);

#endif
